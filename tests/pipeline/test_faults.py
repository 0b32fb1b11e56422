"""Kills at random moments: after resume the outputs are those of an undisturbed run.

Each kill is SIGKILL, to the engine, to the process of the step at work, or to both at once, or the
engine is asked to stop by SIGINT or SIGTERM; during a step or before the first one, drawn by
chance; also while a resume is at work. Where steps run in containers, the container is also removed
from outside.
`pytest -m slow -s tests/pipeline/test_faults.py` prints the tables of all kills.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from branching_pipeline import branching, contents
from made_engines import of_runs_folder, remove

from birdsong.errors import DataError
from birdsong.runs import engine, graph, record, rerun, runners, signals
from birdsong.runs.record import Run, State

VALUES: dict[str, Any] = {"pause": 0.15, "children": True}
POLITE = ("SIGINT", "SIGTERM")
TARGETS = ("engine", "step", "both", *POLITE)
TARGETS_IN_DOCKER = (*TARGETS, "container")
RUNNERS = ["subprocess", pytest.param("docker", marks=pytest.mark.docker)]
IR = graph.as_ir(branching)
IR_STEPS = list(graph.steps(IR))


@dataclass
class Kill:
    """One kill and what came of it, once the run was resumed to its end."""

    target: str
    moment: str
    """The step at work, or (start), (between), (end)."""
    resumes: int = 0
    equal: bool = False
    left_running: int = 0
    left_files: int = 0
    unreadable: int = 0

    @property
    def clean(self) -> bool:
        return self.equal and not (self.left_running or self.left_files or self.unreadable)


class Table(list[Kill]):
    """All kills, printed by what was killed and when."""

    def __str__(self) -> str:
        columns = ("kills", "resumes", "outputs equal", "left running", "left files", "unreadable")
        lines = [f"| killed | while | {' | '.join(columns)} |", "|---" * 8 + "|"]
        for row in sorted({(kill.target, kill.moment) for kill in self}):
            lines.append(self._line(*row, [k for k in self if (k.target, k.moment) == row]))
        return "\n".join([*lines, self._line("all", "", self)])

    @staticmethod
    def _line(target: str, moment: str, kills: list[Kill]) -> str:
        figures = (
            len(kills),
            sum(kill.resumes for kill in kills),
            sum(kill.equal for kill in kills),
            sum(kill.left_running for kill in kills),
            sum(kill.left_files for kill in kills),
            sum(kill.unreadable for kill in kills),
        )
        return f"| {target} | {moment} | {' | '.join(map(str, figures))} |"


def in_process(work: Callable[[], Any]) -> multiprocessing.process.BaseProcess:
    """Run the engine in a process of its own, forked so that kfp need not be imported again."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    return child


def fresh(runs: Path, runner: str = "subprocess") -> Callable[[], Any]:
    def work() -> None:
        with signals.listening() as cancel:
            made = runners.make(runner, IR, VALUES, runs)
            engine.execute(branching, VALUES, runs, runner=made, cancel=cancel)

    return work


def resumed(runs: Path, parent: Run) -> Callable[[], Any]:
    def work() -> None:
        with signals.listening() as cancel:
            plan = rerun.resume(parent, IR)
            engine.execute(
                branching,
                plan.values,
                runs,
                pinned=plan.pinned,
                parent=parent.id,
                runner=runners.make(parent.runner, IR, plan.values, runs),
                cancel=cancel,
            )

    return work


def latest(runs: Path) -> Run | None:
    return record.find(runs, "latest") if any(runs.glob(f"*/{record.RECORD}")) else None


def await_moment(
    child: Any, runs: Path, moment: str, extra: float, before: str | None, known: bool = False
) -> None:
    """Wait until a step is at work (or the process is), and then a little longer.

    With `known` its process or container must be, which an engine may take seconds to make.
    """
    while moment != "(start)" and child.is_alive():
        run = latest(runs)
        if run is not None and run.id != before:
            step = run.steps[moment]
            if step.pid if known and step.state == State.RUNNING else step.state != State.PENDING:
                break
        time.sleep(0.005)
    time.sleep(extra)


