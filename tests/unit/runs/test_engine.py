"""The engine on small pipelines of its own, each step a real process."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import small_pipelines

from birdsong.errors import ConfigError, StorageError
from birdsong.progress import Update
from birdsong.runs import engine, processes, record, reuse
from birdsong.runs.record import Run, State, Step

PROGRAM = Path(small_pipelines.__file__)


def start(name: str, runs: Path, **arguments: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), name, str(runs), json.dumps(arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_started(folder: Path) -> list[int]:
    deadline = time.monotonic() + 60
    while not (folder / "started").exists():
        assert time.monotonic() < deadline, "the step did not start"
        time.sleep(0.05)
    return [int(number) for number in (folder / "started").read_text().split()]


def alive(pid: int) -> bool:
    return processes.lives(pid, processes.started(pid))


def wait_until_gone(pids: list[int], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, f"still there: {[p for p in pids if alive(p)]}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Run:
    # A value with the text python3 in it: kfp.local on its own would replace it by a path.
    runs = tmp_path_factory.mktemp("runs")
    return engine.execute(small_pipelines.chain, {"text": "a python3.11 'song' {x}"}, runs)


def test_a_run_that_goes_well_is_recorded_from_end_to_end(good: Run) -> None:
    seen = record.read(good.folder)
    assert seen == good
    assert seen.state == State.SUCCEEDED
    assert [step.name for step in seen.steps.values()] == ["make", "read", "last"]
    assert all(step.state == State.SUCCEEDED for step in seen.steps.values())
    assert seen.arguments == {"text": "a python3.11 'song' {x}", "number": 7, "how": "well"}
    made = seen.steps["make"]
    assert made.metrics == {"number": 7.0}
    assert made.exit_code == 0
    assert made.attempts == 1
    assert made.seconds is not None
    assert 0 < made.seconds < 60
    assert Path(made.outputs["out"]["path"]).read_text() == "a python3.11 'song' {x}"
    assert len(made.outputs["out"]["sha256"]) == 64
    assert made.inputs["number"] == {"type": "int", "value": 7}
    assert seen.steps["read"].inputs["data"]["path"] == made.outputs["out"]["path"]
    assert seen.steps["read"].upstream == ["make"]
    assert len(seen.fingerprint) == 64
    assert seen.versions["kfp"].startswith("2.17")


def test_values_with_the_text_python3_arrive_as_they_were_given(good: Run) -> None:
    assert good.steps["last"].outputs["Output"]["value"] == "a python3.11 'song' {x}" * 2


def test_pages_get_a_name_that_browsers_open(good: Run) -> None:
    assert (good.folder / "pages" / "make.page.html").read_text() == "<p>page</p>"


def test_the_compiled_pipeline_lies_beside_the_record(good: Run) -> None:
    ir = json.loads((good.folder / record.PIPELINE).read_text())
    assert ir["pipelineInfo"]["name"] == "chain"


def test_steps_leave_nothing_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    engine.execute(small_pipelines.chain, {}, tmp_path / "runs")
    assert list(scratch.iterdir()) == []


class Heard(engine.Silent):
    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.states: list[tuple[str, State]] = []

    def step_changed(self, run: Run, step: Step) -> None:
        if not self.states or self.states[-1] != (step.name, step.state):
            self.states.append((step.name, step.state))

    def progressed(self, run: Run, step: Step, update: Update) -> None:
        self.updates.append(update)


def test_a_listener_hears_each_step_and_its_progress(tmp_path: Path) -> None:
    heard = Heard()
    engine.execute(small_pipelines.chain, {}, tmp_path, listener=heard)
    assert heard.states == [
        (name, state)
        for name in ("make", "read", "last")
        for state in (State.RUNNING, State.SUCCEEDED)
    ]
    assert heard.updates == [Update("count", done, 4, "things") for done in range(5)]


@pytest.mark.parametrize(
    ("how", "error", "code"),
    [
        ("birdsong", "no birds: neither here\nnor there. Add some.", 1),
        ("other", "KeyError: 'wing'", 1),
        ("exit", "Exit code 3: one last word", 3),
        ("killed", "The process was killed (signal 9), most often because memory ran out.", None),
    ],
)
def test_a_failed_step_says_why_and_stops_what_comes_after(
    tmp_path: Path, how: str, error: str, code: int | None
) -> None:
    run = engine.execute(small_pipelines.chain, {"how": how}, tmp_path)
    assert run.state == State.FAILED
    assert run.error == f"read: {error}"
    states = [step.state for step in run.steps.values()]
    assert states == [State.SUCCEEDED, State.FAILED, State.SKIPPED]
    assert run.steps["read"].error == error
    if code is not None:
        assert run.steps["read"].exit_code == code
    assert Path(str(run.steps["read"].log)).stat().st_size > 0


def test_a_step_that_makes_nothing_fails_by_itself_and_not_the_one_after(tmp_path: Path) -> None:
    run = engine.execute(small_pipelines.forgetting, {}, tmp_path)
    assert run.steps["forget"].state == State.FAILED
    assert run.steps["forget"].error == "The step ended well but made no out."
    assert run.steps["nothing"].state == State.SKIPPED


def test_a_retried_step_counts_its_attempts_and_forgets_its_first_error(tmp_path: Path) -> None:
    run = engine.execute(small_pipelines.stumbling, {"folder": str(tmp_path)}, tmp_path / "runs")
    step = run.steps["stumble"]
    assert (run.state, step.attempts, step.error) == (State.SUCCEEDED, 2, None)


def test_a_branch_that_is_not_taken_is_skipped(tmp_path: Path) -> None:
    run = engine.execute(small_pipelines.choosing, {"text": "b"}, tmp_path)
    assert run.state == State.SUCCEEDED
    assert {name: step.state for name, step in run.steps.items()} == {
        "last": State.SKIPPED,
        "last-2": State.SUCCEEDED,
    }


def test_recorded_outputs_can_stand_in_for_a_step(tmp_path: Path) -> None:
    first = engine.execute(small_pipelines.chain, {"text": "first"}, tmp_path)
    second = engine.execute(
        small_pipelines.chain,
        {"text": "second"},
        tmp_path,
        pinned={"make": reuse.Finished(first.steps["make"].outputs, first.id)},
        parent=first.id,
    )
    assert second.steps["make"].state == State.REUSED
    assert second.steps["make"].metrics == {"number": 7.0}
    assert second.steps["last"].outputs["Output"]["value"] == "firstfirst"
    assert second.parent == first.id


def test_a_step_that_leaves_a_process_behind_does_not_keep_it(tmp_path: Path) -> None:
    run = engine.execute(small_pipelines.leaving, {"folder": str(tmp_path)}, tmp_path / "runs")
    assert run.state == State.SUCCEEDED
    assert not alive(int((tmp_path / "left").read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cancelled_run_is_recorded_and_leaves_nothing_running(
    tmp_path: Path, number: signal.Signals
) -> None:
    child = start("waiting", tmp_path / "runs", folder=str(tmp_path))
    pids = wait_until_started(tmp_path)
    assert all(map(alive, pids))
    child.send_signal(number)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 130, err
    assert not any(map(alive, pids))
    run = record.find(tmp_path / "runs", out.strip())
    assert run.state == State.CANCELLED
    assert run.error == f"cancelled by {number.name}"
    assert [step.state for step in run.steps.values()] == [State.CANCELLED, State.SKIPPED]


def test_a_second_wish_kills_a_step_that_does_not_listen(tmp_path: Path) -> None:
    child = start("waiting", tmp_path / "runs", folder=str(tmp_path), stubborn=True)
    pids = wait_until_started(tmp_path)
    child.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert all(map(alive, pids)), "it ended although it ignores the first wish"
    at = time.monotonic()
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert time.monotonic() - at < 3
    assert child.returncode == 130
    assert not any(map(alive, pids))


def test_a_killed_engine_leaves_no_step_and_no_run_that_seems_to_work(tmp_path: Path) -> None:
    child = start("waiting", tmp_path / "runs", folder=str(tmp_path))
    pids = wait_until_started(tmp_path)
    assert record.find(tmp_path / "runs", "latest").state == State.RUNNING
    environment = Path(f"/proc/{pids[0]}/environ").read_bytes().split(b"\0")
    scratch = next(Path(v[7:].decode()) for v in environment if v.startswith(b"TMPDIR="))
    assert scratch.is_dir()
    child.kill()
    child.communicate(timeout=30)
    wait_until_gone(pids)
    deadline = time.monotonic() + 10
    while scratch.exists():
        assert time.monotonic() < deadline, f"{scratch} was left"
        time.sleep(0.05)
    run = record.find(tmp_path / "runs", "latest")
    assert run.state == State.DIED
    assert [step.state for step in run.steps.values()] == [State.DIED, State.SKIPPED]


def test_what_an_engine_left_that_died_with_its_watchdog_is_ended_by_the_next_run(
    tmp_path: Path,
) -> None:
    child = start("waiting", tmp_path / "runs", folder=str(tmp_path))
    pids = wait_until_started(tmp_path)
    for dog in psutil.Process(child.pid).children():
        if "watchdog.py" in " ".join(dog.cmdline()):
            dog.kill()
    child.kill()
    child.communicate(timeout=30)
    run = record.find(tmp_path / "runs", "latest")
    assert run.state == State.DIED
    assert all(psutil.pid_exists(pid) for pid in pids)
    engine.execute(small_pipelines.chain, {}, tmp_path / "runs", parent=run.id)
    wait_until_gone(pids)


def test_two_runs_at_the_same_time_in_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    texts = ["one", "two"]
    children = [start("chain", tmp_path, text=text) for text in texts]
    ids = [child.communicate(timeout=120)[0].strip() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert len(set(ids)) == 2
    for run, text in zip([record.find(tmp_path, name) for name in ids], texts, strict=True):
        assert run.steps["last"].outputs["Output"]["value"] == text * 2


def test_a_record_can_be_read_at_every_instant(tmp_path: Path) -> None:
    child = start("chain", tmp_path)
    reads = 0
    try:
        while child.poll() is None:
            for place in tmp_path.glob(f"*/{record.RECORD}"):
                assert record.read(place.parent).pipeline == "chain"
                reads += 1
    finally:
        child.communicate(timeout=60)
    assert reads > 10


def test_an_unknown_argument_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"txet: not a parameter.*text, number, how"):
        engine.execute(small_pipelines.chain, {"txet": "x"}, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_missing_argument_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder: the pipeline needs a value"):
        engine.execute(small_pipelines.waiting, {}, tmp_path)


def test_a_runs_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="--runs"):
        engine.execute(small_pipelines.chain, {}, tmp_path / "file" / "runs")


def steps_alive() -> set[int]:
    """Processes that carry a mark of any engine and run the small pipelines."""
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            environment = (place / "environ").read_bytes()
        except OSError:
            continue
        if f"{processes.MARK}=".encode() in environment and b"small_pipelines" in environment:
            found.add(int(place.name))
    return found


@pytest.fixture(autouse=True)
def nothing_is_left_running(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BIRDSONG_TEST", "small_pipelines")
    yield
    assert steps_alive() == set()
