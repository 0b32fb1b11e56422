"""Cancelling: signals only take note, the engine stops at a place where the record is whole."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType


class Cancelled(BaseException):
    """The run was asked to stop. No `Exception`, so that nothing takes it for a step's error."""


class Cancel:
    """A wish to stop; a second wish means at once, without grace."""

    def __init__(self) -> None:
        self.wishes = 0
        self.reason = ""

    def wish(self, reason: str) -> None:
        """Ask to stop."""
        self.wishes += 1
        self.reason = self.reason or reason

    @property
    def wanted(self) -> bool:
        """Whether anybody asked."""
        return self.wishes > 0

    @property
    def at_once(self) -> bool:
        """Whether somebody asked twice."""
        return self.wishes > 1

    def check(self) -> None:
        """Stop here if that is wanted.

        Raises:
            Cancelled: It is.
        """
        if self.wanted:
            raise Cancelled(f"cancelled by {self.reason}")

    def check_interrupt(self) -> None:
        """As `check`, before there is a run that could record it.

        Raises:
            KeyboardInterrupt: Somebody asked to stop.
        """
        if self.wanted:
            raise KeyboardInterrupt

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond a wish to stop."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.1))


@contextlib.contextmanager
def listening() -> Iterator[Cancel]:
    """Turn SIGINT, SIGTERM and SIGHUP into wishes while the context lasts; main thread only."""
    cancel = Cancel()

    def note(number: int, frame: FrameType | None) -> None:
        cancel.wish(signal.Signals(number).name)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
