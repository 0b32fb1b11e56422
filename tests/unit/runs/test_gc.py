"""Making room: what a kept run points to stays, whoever made it."""

import datetime
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import branching_pipeline
import pytest
from branching_pipeline import branching

from birdsong.errors import DataError
from birdsong.runs import engine, gc, graph, processes, record, rerun, reuse
from birdsong.runs.record import Run, State


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: the second reuses begin and right of the first, the third shares nothing."""
    runs = tmp_path_factory.mktemp("made") / "runs"
    for values in ({}, {"times": 3}, {"text": "other"}):
        run = engine.execute(branching, values, runs, cache=True)
        assert run.state == State.SUCCEEDED
        # Ids are by the second; three quick runs must have an order.
        rename(run, f"2026010{len(list(runs.glob('*/run.json')))}-000000-aaaa")
    return runs


def rename(run: Run, name: str) -> None:
    runs = run.folder.parent
    run.folder.rename(runs / name)
    for place in runs.glob(f"*/{record.RECORD}"):
        place.write_text(place.read_text().replace(run.id, name))


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    target = tmp_path / "runs"
    shutil.copytree(made, target, symlinks=True)
    for place in target.glob(f"*/{record.RECORD}"):
        place.write_text(place.read_text().replace(str(made), str(target)))
    return target


FIRST, SECOND, THIRD = (f"2026010{n}-000000-aaaa" for n in (1, 2, 3))


def collect(runs: Path, **rest: Any) -> gc.Plan:
    options = {"keep": 10, "older_than_days": None} | rest
    plan = gc.make(runs, **options)
    return gc.remove(plan, runs, **options)


def usable(runs: Path, name: str) -> bool:
    run = record.find(runs, name)
    return all(reuse.damage(step.outputs) is None for step in run.steps.values())


def edit(runs: Path, name: str, **changes: Any) -> None:
    place = runs / name / record.RECORD
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))


def test_the_fixture_is_what_it_says(runs: Path) -> None:
    second = record.find(runs, SECOND)
    assert {s.name for s in second.steps.values() if s.state == State.REUSED} == {"begin", "right"}
    assert all(usable(runs, name) for name in (FIRST, SECOND, THIRD))


def test_nothing_goes_while_there_are_few_runs(runs: Path) -> None:
    assert gc.make(runs).removals == []


def test_outputs_that_a_kept_run_reuses_stay_where_they_are(runs: Path) -> None:
    done = collect(runs, keep=2)
    assert [removal.run.id for removal in done.removals] == [FIRST]
    assert done.removals[0].needed_by == [SECOND]
    assert usable(runs, SECOND)
    assert usable(runs, THIRD)
    left = sorted(place.name for place in (runs / FIRST / "artifacts").iterdir())
    assert left == ["begin", "right"]
    # What is left is still reused; what went is made again.
    again = engine.execute(branching, {}, runs, cache=True)
    executed = {step.name for step in again.steps.values() if step.state == State.SUCCEEDED}
    assert executed == {"left", "join"}


def test_a_second_gc_finds_nothing_more(runs: Path) -> None:
    collect(runs, keep=2)
    assert gc.make(runs, keep=2).removals == []


def test_a_run_that_nobody_needs_goes_as_a_whole(runs: Path) -> None:
    done = collect(runs, keep=1)
    assert {removal.run.id for removal in done.removals} == {FIRST, SECOND}
    assert [run.id for run in record.list_runs(runs)] == [THIRD]
    assert not (runs / FIRST).exists()
    assert not (runs / gc.TRASH).exists()
    assert usable(runs, THIRD)


def test_only_runs_that_are_old_enough_go(runs: Path) -> None:
    edit(runs, FIRST, ended="2020-01-01T00:00:00.000+00:00")
    plan = gc.make(runs, keep=0, older_than_days=30)
    assert [removal.run.id for removal in plan.removals] == [FIRST]
    assert plan.removals[0].needed_by == [SECOND]


def test_a_running_run_and_the_one_it_goes_on_from_stay(runs: Path) -> None:
    own = processes.current()
    edit(
        runs,
        SECOND,
        state="RUNNING",
        pid=own.pid,
        process_started=own.started,
        host=own.host,
        parent=THIRD,
    )
    plan = gc.make(runs, keep=0)
    assert set(plan.kept) == {SECOND, THIRD}
    assert [removal.run.id for removal in plan.removals] == [FIRST]
    assert len(plan.removals[0].places) == 2


def test_a_run_that_runs_on_another_machine_stays(runs: Path) -> None:
    edit(runs, FIRST, state="RUNNING", host="elsewhere")
    assert gc.make(runs, keep=0).kept == {FIRST: "is running"}


def test_the_run_of_a_version_with_an_alias_stays(runs: Path) -> None:
    place = runs / FIRST / "artifacts" / "version"
    place.mkdir()
    (place / "version.json").write_text(json.dumps({"name": "birdsong", "version": "7"}))
    step = {
        "name": "register",
        "state": "SUCCEEDED",
        "outputs": {
            "version": {
                "type": "system.Artifact",
                "uri": str(place),
                "path": str(place),
                "metadata": {},
            }
        },
    }
    steps = json.loads((runs / FIRST / record.RECORD).read_text())["steps"]
    edit(runs, FIRST, steps=[*steps, step])
    assert FIRST not in gc.make(runs, keep=0).kept
    (runs / "registry").mkdir()
    with sqlite3.connect(runs / "registry" / "mlflow.db") as database:
        database.execute("CREATE TABLE registered_model_aliases (alias, version, name)")
        database.execute("INSERT INTO registered_model_aliases VALUES ('champion', 7, 'birdsong')")
    database.close()
    assert gc.make(runs, keep=0).kept == {FIRST: "registered under an alias"}


def test_an_unreadable_record_stops_it_before_anything_goes(runs: Path) -> None:
    (runs / SECOND / record.RECORD).write_text("{")
    with pytest.raises(DataError, match="Nothing is removed"):
        gc.make(runs, keep=0)


def test_what_a_new_run_took_after_the_plan_was_shown_stays(runs: Path) -> None:
    plan = gc.make(runs, keep=1)
    new = engine.execute(branching, {}, runs, cache=True)
    assert {step.state for step in new.steps.values()} == {State.REUSED}
    # The new run is now the newest one; all of the first is needed by it.
    gc.remove(plan, runs, keep=1, older_than_days=None)
    assert usable(runs, new.id)


def test_a_gc_that_was_killed_is_finished_by_the_next(runs: Path) -> None:
    left = runs / gc.TRASH / FIRST
    shutil.copytree(runs / FIRST, left)
    assert FIRST in {run.id for run in record.list_runs(runs)}
    assert len(record.list_runs(runs)) == 3
    collect(runs, keep=1)
    assert not (runs / gc.TRASH).exists()


def test_the_text_says_what_and_how_much(runs: Path) -> None:
    text = gc.as_text(gc.make(runs, keep=2))
    assert FIRST in text
    assert f"the rest is needed by {SECOND}" in text
    assert "to remove: 1 runs, 0 leftovers, " in text
    assert gc.as_text(gc.make(runs)).endswith("Nothing to remove.")


def test_gc_beside_runs_that_take_from_each_other_breaks_none(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    engine.execute(branching, {}, runs)
    program = [sys.executable, str(Path(branching_pipeline.__file__)), "run-cached", str(runs)]
    for number in range(2):
        with subprocess.Popen(
            [*program, json.dumps({"how": f"well {number}", "pause": 0.0})],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            while child.poll() is None:
                collect(runs, keep=1)
            out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        assert usable(runs, out.strip())


def test_a_run_after_rerun_only_keeps_its_inputs(runs: Path) -> None:
    ir = graph.as_ir(branching)
    plan = rerun.only(record.find(runs, FIRST), ir, "left")
    new = engine.execute(
        branching, plan.values, runs, pinned=plan.pinned, only=plan.only, parent=FIRST
    )
    collect(runs, keep=1)
    assert usable(runs, new.id)
    assert rerun.only(record.find(runs, new.id), ir, "left").runs == ["left"]


def written_hours_ago(place: Path, hours: float) -> Path:
    """A file, made with all folders around it, that was last written some hours ago."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"x" * 10_000)
    moment = time.time() - hours * 3600
    os.utime(place, (moment, moment))
    os.utime(place.parent, (moment, moment))
    return place


