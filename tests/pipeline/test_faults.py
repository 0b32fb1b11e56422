"""Kills at random moments: after resume the outputs are those of an undisturbed run.

Each kill is SIGKILL, to the engine, to the process of the step at work, or to both at once, at a
moment drawn over the whole time that an undisturbed run takes; also while a resume is at work.
`pytest -m slow -s tests/pipeline/test_faults.py` prints the table of all kills.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from branching_pipeline import branching, contents

from birdsong.runs import engine, graph, record, rerun
from birdsong.runs.record import Run, State

VALUES: dict[str, Any] = {"pause": 0.15, "children": True}
TARGETS = ("engine", "step", "both")
IR = graph.as_ir(branching)


@dataclass
class Table:
    """What was killed, during which step, and what the resumes did."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    resumes: Counter[tuple[str, str]] = field(default_factory=Counter)
    reused: Counter[tuple[str, str]] = field(default_factory=Counter)
    executed: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __str__(self) -> str:
        head = f"{'killed':<8}{'while':<12}{'kills':>6}{'resumes':>9}{'reused':>8}{'executed':>10}"
        lines = [head]
        for row in sorted(self.kills):
            target, step = row
            lines.append(
                f"{target:<8}{step:<12}{self.kills[row]:>6}{self.resumes[row]:>9}"
                f"{self.reused[row]:>8}{self.executed[row]:>10}"
            )
        total = [sum(c.values()) for c in (self.kills, self.resumes, self.reused, self.executed)]
        lines.append(f"{'all':<20}{total[0]:>6}{total[1]:>9}{total[2]:>8}{total[3]:>10}")
        return "\n".join(lines)


def in_process(work: Callable[[], Any]) -> multiprocessing.process.BaseProcess:
    """Run the engine in a process of its own, forked so that kfp need not be imported again."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    return child


def fresh(runs: Path) -> Callable[[], Any]:
    return lambda: engine.execute(branching, VALUES, runs)


def resumed(runs: Path, parent: Run) -> Callable[[], Any]:
    def work() -> None:
        plan = rerun.resume(parent, IR)
        engine.execute(branching, plan.values, runs, pinned=plan.pinned, parent=parent.id)

    return work


def latest(runs: Path) -> Run | None:
    return record.find(runs, "latest") if any(runs.glob(f"*/{record.RECORD}")) else None


def kill(child: Any, runs: Path, target: str, moment: float, before: str | None) -> tuple[str, str]:
    """Kill at a moment; returns what was killed, and the step at work or when else it was.

    Where no step is at work it is the engine that is killed.
    """
    time.sleep(moment)
    run = latest(runs)
    if run is not None and run.id == before:
        run = None  # of the new one there is no record yet
    at_work = None
    if run is not None:
        at_work = next((s for s in run.steps.values() if s.state == State.RUNNING), None)
    pids = []
    if target in ("step", "both") and at_work is not None and at_work.pid:
        pids.append(at_work.pid)
    if not pids:
        target = "engine"
    if target in ("engine", "both"):
        pids.append(child.pid)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it had just ended
            os.kill(pid, signal.SIGKILL)
    child.join(60)
    assert not child.is_alive()
    if at_work is not None:
        return target, at_work.name
    if run is None or all(step.state == State.PENDING for step in run.steps.values()):
        return target, "(start)"
    return target, "(end)" if run.state != State.RUNNING else "(between)"


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


def check_nothing_is_left(runs: Path, scratch: Path) -> None:
    deadline = time.monotonic() + 20
    while of_runs(runs) or any(scratch.iterdir()):
        assert time.monotonic() < deadline, (of_runs(runs), list(scratch.iterdir()))
        time.sleep(0.05)


def check_records(runs: Path) -> None:
    for place in runs.glob(f"*/{record.RECORD}"):
        run = record.read(place.parent)
        assert run.state not in (State.RUNNING, State.PENDING)
        assert all(s.state not in (State.RUNNING, State.PENDING) for s in run.steps.values())


def scenario(
    seed: int, folder: Path, seconds: float, expected: dict[str, Any], table: Table
) -> int:
    """One run with one or two kills, resumed until it succeeds; returns the number of kills."""
    draw = random.Random(seed)
    runs, scratch = folder / "runs", folder / "scratch"
    scratch.mkdir(parents=True)
    tempfile.tempdir = str(scratch)
    rows: list[tuple[str, str]] = []
    work = fresh(runs)
    kills = draw.choice((1, 1, 2))
    for _ in range(kills):
        before = latest(runs)
        target, moment = draw.choice(TARGETS), draw.uniform(0, seconds)
        child = in_process(work)
        rows.append(kill(child, runs, target, moment, before.id if before else None))
        table.kills[rows[-1]] += 1
        check_nothing_is_left(runs, scratch)
        check_records(runs)
        run = latest(runs)
        work = fresh(runs) if run is None else resumed(runs, run)
    run = latest(runs)
    for _ in range(3):
        if run is not None and run.state == State.SUCCEEDED:
            break
        child = in_process(fresh(runs) if run is None else resumed(runs, run))
        child.join(120)
        run = latest(runs)
        assert run is not None
        table.resumes[rows[-1]] += 1
        states = Counter(step.state for step in run.steps.values())
        table.reused[rows[-1]] += states[State.REUSED]
        table.executed[rows[-1]] += states[State.SUCCEEDED]
    assert run is not None
    assert run.state == State.SUCCEEDED, (seed, rows, run.error)
    assert contents(run) == expected, (seed, rows)
    check_nothing_is_left(runs, scratch)
    check_records(runs)
    return kills


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[float, dict[str, Any]]:
    """Seconds and contents of a run that nobody kills."""
    runs, seconds = tmp_path_factory.mktemp("undisturbed"), []
    for _ in range(2):  # the first one also waits for files that are not in the cache yet
        began = time.monotonic()
        child = in_process(fresh(runs))
        child.join(120)
        seconds.append(time.monotonic() - began)
    run = latest(runs)
    assert run is not None
    assert run.state == State.SUCCEEDED
    return min(seconds), contents(run)


def suite(
    kills: int,
    first_seed: int,
    folder: Path,
    undisturbed: tuple[float, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> Table:
    monkeypatch.setattr(tempfile, "tempdir", None)  # and so put back at the end
    table, seed = Table(), first_seed
    while sum(table.kills.values()) < kills:
        scenario(seed, folder / str(seed), *undisturbed, table)
        seed += 1
    return table


def test_a_few_kills_change_no_output_and_leave_nothing_behind(
    tmp_path: Path,
    undisturbed: tuple[float, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = suite(6, 1000, tmp_path, undisturbed, monkeypatch)
    print(f"\n{table}")
    assert sum(table.kills.values()) >= 6


@pytest.mark.slow
def test_a_hundred_kills(
    tmp_path: Path,
    undisturbed: tuple[float, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = suite(100, 0, tmp_path, undisturbed, monkeypatch)
    print(f"\n{table}")
    assert {target for target, _ in table.kills} == set(TARGETS)
    assert {"begin", "right", "join"} <= {step for _, step in table.kills}
