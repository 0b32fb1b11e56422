"""Records: written whole, read at once, and honest about runs whose process is gone."""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from birdsong.errors import ConfigError, DataError
from birdsong.runs import processes, record
from birdsong.runs.record import State, Step
from birdsong.runs.recorder import Recorder

IR = {"pipelineInfo": {"name": "p"}, "root": {}}


def new(runs: Path, *steps: str) -> Recorder:
    return Recorder(runs, IR, {"a": 1}, {name: Step(name=name) for name in steps})


def rename(recorder: Recorder, name: str) -> None:
    recorder.run.folder.rename(recorder.run.folder.with_name(name))


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    recorder = new(tmp_path, "one", "two")
    recorder.update("one", state=State.RUNNING, started=record.now(), metrics={"x": 0.5})
    assert record.read(recorder.run.folder) == recorder.run


def test_fields_of_a_later_version_do_not_hinder_reading(tmp_path: Path) -> None:
    recorder = new(tmp_path, "one")
    place = recorder.run.folder / record.RECORD
    document = json.loads(place.read_text())
    document["later"], document["steps"][0]["later"] = 1, 2
    place.write_text(json.dumps(document))
    assert record.read(recorder.run.folder) == recorder.run


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema_version": 1}', '{"schema_version": 9}']
)
def test_a_broken_record_is_one_clear_error_and_does_not_hide_the_others(
    tmp_path: Path, text: str
) -> None:
    good, bad = new(tmp_path), new(tmp_path)
    (bad.run.folder / record.RECORD).write_text(text)
    with pytest.raises(DataError, match=r"run\.json"):
        record.read(bad.run.folder)
    assert [run.id for run in record.list_runs(tmp_path)] == [good.run.id]


def test_finishing_closes_open_and_pending_steps(tmp_path: Path) -> None:
    recorder = new(tmp_path, "done", "open", "never")
    recorder.update("done", state=State.SUCCEEDED)
    recorder.update("open", state=State.RUNNING, started=record.now())
    recorder.finish(State.CANCELLED, "why")
    run = record.read(recorder.run.folder)
    states = [step.state for step in run.steps.values()]
    assert states == [State.SUCCEEDED, State.CANCELLED, State.SKIPPED]
    assert (run.state, run.error) == (State.CANCELLED, "why")
    assert run.seconds is not None


def test_a_run_of_a_process_that_is_gone_has_died(tmp_path: Path) -> None:
    recorder = new(tmp_path, "one")
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    recorder.run.pid, recorder.run.process_started = gone.pid, processes.started(gone.pid)
    gone.wait()
    recorder.save()
    assert record.read(recorder.run.folder).state == State.DIED


def test_a_later_process_of_the_same_id_does_not_keep_a_run_alive(tmp_path: Path) -> None:
    recorder = new(tmp_path, "one")
    recorder.run.pid, recorder.run.process_started = os.getpid(), "another boot:1"
    recorder.save()
    assert record.read(recorder.run.folder).state == State.DIED


def test_a_zombie_does_not_live() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    start = processes.started(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.lives(child.pid, start)
    child.wait()


def test_a_running_run_of_another_machine_is_left_as_it_says(tmp_path: Path) -> None:
    recorder = new(tmp_path, "one")
    recorder.run.host, recorder.run.pid = "elsewhere", 1
    recorder.save()
    assert record.read(recorder.run.folder).state == State.RUNNING


def test_runs_are_found_by_id_by_a_start_and_as_the_latest(tmp_path: Path) -> None:
    for name in ("20260101-000000-aaaa", "20260101-000000-aabb", "20260102-000000-cccc"):
        rename(new(tmp_path), name)
    assert record.find(tmp_path, "20260101-000000-aaaa").folder.name == "20260101-000000-aaaa"
    assert record.find(tmp_path, "20260102").folder.name == "20260102-000000-cccc"
    assert record.find(tmp_path, "latest").folder.name == "20260102-000000-cccc"
    with pytest.raises(ConfigError, match="fits 2 runs"):
        record.find(tmp_path, "20260101")
    with pytest.raises(ConfigError, match=r"No run 'x'.*20260102-000000-cccc"):
        record.find(tmp_path, "x")
    with pytest.raises(ConfigError, match="no runs"):
        record.find(tmp_path / "none", "latest")


def test_runs_of_the_same_second_get_names_in_the_order_of_their_starts(tmp_path: Path) -> None:
    names = [new(tmp_path).run.id for _ in range(40)]
    assert names == sorted(set(names))
    assert all(record.ID.fullmatch(name) for name in names)
    assert record.find(tmp_path, "latest").id == names[-1]


def test_a_clock_that_was_set_back_an_hour_does_not_change_the_order(tmp_path: Path) -> None:
    ahead = datetime.datetime.now() + datetime.timedelta(hours=1)
    first = new(tmp_path)
    rename(first, ahead.strftime("%Y%m%d-%H%M%S-ffff"))
    second = new(tmp_path).run.id
    assert second[:15] == (ahead + datetime.timedelta(seconds=1)).strftime("%Y%m%d-%H%M%S")
    assert record.find(tmp_path, "latest").id == second


@pytest.mark.parametrize("name", ["20990101-000000-abcd", "99999999-999999-abcd"])
def test_a_name_far_in_the_future_is_not_taken_on(tmp_path: Path, name: str) -> None:
    rename(new(tmp_path), name)
    today = datetime.datetime.now() - datetime.timedelta(seconds=2)
    assert "2098" > new(tmp_path).run.id[:15] >= today.strftime("%Y%m%d-%H%M%S")


def test_not_a_number_never_gets_into_a_record(tmp_path: Path) -> None:
    recorder = new(tmp_path, "one")
    with pytest.raises(ValueError, match="Out of range"):
        recorder.update("one", metrics={"x": float("nan")})
    assert record.read(recorder.run.folder).steps["one"].metrics == {}
