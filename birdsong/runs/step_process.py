"""The process of one step: its environment, its log, its progress, its memory and its end."""

import errno
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from birdsong import progress
from birdsong.errors import ConfigError
from birdsong.runs import code, processes
from birdsong.runs.signals import Cancel

GRACE_SECONDS = 5.0
"""From the polite end of a cancelled step to the hard one."""

_POLL_SECONDS = 0.1
_MEMORY_SECONDS = 1.0
_LONGEST_LINE = 65_536
_RAISED = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*): (?P<text>.*)$")
_OWN = re.compile(r"^birdsong\.errors\.\w+: ?")
_BARE = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)$")


@dataclass(frozen=True)
class Limits:
    """What a step may take; None for as much as it likes.

    Attributes:
        seconds: Of one attempt, by the clock.
        memory: Bytes that are not file cache, over all processes of the step.
    """

    seconds: float | None = None
    memory: int | None = None


class StepProcess:
    """A running step; it is started by its creation and must be waited for."""

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        log: Path,
        mark: str,
        cancel: Cancel,
        progressed: Callable[[progress.Update], None],
        limits: Limits,
    ) -> None:
        """Start the process.

        Args:
            command: As kfp.local gives it; its `python3` is this interpreter.
            environment: What the step sets beyond this process' environment.
            log: File that its output is appended to.
            mark: How its processes are known.
            cancel: Asked while waiting.
            progressed: Told of each line of progress.
            limits: At which it is ended.
        """
        self._limits, self.exceeded = limits, ""
        self._mark, self._cancel, self._progressed = mark, cancel, progressed
        self._log = log.open("ab")
        # The command unpacks the step's source into a folder of mktemp and leaves it there. A
        # short path: sockets of multiprocessing may not have more than 108 characters.
        # Its name holds the run's mark, by which the watchdog finds it after a hard end.
        self._scratch = tempfile.mkdtemp(prefix=f"birdsong-{mark.split('/')[0]}-")
        self.exit_code: int | None = None
        self.peak_memory: int | None = None
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_environment(environment, mark, self._scratch),
                start_new_session=True,
            )
        except OSError as error:
            self._close()
            if error.errno == errno.E2BIG:
                raise ConfigError(
                    "Its inputs are too long for a command line (about 128 kB in all). Pass long "
                    "ones as an artifact."
                ) from None
            raise
        except BaseException:
            self._close()
            raise
        self.pid = self._child.pid
        self.container: str | None = None

    def wait(self) -> int:
        """Copy the output to the log until the step ends; end it when the run is cancelled.

        Returns:
            The exit code; negative for a signal. Where a limit was exceeded, `exceeded` says so.
        """
        assert self._child.stdout is not None
        stream, lines = self._child.stdout, Lines(self._progressed)
        os.set_blocking(stream.fileno(), False)
        politely_at: float | None = None
        measure_at, began = 0.0, time.monotonic()
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(stream, selectors.EVENT_READ)
                open_ = True
                while True:
                    ended = self._child.poll() is not None
                    if open_ and selector.select(0 if ended else _POLL_SECONDS):
                        open_ = self._copy(stream.fileno(), lines)
                    elif ended:
                        break
                    elif not open_:
                        time.sleep(_POLL_SECONDS)
                    if time.monotonic() >= measure_at:
                        self._measure()
                        limited = self._limits.memory is not None
                        measure_at = time.monotonic() + _MEMORY_SECONDS / (4 if limited else 1)
                    self._look_at_limits(time.monotonic() - began)
                    if self._cancel.wanted or self.exceeded:
                        if politely_at is None:
                            politely_at = time.monotonic()
                            processes.send(self._mark, self.pid, signal.SIGTERM)
                        late = time.monotonic() - politely_at > GRACE_SECONDS
                        if self._cancel.at_once or late:
                            processes.send(self._mark, self.pid, signal.SIGKILL)
        finally:
            # Also what the step started and left: nothing of it outlives it.
            processes.end(self._mark, self.pid, GRACE_SECONDS, lambda: self._cancel.at_once)
            self.exit_code = self._child.wait()
            stream.close()
            self._close()
        return self.exit_code

    def _copy(self, descriptor: int, lines: "Lines") -> bool:
        try:
            data = os.read(descriptor, 65_536)
        except BlockingIOError:
            return True
        self._log.write(data)
        self._log.flush()
        lines.feed(data)
        return bool(data)

    def _measure(self) -> None:
        self.peak_memory = max(self.peak_memory or 0, processes.memory(self._mark))

    def _look_at_limits(self, seconds: float) -> None:
        if self.exceeded:
            return
        if self._limits.seconds is not None and seconds > self._limits.seconds:
            self.exceeded = too_long(self._limits)
        held = self.peak_memory or 0
        if self._limits.memory is not None and held > self._limits.memory:
            self.exceeded = too_much(self._limits, held)

    def _close(self) -> None:
        self._log.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def too_long(limits: Limits) -> str:
    """Say that the limit of time was reached."""
    return (
        f"It took longer than its limit of {(limits.seconds or 0) / 60:g} minutes "
        "(--step-timeout) and was ended. Give it more, or less to do."
    )


