"""Another attempt where it can help, none where it cannot; limits of time and memory."""

import signal
import time
from pathlib import Path

import pytest
from branching_pipeline import branching
from small_pipelines import chain

from birdsong.runs import engine, record, retries
from birdsong.runs.record import State
from birdsong.runs.signals import Cancel
from birdsong.runs.step_process import Limits


def log(folder: Path, text: str) -> Path:
    place = folder / "step.log"
    place.write_text(text)
    return place


def traceback(*ends: str) -> str:
    between = "\nThe above exception was the direct cause of the following exception:\n\n"
    return between.join(
        f'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n{end}\n'
        for end in ends
    )


@pytest.mark.parametrize(
    ("text", "mendable"),
    [
        (traceback("birdsong.errors.UnreachableError: no answer\nTry again."), True),
        (traceback("birdsong.errors.StorageError: no credentials"), False),
        (traceback("ConnectionResetError: [Errno 104] reset"), True),
        (traceback("TimeoutError"), True),
        (traceback("botocore.exceptions.EndpointConnectionError: x"), True),
        (traceback("requests.exceptions.ConnectionError: x"), True),
        (traceback("OSError: inner", "birdsong.errors.UnreachableError: outer"), True),
        (traceback("ConnectionResetError: inner", "birdsong.errors.DataError: outer"), False),
        (traceback("birdsong.errors.ConfigError: x"), False),
        (traceback("birdsong.errors.DataError: StorageError: x"), False),
        (traceback("OSError: [Errno 28] No space left on device"), False),
        (traceback("MemoryError"), False),
        (traceback("KeyError: 'StorageError'"), False),
        ("birdsong.errors.UnreachableError: printed, not raised\n", False),
        ("", False),
    ],
)
def test_only_errors_of_reaching_a_place_are_tried_again(
    tmp_path: Path, text: str, mendable: bool
) -> None:
    assert (retries.delay(1, 1, log(tmp_path, text), 0) is not None) == mendable


def test_there_are_at_most_two_more_attempts_with_longer_delays(tmp_path: Path) -> None:
    place = log(tmp_path, traceback("birdsong.errors.UnreachableError: x"))
    delays = [retries.delay(attempt, 1, place, 0) for attempt in (1, 2, 3)]
    assert delays[2] is None
    assert delays[0] is not None
    assert delays[1] is not None
    assert delays[0] < delays[1]


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGSEGV, 0, None])
def test_a_killed_process_is_not_tried_again(tmp_path: Path, code: int | None) -> None:
    place = log(tmp_path, traceback("birdsong.errors.UnreachableError: x"))
    assert retries.delay(1, code, place, 0) is None


def test_only_the_last_attempt_of_a_log_counts(tmp_path: Path) -> None:
    old = traceback("birdsong.errors.UnreachableError: x")
    place = log(tmp_path, old + traceback("birdsong.errors.DataError: y"))
    assert retries.delay(2, 1, place, len(old)) is None
    assert retries.delay(2, 1, log(tmp_path, old + "nothing"), len(old)) is None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "DELAYS", (0.1, 0.2))


@pytest.mark.usefixtures("quick")
def test_a_place_that_answers_again_lets_the_step_succeed(tmp_path: Path) -> None:
    run = engine.execute(branching, {"how": f"once:{tmp_path}/mark"}, tmp_path / "runs")
    step = record.read(run.folder).steps["join"]
    assert (run.state, step.state, step.attempts, step.error) == (
        State.SUCCEEDED,
        State.SUCCEEDED,
        2,
        None,
    )
    assert [(t["exit_code"], t["error"], t["delay_seconds"]) for t in step.tries] == [
        (1, "The bucket does not answer.", 0.1)
    ]


@pytest.mark.usefixtures("quick")
def test_a_place_that_never_answers_fails_after_three_attempts(tmp_path: Path) -> None:
    run = engine.execute(branching, {"how": "unreachable"}, tmp_path)
    step = run.steps["join"]
    assert (step.state, step.attempts, len(step.tries)) == (State.FAILED, 3, 2)
    assert step.error == "The bucket does not answer."


@pytest.mark.parametrize("how", ["birdsong", "other", "exit", "killed"])
def test_other_failures_are_not_tried_again(tmp_path: Path, how: str) -> None:
    run = engine.execute(chain, {"how": how}, tmp_path)
    assert (run.steps["read"].state, run.steps["read"].attempts) == (State.FAILED, 1)


class StopAtTheDelay(Cancel):
    def sleep(self, seconds: float) -> None:
        self.wish("a test")
        super().sleep(seconds)


def test_the_delay_before_another_attempt_can_be_cancelled(tmp_path: Path) -> None:
    began = time.monotonic()
    run = engine.execute(branching, {"how": "unreachable"}, tmp_path, cancel=StopAtTheDelay())
    assert run.state == State.CANCELLED
    assert run.steps["join"].state == State.CANCELLED
    assert run.steps["join"].attempts == 1
    assert time.monotonic() - began < 30


def test_a_step_that_takes_too_long_is_ended_also_while_it_talks_all_the_time(
    tmp_path: Path,
) -> None:
    run = engine.execute(branching, {"how": "long"}, tmp_path, limits=Limits(seconds=3.0))
    step = run.steps["join"]
    assert step.state == State.FAILED
    assert "longer than its limit of 0.05 minutes" in str(step.error)
    assert step.attempts == 1
    assert step.seconds is not None
    assert step.seconds < 15


def test_a_step_that_holds_too_much_memory_is_ended(tmp_path: Path) -> None:
    run = engine.execute(branching, {"how": "fat"}, tmp_path, limits=Limits(memory=200_000_000))
    step = run.steps["join"]
    assert step.state == State.FAILED
    assert "more than its limit of 0.2 GB" in str(step.error)
    assert (step.peak_memory or 0) > 200_000_000
    assert step.seconds is not None
    assert step.seconds < 20


def test_limits_leave_alone_what_stays_within_them(tmp_path: Path) -> None:
    run = engine.execute(branching, {}, tmp_path, limits=Limits(60.0, 2_000_000_000))
    assert run.state == State.SUCCEEDED