def test_what_killed_processes_and_the_page_left_goes_when_it_is_old_enough(runs: Path) -> None:
    old = [
        written_hours_ago(runs / ".page/20260101-000000-aaaa.log", 2),
        written_hours_ago(runs / ".checkpoints/abcd/checkpoint-0.npz", 2).parent,
        written_hours_ago(runs / THIRD / "artifacts/begin/.out.1234.writing/part", 2).parent,
        written_hours_ago(runs / THIRD / ".run.json.1234.writing", 2),
        written_hours_ago(runs / THIRD / "workspace/file", 2).parent,
        written_hours_ago(runs / "20250101-000000-abcd/pipeline.json", 2).parent,
    ]
    young = [
        written_hours_ago(runs / ".page/20260101-000001-aaaa.log", 0.5),
        written_hours_ago(runs / ".checkpoints/bcde/checkpoint-0.npz", 0.5).parent,
        written_hours_ago(runs / "20250101-000001-abcd/pipeline.json", 0.5).parent,
    ]
    mine = [
        written_hours_ago(runs / "notes/20250101.txt", 2),
        written_hours_ago(runs / "20250101-000002-abcd/my own notes.txt", 2),
        written_hours_ago(runs / "registry/mlflow.db.backup", 2),
    ]
    plan = gc.make(runs)
    assert {leftover.place for leftover in plan.leftovers} == set(old)
    assert "6 leftovers" in gc.as_text(plan)
    assert plan.bytes >= 60_000
    gc.remove(plan, runs, keep=10, older_than_days=None)
    assert not any(place.exists() for place in old)
    assert all(place.exists() for place in [*young, *mine])
    assert all(usable(runs, name) for name in (FIRST, SECOND, THIRD))
    assert gc.make(runs).empty


