"""How the process of a step is started on this machine: as it is, or in a container."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from birdsong import progress
from birdsong.runs import processes
from birdsong.runs.record import Run
from birdsong.runs.signals import Cancel
from birdsong.runs.step_process import Limits, StepProcess


class Name(StrEnum):
    """The runners, by the names that the command line and the record use."""

    SUBPROCESS = "subprocess"
    DOCKER = "docker"


@dataclass(frozen=True)
class Job:
    """One attempt at a step.

    Attributes:
        command: As kfp.local gives it.
        environment: What the step gets beyond what its runner gives to all.
        image: The image that the pipeline names for it.
        run: The run that it belongs to.
        step: Its name.
        log: File that its output is appended to.
        mark: How its processes are known.
        cancel: Asked while waiting.
        progressed: Told of each line of progress.
        limits: At which it is ended.
    """

    command: list[str]
    environment: Mapping[str, str]
    image: str
    run: Run
    step: str
    log: Path
    mark: str
    cancel: Cancel
    progressed: Callable[[progress.Update], None]
    limits: Limits


class Running(Protocol):
    """A started step; it must be waited for.

    Attributes:
        pid: Its process on this machine, 0 where that cannot be told.
        container: Its container's id, if it has one.
        exit_code: How it ended; negative for a signal.
        peak_memory: Most bytes that were not file cache.
        exceeded: Which limit ended it, as a sentence; empty for none.
    """

    pid: int
    container: str | None
    exit_code: int | None
    peak_memory: int | None
    exceeded: str

    def wait(self) -> int:
        """Copy the output to the log until the step ends; end it when the run is cancelled."""


class Runner(Protocol):
    """Starts steps.

    Attributes:
        name: As recorded.
        images: Image of the pipeline to the fingerprint of the code in it; empty where the code
            of this process is what runs.
        watchdog: What the watchdog must know to end what a killed engine left.
    """

    name: Name
    images: Mapping[str, str]
    watchdog: list[str]

    def describe(self) -> list[str]:
        """What a dry run says about it, line by line."""

    def start(self, job: Job) -> Running:
        """Start a step."""

    def end(self, mark: str, at_once: Callable[[], bool]) -> None:
        """End what is left of the steps of a run."""


class Processes:
    """A process per step, with this interpreter and the installed packages."""

    name = Name.SUBPROCESS
    images: Mapping[str, str] = {}
    watchdog: list[str] = []  # noqa: RUF012  # never changed

    def describe(self) -> list[str]:
        """Nothing that would not be known."""
        return []

    def start(self, job: Job) -> Running:
        """Start a process."""
        return StepProcess(
            job.command,
            job.environment,
            job.log,
            job.mark,
            job.cancel,
            job.progressed,
            job.limits,
        )

    def end(self, mark: str, at_once: Callable[[], bool]) -> None:
        """End the processes with a mark."""
        processes.end(mark, grace_seconds=2.0, at_once=at_once)


def make(name: str, ir: Mapping[str, Any], values: Mapping[str, Any], runs: Path) -> Runner:
    """The runner of a name, after a look at whether it works here.

    Args:
        name: subprocess or docker.
        ir: The compiled pipeline.
        values: Value of each parameter of the pipeline.
        runs: Folder of all runs.

    Raises:
        ConfigError: There is no such runner, no engine, no permission, or an image is missing.
    """
    if Name(name) == Name.SUBPROCESS:
        return Processes()
    from birdsong.runs.step_container import Containers

    return Containers.ready(ir, values, runs)