def kill(child: Any, runs: Path, target: str, before: str | None) -> Kill:
    """Kill now; where no step is at work it is the engine that is killed."""
    run = latest(runs)
    if run is not None and run.id == before:
        run = None  # of the new one there is no record yet
    at_work = None
    if run is not None:
        at_work = next((s for s in run.steps.values() if s.state == State.RUNNING), None)
    pids, number = [], signal.SIGKILL
    if target == "container" and at_work is not None and at_work.container:
        remove(at_work.container)
        if child.is_alive():  # at most it goes on to fail the step, or the container had ended
            child.join(120)
        return Kill(target, at_work.name)
    if target in ("step", "both") and at_work is not None and at_work.pid:
        pids.append(at_work.pid)
    if target in POLITE:
        number = signal.Signals[target]
    elif not pids:
        target = "engine"
    if target in ("engine", "both", *POLITE):
        pids.append(child.pid)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it had just ended
            os.kill(pid, number)
    child.join(60)
    assert not child.is_alive()
    if at_work is not None:
        return Kill(target, at_work.name)
    if run is None or all(step.state == State.PENDING for step in run.steps.values()):
        return Kill(target, "(start)")
    return Kill(target, "(end)" if run.state != State.RUNNING else "(between)")


def of_runs(runs: Path) -> list[int]:
    """Living processes of steps of any run in the folder."""
    names = [f"BIRDSONG_RUN={place.name}".encode() for place in runs.glob("2*")]
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            environment = (place / "environ").read_bytes().split(b"\0")
            state = (place / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX" and any(name in environment for name in names):
            found.append(int(place.name))
    return found


def look_at_what_is_left(runs: Path, scratch: Path, found: Kill) -> None:
    """Note what still runs and lies about after a while, and which records cannot be trusted."""
    deadline = time.monotonic() + 20
    while of_runs(runs) or of_runs_folder(runs) or any(scratch.iterdir()):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    found.left_running += len(of_runs(runs)) + len(of_runs_folder(runs))
    found.left_files += len(list(scratch.iterdir()))
    for place in runs.glob(f"*/{record.RECORD}"):
        try:
            run = record.read(place.parent)
        except DataError:
            found.unreadable += 1
            continue
        states = {run.state, *(step.state for step in run.steps.values())}
        found.unreadable += bool(states & {State.RUNNING, State.PENDING})


def scenario(
    seed: int, folder: Path, runner: str, seconds: Mapping[str, float], expected: dict[str, Any]
) -> list[Kill]:
    """One run with one or two kills, resumed until it succeeds."""
    draw = random.Random(seed)
    runs, scratch = folder / "runs", folder / "scratch"
    scratch.mkdir(parents=True)
    tempfile.tempdir = str(scratch)
    kills: list[Kill] = []
    work = fresh(runs, runner)
    targets = TARGETS if runner == "subprocess" else TARGETS_IN_DOCKER
    for _ in range(draw.choice((1, 1, 2))):
        before = latest(runs)
        target, moment = draw.choice(targets), draw.choice(["(start)", *IR_STEPS])
        child = in_process(work)
        extra, of_step = draw.uniform(0, seconds[moment]), False
        if runner == "docker" and target in ("step", "both", "container"):
            of_step, extra = True, draw.uniform(0, VALUES["pause"])  # beyond its start
        await_moment(child, runs, moment, extra, before.id if before else None, of_step)
        kills.append(kill(child, runs, target, before.id if before else None))
        look_at_what_is_left(runs, scratch, kills[-1])
        run = latest(runs)
        work = fresh(runs, runner) if run is None else resumed(runs, run)
    run = latest(runs)
    for _ in range(3):
        if run is not None and run.state == State.SUCCEEDED:
            break
        child = in_process(fresh(runs, runner) if run is None else resumed(runs, run))
        child.join(120)
        run = latest(runs)
        kills[-1].resumes += 1
    look_at_what_is_left(runs, scratch, kills[-1])
    for one in kills:
        one.equal = run is not None and run.state == State.SUCCEEDED and contents(run) == expected
    return kills


@pytest.fixture(scope="module", params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> str:
    """Each runner; that of containers where there is an engine with our images."""
    if request.param == "docker":
        request.getfixturevalue("engine")
    return str(request.param)


@pytest.fixture(scope="module")
def undisturbed(
    runner: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of each step, and contents, of a run that nobody kills."""
    runs = tmp_path_factory.mktemp("undisturbed")
    for _ in range(2):  # the first one also waits for files that are not in the cache yet
        child = in_process(fresh(runs, runner))
        child.join(120)
    run = latest(runs)
    assert run is not None
    assert run.state == State.SUCCEEDED
    seconds = {step.name: float(step.seconds or 0) for step in run.steps.values()}
    return seconds | {"(start)": 0.3}, contents(run)


def suite(
    kills: int,
    first_seed: int,
    folder: Path,
    runner: str,
    undisturbed: tuple[dict[str, float], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> Table:
    monkeypatch.setattr(tempfile, "tempdir", None)  # and so put back at the end
    table, seed = Table(), first_seed
    while sum(kill.target not in POLITE for kill in table) < kills:
        table += scenario(seed, folder / str(seed), runner, *undisturbed)
        seed += 1
    print(f"\n{runner}\n{table}")
    return table


def test_a_few_kills_change_no_output_and_leave_nothing_behind(
    tmp_path: Path,
    runner: str,
    undisturbed: tuple[dict[str, float], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = suite(4, 1000, tmp_path, runner, undisturbed, monkeypatch)
    assert len(table) >= 4
    assert [kill for kill in table if not kill.clean] == []


@pytest.mark.slow
def test_a_hundred_kills_of_processes_and_fifty_of_containers(
    tmp_path: Path,
    runner: str,
    undisturbed: tuple[dict[str, float], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_docker = runner == "docker"
    table = suite(50 if in_docker else 100, 0, tmp_path, runner, undisturbed, monkeypatch)
    assert {kill.target for kill in table} == set(TARGETS_IN_DOCKER if in_docker else TARGETS)
    assert set(IR_STEPS) <= {kill.moment for kill in table}
    assert [kill for kill in table if not kill.clean] == []


def killed_at_write(runs: Path, runner: str, number: int, after: bool) -> Callable[[], Any]:
    """A run whose engine kills itself at its n-th rename, before or after it."""

    def work() -> None:
        replace, done = Path.replace, 0

        def counted(self: Path, target: Any) -> Path:
            nonlocal done
            done += 1
            if done == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            moved = replace(self, target)
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return moved

        Path.replace = counted  # type: ignore[assignment,method-assign]
        values = VALUES | {"pause": 0.0, "children": False}
        engine.execute(branching, values, runs, runner=runners.make(runner, IR, values, runs))

    return work


def between_writes(
    folder: Path, runner: str, numbers: Iterable[int], expected: dict[str, Any]
) -> tuple[int, list[str]]:
    """Kill the engine at each of its writes; returns how many, and what went wrong."""
    count, wrong = 0, []
    for number in numbers:
        for after in (False, True):
            runs = folder / f"{number}-{after}"
            child = in_process(killed_at_write(runs, runner, number, after))
            child.join(60)
            if child.exitcode == 0:
                return count, wrong  # there are no more writes
            count += 1
            run = latest(runs)
            again = in_process(fresh(runs, runner) if run is None else resumed(runs, run))
            again.join(60)
            run = latest(runs)
            if run is None or run.state != State.SUCCEEDED or contents(run) != expected:
                when = "after" if after else "before"
                wrong.append(f"write {number}, {when} the rename: {run and run.error}")
    return count, wrong


def test_a_kill_at_some_writes_of_the_record_loses_no_run(
    tmp_path: Path, runner: str, undisturbed: tuple[dict[str, float], dict[str, Any]]
) -> None:
    count, wrong = between_writes(tmp_path, runner, (7,), undisturbed[1])
    assert (count, wrong) == (2, [])


@pytest.mark.slow
def test_a_kill_at_any_write_of_the_record_loses_no_run(
    tmp_path: Path, runner: str, undisturbed: tuple[dict[str, float], dict[str, Any]]
) -> None:
    # With containers, which take ten times as long, at every fourth one.
    numbers = range(1, 100, 4 if runner == "docker" else 1)
    count, wrong = between_writes(tmp_path, runner, numbers, undisturbed[1])
    print(f"\nresult: {count} kills of the engine, before and after each of {count // 2} writes")
    assert count >= (8 if runner == "docker" else 31)
    assert wrong == []
