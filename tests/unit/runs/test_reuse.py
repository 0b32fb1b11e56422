"""Steps of earlier runs that stand for a step: only with the same key, and only whole."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import branching_pipeline
import pytest
from branching_pipeline import branching, contents

from birdsong import image_code
from birdsong.runs import code, engine, graph, outside, record, rerun, reuse
from birdsong.runs.record import Run, State

IR = graph.as_ir(branching)
ALL = {"begin", "left", "right", "join"}


def run(runs: Path, **arguments: Any) -> Run:
    done = engine.execute(branching, arguments, runs, cache=True)
    assert done.state == State.SUCCEEDED, done.error
    return done


def executed(done: Run) -> set[str]:
    return {step.name for step in done.steps.values() if step.state == State.SUCCEEDED}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run that the tests of this file share; copies of its folder are damaged."""
    return run(tmp_path_factory.mktemp("before") / "runs")


@pytest.fixture
def runs(before: Run, tmp_path: Path) -> Path:
    """A runs folder of its own with that run in it, its record telling the new place."""
    target = tmp_path / "runs"
    shutil.copytree(before.folder.parent, target, symlinks=True)
    place = target / before.id / record.RECORD
    place.write_text(place.read_text().replace(str(before.folder.parent), str(target)))
    return target


def test_the_second_run_of_the_same_executes_nothing(before: Run, runs: Path) -> None:
    again = run(runs)
    assert {step.state for step in again.steps.values()} == {State.REUSED}
    assert {step.reused_from for step in again.steps.values()} == {before.id}
    assert contents(again) == contents(before)
    assert again.steps["join"].metrics == before.steps["join"].metrics
    assert (again.folder / "pages" / "left.page.html").read_text() == "<p>2</p>"
    assert again.steps["right"].outputs["curves"]["metadata"]


def test_a_reused_step_of_a_reused_step_names_the_run_that_executed_it(
    before: Run, runs: Path
) -> None:
    run(runs)
    again = run(runs)
    assert {step.reused_from for step in again.steps.values()} == {before.id}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"text": "other"}, ALL),
        ({"times": 3}, {"left", "join"}),
        ({"ending": "?"}, {"right", "join"}),
        ({"how": "also well"}, {"join"}),
    ],
)
def test_a_changed_parameter_executes_only_what_it_touches(
    runs: Path, changed: dict[str, Any], expected: set[str]
) -> None:
    predicted = rerun.forecast(
        IR, graph.with_defaults(IR, changed), reuse.Earlier(runs), code.versions()
    )
    assert {line.step for line in predicted if line.what == rerun.RUNS} == expected
    assert executed(run(runs, **changed)) == expected


def test_a_step_behind_one_that_makes_the_same_again_is_reused(runs: Path) -> None:
    # begin runs again, for its output is gone, and makes the same contents.
    first = record.find(runs, "latest")
    shutil.rmtree(first.steps["begin"].outputs["out"]["path"])
    assert executed(run(runs)) == {"begin"}


def test_without_the_cache_everything_runs(runs: Path) -> None:
    again = engine.execute(branching, {}, runs, cache=False)
    assert executed(again) == ALL


def damage_file(place: Path) -> None:
    state = place.stat()
    data = bytearray(place.read_bytes())
    data[0] ^= 1
    place.write_bytes(data)
    os.utime(place, ns=(state.st_atime_ns, state.st_mtime_ns))  # same size, same times


def cut(place: Path) -> None:
    place.write_bytes(place.read_bytes()[:-1])


def forge_spec(place: Path) -> None:
    document = json.loads(place.read_text())
    document["settings"]["text"] = "other"
    place.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("step", "file", "harm"),
    [
        ("begin", "out/one.txt", damage_file),
        ("begin", "out/two.txt", cut),
        ("begin", "out/one.txt", Path.unlink),
        ("begin", "out/spec.json", Path.unlink),
        ("begin", "out/spec.json", forge_spec),
        ("begin", "out/spec.json", cut),
        ("left", "out/left.txt", damage_file),
        ("left", "page", damage_file),
        ("right", "out", damage_file),
        ("right", "out", Path.unlink),
        ("join", "out/words.txt", cut),
    ],
)
def test_a_damaged_output_is_made_again(
    runs: Path, step: str, file: str, harm: Callable[[Path], None]
) -> None:
    first = record.find(runs, "latest")
    harm(first.folder / "artifacts" / step / file)
    again = run(runs)
    assert executed(again) == {step}
    assert contents(again) == contents(first)


