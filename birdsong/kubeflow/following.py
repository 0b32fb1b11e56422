"""Follows a run on the backend and tells of it as of a run on this machine.

The backend's API names a run's tasks by the steps of the DAG and gives their states and times; it
gives no metrics, no error of a task and no word on the cache (kubeflow/pipelines #14007). A step
that KFP took from its cache succeeds while its executor is skipped, which is seen by their times.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from birdsong.errors import BirdsongError, UnreachableError
from birdsong.kubeflow.api import AnswerError, Api, pause
from birdsong.runs import graph
from birdsong.runs.record import FINISHED, Run, State, Step, seconds_between

STATES = {
    "PENDING": State.PENDING,
    "RUNNING": State.RUNNING,
    "PAUSED": State.RUNNING,
    "CANCELING": State.RUNNING,
    "SUCCEEDED": State.SUCCEEDED,
    "SKIPPED": State.SKIPPED,
    "FAILED": State.FAILED,
    "CANCELED": State.CANCELLED,
}
"""States of the backend and ours; an unknown one counts as PENDING."""

BORNE_SECONDS = 600
"""How long a backend that does not answer is borne while a run is followed."""


class Listener(Protocol):
    """Hears what happens, as of a run on this machine."""

    def step_changed(self, run: Run, step: Step) -> None:
        """A step started or ended."""


def link(host: str, run_id: str, environment: Mapping[str, str]) -> str:
    """The page of a run in KFP's UI."""
    ui = environment.get("KF_PIPELINES_UI_ENDPOINT") or host
    return f"{ui.rstrip('/')}/#/runs/details/{run_id}"


def state_of(found: Any) -> State:
    """State of a run or of a task of the backend."""
    return STATES.get(str(found.state or ""), State.PENDING)


def as_run(found: Any, ir: graph.Ir | None = None) -> Run:
    """A run of the backend as a record; its steps where it tells them.

    Args:
        found: `kfp_server_api.V2beta1Run`.
        ir: Its compiled pipeline, which gives the steps and their order.
    """
    config = found.runtime_config
    run = Run(
        id=str(found.run_id),
        pipeline=str(ir["pipelineInfo"]["name"]) if ir else "",
        folder=Path(),
        arguments=dict((config.parameters if config else None) or {}),
        state=state_of(found),
        started=_time(found.created_at) or "",
        ended=_time(found.finished_at) if state_of(found) in FINISHED else None,
        error=_error(found),
        note=str(found.display_name or ""),
    )
    if run.state == State.PENDING:
        run.state = State.RUNNING  # it waits for its first pod
    run.seconds = seconds_between(run.started, run.ended)
    tasks = (found.run_details.task_details if found.run_details else None) or []
    run.steps = graph.steps(ir) if ir else {}
    _fill(run, tasks)
    return run


def _time(value: Any) -> str | None:
    if value is None or value.year < 2000:  # the backend's zero is 1970
        return None
    return str(value.isoformat(timespec="milliseconds"))


def _error(found: Any) -> str | None:
    text = found.error.message if found.error else None
    return " ".join(str(text).split()) if text else None


def _fill(run: Run, tasks: list[Any]) -> None:
    by_name: dict[str, list[Any]] = {}
    for task in tasks:
        by_name.setdefault(str(task.display_name or ""), []).append(task)
    idle = [task for task in by_name.get("executor", []) if state_of(task) == State.SKIPPED]
    for step in run.steps.values():
        entries = by_name.get(step.name) or by_name.get(step.task) or []
        if entries:
            # A run that was resumed tells of each attempt; the last one counts.
            task = max(entries, key=lambda one: str(one.create_time or one.start_time or ""))
            step.state = state_of(task)
            step.started, step.ended = _time(task.start_time), _time(task.end_time)
            step.error = _error(task)
            if step.state == State.SUCCEEDED and any(_within(task, other) for other in idle):
                step.state = State.REUSED
                step.reused_from = "the cache of the cluster"
        elif f"{step.name}-driver" in by_name:
            driver = by_name[f"{step.name}-driver"][-1]
            failed = state_of(driver) == State.FAILED
            step.state = State.FAILED if failed else State.RUNNING
            step.started = _time(driver.start_time)
            step.error = "Its driver failed." if failed else None
        if step.state == State.RUNNING and run.state in FINISHED:
            step.state = State.CANCELLED  # the backend has stopped looking
        if step.state == State.PENDING and run.state in FINISHED:
            step.state = State.SKIPPED
        step.seconds = seconds_between(step.started, step.ended)


def _within(task: Any, other: Any) -> bool:
    """Whether a task lies within another one's time."""
    start, end = task.start_time, task.end_time
    mine = other.start_time or other.create_time
    if start is None or end is None or mine is None:
        return False
    return bool(start <= mine <= end and (end - start).total_seconds() < 3)


def follow(
    api: Api,
    run_id: str,
    ir: graph.Ir | None,
    listener: Listener,
    *,
    interval: float = 5.0,
    tell: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = pause,
    clock: Callable[[], float] = time.monotonic,
    not_yet: State | None = None,
) -> Run:
    """Wait for the end of a run and tell each step.

    A backend that does not answer for a while, as when a port-forward ends, is borne.

    Args:
        api: The backend.
        run_id: The run.
        ir: Its compiled pipeline.
        listener: Hears the steps.
        interval: Seconds between looks.
        tell: Hears of trouble, a line each.
        sleep: Waits between looks.
        clock: Seconds that pass.
        not_yet: A state that the run had before it was resumed, and may still be told to have.

    Returns:
        The run at its end.

    Raises:
        BirdsongError: The backend refuses, or was away for too long.
    """
    told: dict[str, State] = {}
    away_since: float | None = None
    begun = clock()
    while True:
        try:
            run = as_run(api.run(run_id), ir)
        except (UnreachableError, AnswerError) as error:
            if isinstance(error, AnswerError) and error.status < 500 and error.status != 429:
                raise
            if away_since is None:
                away_since = clock()
                tell(f"{error} Trying on for {BORNE_SECONDS // 60} minutes; the run goes on.")
            elif clock() - away_since > BORNE_SECONDS:
                raise BirdsongError(f"{error} The run goes on; look at it later.") from None
            sleep(interval)
            continue
        if away_since is not None:
            tell("Kubeflow Pipelines answers again.")
            away_since = None
        if run.state == not_yet and clock() - begun < 60:
            sleep(interval)
            continue
        not_yet = None
        for step in run.steps.values():
            _tell(run, step, told, listener)
        if run.state in FINISHED:
            return run
        sleep(interval)


def _tell(run: Run, step: Step, told: dict[str, State], listener: Listener) -> None:
    if step.state == told.get(step.name) or step.state == State.PENDING:
        return
    if step.state == State.SKIPPED and run.state != State.SUCCEEDED:
        return  # it never started
    told[step.name] = step.state
    listener.step_changed(run, step)
