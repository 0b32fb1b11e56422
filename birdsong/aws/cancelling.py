"""A cancelled step: its job is stopped first, and only then anything is told.

Kubeflow leaves a cancelled step about a second, so the handler's first act is the request.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from birdsong.aws.jobs import Job


class Guard:
    """While it listens, SIGTERM and SIGINT stop the job that it holds, and end the step.

    Args:
        on_cancel: stop, or leave: the job goes on, and a retried step finds it.

    Attributes:
        job: What is stopped; None before there is one.
    """

    def __init__(self, on_cancel: str = "stop") -> None:
        self._stops = on_cancel == "stop"
        self.job: Job | None = None
        self._making, self._noted = False, 0

    @contextmanager
    def listening(self) -> Iterator["Guard"]:
        """Listen; in the main thread only."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._heard) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def watching(self, job: "Job") -> Iterator[None]:
        """While a job is made: a signal waits until there is something to stop."""
        self.job, self._making = job, True
        try:
            yield
        finally:
            self._making = False
            if self._noted:
                self._heard(self._noted, None)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._making:
            self._noted = number
            return
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, signal.SIG_IGN)
        if self.job is not None and self._stops:
            self.job.account.patience = 3.0
            try:
                self.job.stop()
                text = f"stopped {self.job.name}"
            except Exception as error:
                text = f"{self.job.name} could not be stopped ({error})"
        elif self.job is not None:
            text = f"{self.job.name} goes on (on_cancel: leave)"
        else:
            text = "no job was started"
        # Not by print: it may have been interrupted in the middle of a line.
        os.write(1, f"\nSageMaker: cancelled, {text}\n".encode())
        raise SystemExit(128 + number)