def test_a_changed_component_executes_only_itself(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = reuse.Keys.code

    def changed(self: reuse.Keys, component: str) -> str:
        return original(self, component) + ("x" if component == "comp-right" else "")

    monkeypatch.setattr(reuse.Keys, "code", changed)
    assert executed(run(runs)) == {"right"}


def test_other_packages_execute_everything(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "versions", lambda: {"numpy": "0.1"})
    assert executed(run(runs)) == ALL


def test_code_that_changes_while_a_step_runs_leaves_that_step_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = image_code.fingerprint, []

    def edited(target: str, root: Path = image_code.ROOT) -> str:
        calls.append(target)
        return original(target) + str(len(calls))

    monkeypatch.setattr(image_code, "fingerprint", edited)
    done = run(tmp_path / "runs")
    assert [step.key for step in done.steps.values()] == [None] * 4


def test_a_failed_step_is_not_reused_but_those_before_it_are(tmp_path: Path) -> None:
    for _ in range(2):
        done = engine.execute(branching, {"how": "fail"}, tmp_path, cache=True)
        assert done.steps["join"].state == State.FAILED
    assert {done.steps[name].state for name in ("begin", "left", "right")} == {State.REUSED}


def test_records_that_cannot_be_read_are_passed_over(before: Run, runs: Path) -> None:
    broken = runs / "20990101-000000-ffff"
    broken.mkdir()
    (broken / record.RECORD).write_text("{")
    assert executed(run(runs)) == set()


def test_two_runs_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    program = [sys.executable, str(Path(branching_pipeline.__file__)), "run-cached"]
    children = [
        subprocess.Popen(
            [*program, str(tmp_path / "runs"), json.dumps({"pause": 0.3, "text": "two at once"})],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    ids = []
    for child in children:
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
        ids.append(out.strip())
    done = [record.find(tmp_path / "runs", name) for name in ids]
    assert len(set(ids)) == 3
    for one in done:
        assert contents(one) == contents(done[0])
        for step in one.steps.values():
            if step.state == State.REUSED:
                assert reuse.damage(step.outputs) is None


# --- places outside -------------------------------------------------------------------------------


def test_a_source_folder_is_known_by_names_sizes_and_times(tmp_path: Path) -> None:
    folder = tmp_path / "birds"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "1.ogg").write_bytes(b"x")
    stamps = [outside.state({"source": str(folder)})]
    time.sleep(0.01)
    (folder / "a" / "1.ogg").write_bytes(b"y")
    stamps.append(outside.state({"source": str(folder)}))
    (folder / "a" / "1.ogg").rename(folder / "a" / "2.ogg")
    stamps.append(outside.state({"source": str(folder)}))
    (folder / "b").symlink_to(folder / "a")
    (folder / "c").symlink_to(folder)  # a loop must end
    (folder / "d").symlink_to(tmp_path / "nowhere")
    stamps.append(outside.state({"source": str(folder)}))
    assert stamps[3] == outside.state({"source": str(folder)})
    assert len(set(stamps)) >= 3
    assert None not in stamps


def test_a_zip_is_known_by_size_and_time_and_songs_by_code(tmp_path: Path) -> None:
    place = tmp_path / "b.zip"
    place.write_bytes(b"1")
    first = outside.state({"source": str(place)})
    place.write_bytes(b"12")
    assert first != outside.state({"source": str(place)})
    assert outside.state({"source": "demo:?species=3"}) == ""


@pytest.mark.parametrize("source", ["s3://bucket/x", "gs://bucket/x", "/not/there"])
def test_a_place_that_cannot_be_told_cheaply_gives_no_key(source: str) -> None:
    assert outside.state({"source": source}) is None


def test_weights_are_known_by_their_hash_or_by_their_file(tmp_path: Path) -> None:
    file = tmp_path / "w.h5"
    file.write_bytes(b"1")
    assert outside.state({"weights": "imagenet"}) == ""
    assert outside.state({"weights": "models:/birdsong/1"}) is None
    assert outside.state({"weights": "https://x/y", "weights_sha256": "ab"}) == ""
    first = outside.state({"weights": str(file)})
    file.write_bytes(b"12")
    assert outside.state({"weights": str(file)}) not in (first, None)


def test_whole_numbers_and_fractions_of_the_compiled_form_give_one_key() -> None:
    keys = reuse.Keys(IR, {})
    data = {"data": {"type": "system.Dataset", "uri": "/x", "metadata": {}, "sha256": "1"}}
    assert keys.key("comp-left", {**data, "times": {"value": 2}}) == keys.key(
        "comp-left", {**data, "times": {"value": 2.0}}
    )
    assert keys.key("comp-left", {**data, "times": {"value": 2}}) != keys.key(
        "comp-left", {**data, "times": {"value": 3}}
    )


def test_an_input_without_a_hash_gives_no_key() -> None:
    value = {"type": "system.Dataset", "uri": "s3://x/y", "metadata": {}}
    assert reuse.Keys(IR, {}).key("comp-left", {"data": value, "times": {"value": 2}}) is None
