"""Full and read-only disks, clocks that jump, folders that move, odd names: nothing is lost."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from branching_pipeline import branching, contents
from small_pipelines import chain

from birdsong.errors import BirdsongError, ConfigError, DataError, StorageError
from birdsong.runs import engine, gc, graph, processes, record, rerun
from birdsong.runs.record import Run, State
from birdsong.runs.recorder import Recorder
from birdsong.runs_page import actions
from birdsong.runs_page.store import Store

IR = graph.as_ir(branching)


def resumed(runs: Path, name: str) -> Run:
    plan = rerun.resume(record.find(runs, name), IR)
    return engine.execute(branching, plan.values, runs, pinned=plan.pinned, parent=plan.parent.id)


def states(run: Run) -> dict[str, str]:
    return {step.name: str(step.state) for step in run.steps.values()}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a file system here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_up_loses_no_run_and_resume_goes_on_when_there_is_room(
    small_disk: Path,
) -> None:
    runs = small_disk / "runs"
    whole = contents(engine.execute(branching, {}, runs))
    shutil.rmtree(runs)
    said: list[str] = []
    # With a little less room each time, until not even a folder can be made.
    for room in (90_000, 55_000, 40_000, 20_000, 0):
        runs.mkdir(exist_ok=True)
        ballast = small_disk / "ballast"
        free = shutil.disk_usage(small_disk).free
        ballast.write_bytes(b"x" * max(free - room, 0))
        try:
            run = engine.execute(branching, {}, runs)
            assert run.state in (State.SUCCEEDED, State.FAILED)
        except StorageError as error:
            said.append(str(error))
        ballast.unlink()
        for found in record.list_runs(runs):
            # This very process made it and lives: as a reader of another process sees it.
            if found.state == State.RUNNING:
                record.bury(found)
            if found.state != State.SUCCEEDED:
                plan = rerun.resume(found, IR)
                run = engine.execute(branching, plan.values, runs, pinned=plan.pinned)
                assert run.state == State.SUCCEEDED, run.error
                assert contents(run) == whole
        shutil.rmtree(runs)
    assert len(said) > 1
    assert all("No space left" in text for text in said)


def test_a_disk_that_cannot_be_written_is_told_and_can_still_be_read(small_disk: Path) -> None:
    runs = small_disk / "runs"
    before = engine.execute(branching, {}, runs)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError, match="cannot be written"):
        engine.execute(branching, {}, runs)
    assert record.find(runs, "latest").state == State.SUCCEEDED
    store = Store(runs)
    assert [one["state"] for one in store.summaries()] == ["SUCCEEDED"]
    assert store.detail(before.id)["graph"]["artifacts"]
    with pytest.raises(StorageError, match="nothing was started"):
        actions.start(["true"], runs)
    with pytest.raises(StorageError, match="cannot be opened"):
        gc.remove(gc.make(runs, keep=0), runs, keep=0, older_than_days=None)


def test_a_runs_folder_that_was_moved_goes_on_where_it_is(tmp_path: Path) -> None:
    first = engine.execute(branching, {"how": "fail"}, tmp_path / "here")
    assert first.state == State.FAILED
    (tmp_path / "there").mkdir()
    (tmp_path / "here").rename(tmp_path / "there/runs")
    run = record.find(tmp_path / "there/runs", first.id)
    assert Path(str(run.steps["begin"].log)).is_file()
    plan = rerun.resume(run, IR)
    assert plan.runs == ["join"]
    again = rerun.rerun(run, IR, settings=["how=well"])
    done = engine.execute(branching, again.values, tmp_path / "there/runs", pinned=again.pinned)
    assert done.state == State.SUCCEEDED
    assert states(done) == dict.fromkeys(("begin", "left", "right"), "REUSED") | {
        "join": "SUCCEEDED"
    }
    assert not (tmp_path / "here").exists()


def test_one_run_that_was_copied_to_another_runs_folder_stands_on_its_own(tmp_path: Path) -> None:
    first = engine.execute(branching, {}, tmp_path / "here")
    shutil.copytree(first.folder, tmp_path / "there" / first.id)
    shutil.rmtree(tmp_path / "here")
    plan = rerun.only(record.find(tmp_path / "there", first.id), IR, "join")
    run = engine.execute(
        branching, plan.values, tmp_path / "there", pinned=plan.pinned, only=plan.only
    )
    assert run.state == State.SUCCEEDED
    assert contents(run)["join.out"] == contents(first)["join.out"]


def edit(run: Run, **changes: Any) -> None:
    place = run.folder / record.RECORD
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))


def at_work(run: Run, host: str | None = None) -> None:
    own = processes.current()
    edit(
        run,
        state="RUNNING",
        pid=own.pid,
        process_started=own.started,
        host=host or own.host,
        ended=None,
    )


def test_a_copy_of_a_run_at_work_is_not_at_work(tmp_path: Path) -> None:
    run = engine.execute(branching, {}, tmp_path / "here")
    at_work(run)
    shutil.copytree(tmp_path / "here", tmp_path / "copy")
    assert record.find(tmp_path / "here", run.id).state == State.RUNNING
    assert record.find(tmp_path / "copy", run.id).state == State.DIED


def test_a_run_at_work_on_another_machine_waits_for_a_word_that_the_machine_is_gone(
    tmp_path: Path,
) -> None:
    run = engine.execute(branching, {}, tmp_path)
    at_work(run, host="elsewhere")
    seen = record.find(tmp_path, run.id)
    with pytest.raises(ConfigError, match=r"at work on elsewhere.*--machine-is-gone"):
        rerun.resume(seen, IR)
    assert record.is_elsewhere(seen)
    record.bury(seen)
    assert rerun.resume(seen, IR).parent.state == State.DIED


def test_a_run_at_work_here_is_not_resumed(tmp_path: Path) -> None:
    run = engine.execute(branching, {}, tmp_path)
    at_work(run)
    with pytest.raises(ConfigError, match=f"end it with: stop {run.id}"):
        rerun.resume(record.find(tmp_path, run.id), IR)


def test_a_run_whose_outputs_were_removed_is_run_again_where_they_are_needed(
    tmp_path: Path,
) -> None:
    run = engine.execute(branching, {}, tmp_path)
    shutil.rmtree(run.folder / "artifacts")
    plan = rerun.rerun(run, IR, from_step="join")
    assert plan.runs == ["begin", "left", "right", "join"]
    assert "is gone" in rerun.as_text(plan)
    done = engine.execute(branching, plan.values, tmp_path, pinned=plan.pinned)
    assert contents(done) == contents(run)
    with pytest.raises(DataError, match=r"is gone.*Make it anew"):
        rerun.only(run, IR, "join")


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_clock_that_is_set_while_a_step_works_does_not_change_its_seconds(
    tmp_path: Path, jump: int
) -> None:
    ir = {"pipelineInfo": {"name": "p"}, "root": {}}
    recorder = Recorder(tmp_path, ir, {}, {})
    recorder.update("one", state=State.RUNNING, started=record.now())
    time.sleep(0.05)
    later = record.datetime.datetime.now(record.datetime.UTC)
    ended = (later + record.datetime.timedelta(seconds=jump)).isoformat(timespec="milliseconds")
    step = recorder.update("one", state=State.SUCCEEDED, ended=ended)
    assert 0.05 <= (step.seconds or 0) < 10


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", '{"schema_version": 1}', '{"schema_version": 99, "steps": []}']
)
def test_a_damaged_or_foreign_record_is_told_and_leaves_the_others_usable(
    tmp_path: Path, text: str
) -> None:
    good = engine.execute(chain, {}, tmp_path)
    bad = tmp_path / "20990101-000000-abcd"
    bad.mkdir()
    (bad / record.RECORD).write_text(text)
    with pytest.raises(BirdsongError, match=r"cannot be read|another version"):
        record.find(tmp_path, "latest")
    assert [run.id for run in record.list_runs(tmp_path)] == [good.id]
    assert [one["state"] for one in Store(tmp_path).summaries()] == ["UNREADABLE", "SUCCEEDED"]
    again = engine.execute(chain, {}, tmp_path, cache=True)
    assert {str(step.state) for step in again.steps.values()} == {"REUSED"}


def test_inputs_that_are_too_long_for_a_command_line_fail_their_step_in_clear_words(
    tmp_path: Path,
) -> None:
    run = engine.execute(chain, {"text": "a" * 200_000}, tmp_path)
    assert run.state == State.FAILED
    assert "too long for a command line" in str(run.error)


@pytest.mark.parametrize("name", ["a folder", "ünï'code", 'quo"te', "{{x}} $HOME %s", "-dash"])
def test_a_runs_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    run = engine.execute(branching, {}, tmp_path / name)
    assert run.state == State.SUCCEEDED, run.error
    assert resumed(tmp_path / name, run.id).state == State.SUCCEEDED


def test_a_runs_folder_may_be_a_link_and_the_working_folder_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    run = engine.execute(branching, {}, "link")
    monkeypatch.chdir(os.sep)
    assert resumed(tmp_path / "real", run.id).state == State.SUCCEEDED
    assert states(resumed(tmp_path / "link", run.id)) == dict.fromkeys(run.steps, "REUSED")