def too_much(limits: Limits, held: int) -> str:
    """Say that the limit of memory was reached."""
    limit = limits.memory or 0
    return (
        f"It held {max(held, limit) / 1e9:.2f} GB of memory, more than its limit of "
        f"{limit / 1e9:g} GB (--step-memory), and was ended. Give it more, "
        "or lower batch_size."
    )


def _environment(extra: Mapping[str, str], mark: str, scratch: str) -> dict[str, str]:
    own = dict(os.environ)
    search = [str(code.ROOT), *filter(None, [own.get("PYTHONPATH")])]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "GRPC_VERBOSITY": "ERROR", "GLOG_minloglevel": "2"}
    return {
        **quiet,
        "MPLBACKEND": "Agg",
        "PYTHONFAULTHANDLER": "1",
        **own,
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(search),
        "TMPDIR": scratch,
        **extra,
        # Last: the command's `python3` must be this interpreter, whatever the step sets.
        "PATH": os.pathsep.join(
            [str(Path(sys.executable).parent), extra.get("PATH", own.get("PATH", os.defpath))]
        ),
        processes.MARK: mark,
    }


class Lines:
    """Finds lines of progress in a stream of bytes."""

    def __init__(self, progressed: Callable[[progress.Update], None]) -> None:
        self._rest, self._progressed = b"", progressed

    def feed(self, data: bytes) -> None:
        *whole, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_LONGEST_LINE:]
        for line in whole:
            if line.startswith(b"progress "):
                update = progress.parse(line.decode("utf-8", "replace"))
                if update is not None:
                    self._progressed(update)


def explain(log: Path, exit_code: int | None) -> str:
    """Why a step failed, from the end of its log.

    An error of birdsong says by itself what to do, so its text is enough; of any other error the
    kind is part of what it says.
    """
    if exit_code is not None and exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "The process was killed (signal 9), most often because memory ran out."
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - 200_000, 0))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    for at in range(len(lines) - 1, -1, -1):
        if _OWN.match(lines[at]):
            return "\n".join([_OWN.sub("", lines[at]), *lines[at + 1 :]]).strip()
        if lines[at].startswith("Traceback (most recent call last)"):
            break
    raised = [line for line in lines if _is_raised(line)]
    if raised:
        return raised[-1]
    if exit_code is not None and exit_code < 0:
        return f"The process was ended by {signal.Signals(-exit_code).name}."
    said = [line for line in lines if line.strip()]
    return f"Exit code {exit_code}{': ' + said[-1].strip() if said else ''}"


def _is_raised(line: str) -> bool:
    match = _RAISED.match(line)
    kind = match["kind"] if match else line
    return bool(_BARE.match(kind))