def test_a_run_that_writes_its_first_record_in_the_moment_of_the_look_stays(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = written_hours_ago(runs / "20250101-000000-abcd/.pipeline.json.1234.writing", 2)
    listed = Path.rglob

    def renamed_after(self: Path, pattern: str) -> list[Path]:
        found = list(listed(self, pattern))
        if new in found:
            new.rename(new.with_name("pipeline.json"))
        return found

    monkeypatch.setattr(Path, "rglob", renamed_after)
    assert gc.make(runs).leftovers == []
    assert new.with_name("pipeline.json").exists()


def test_checkpoints_of_an_unfinished_run_stay_until_the_run_goes(runs: Path) -> None:
    place = written_hours_ago(runs / ".checkpoints/abcd/checkpoint-0.npz", 2).parent
    now = datetime.datetime.now(datetime.UTC)
    hours = [(now - datetime.timedelta(hours=n)).isoformat() for n in (3, 1)]
    edit(runs, FIRST, state="FAILED", started=hours[0], ended=hours[1])
    assert place not in {leftover.place for leftover in gc.make(runs).leftovers}
    assert place in {leftover.place for leftover in gc.make(runs, keep=2).leftovers}


def test_nothing_of_a_run_at_work_is_taken_for_a_leftover(runs: Path) -> None:
    written_hours_ago(runs / ".checkpoints/abcd/checkpoint-0.npz", 2)
    written_hours_ago(runs / FIRST / "artifacts/begin/.out.1234.writing/part", 2)
    written_hours_ago(runs / FIRST / "workspace/file", 2)
    own = processes.current()
    edit(runs, FIRST, state="RUNNING", pid=own.pid, process_started=own.started, host=own.host)
    assert gc.make(runs).leftovers == []
