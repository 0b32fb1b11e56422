"""Decode untrusted recordings apart from this process: a crash in a codec costs that recording.

    with Decoder() as decoder:
        for window in decoder.windows(Path("night.ogg"), config):
            ...

The windows are those of `birdsong.audio.windows`, bit for bit, and come one by one, so that memory
stays bounded for any length. One small process (`birdsong.decoding_process`) with nothing loaded
but the codecs waits for work; for each recording it forks a child with limits on memory and time,
which ends with its recording. So nothing is left over from one recording to the next, a child that
crashes or hangs takes nothing with it. When this process ends, however it does, the others do too.
Nothing that comes back is unpickled: it is numbers and short texts.

A new child costs some 12 ms, most of it for memory that is touched for the first time. Where all
recordings are of one owner, as in batch prediction, a child may go on with the next one, after
those that it read whole and without a fault; where it then breaks, a new one tries again.
"""

import contextlib
import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from birdsong import audio
from birdsong.config import FeatureConfig, Settings
from birdsong.errors import BirdsongError, DataError

Bytes = bytes | bytearray | memoryview

PROGRAM = "birdsong.decoding_process"

HEADER = struct.Struct("!cdI")
"""Of what comes back: kind, start in seconds, bytes that follow."""
WINDOW, ERROR, DONE, ENDED = b"W", b"E", b"D", b"X"
"""Kinds: a window's samples; why there are no more; no more; how the child ended."""
_STOPPED = b""
"""Kind of nothing: the work is not wanted any more."""

LONGEST_TEXT = 2_000
_NEEDED = ("PATH", "PYTHON", "LD_LIBRARY_PATH", "LANG", "LC_", "OPENBLAS_")
"""How the names of variables begin that the process gets: what it takes to start, no more."""
_LOOK_SECONDS = 0.5
"""How often it is asked whether the work is still wanted."""


class DecodeLimits(Settings):
    """What decoding one recording may take."""

    decode_seconds: float = Field(
        default=120.0, gt=0, description="Longest that decoding one recording may take, seconds"
    )
    decode_bytes: int = Field(
        default=256 * 2**20,
        ge=16 * 2**20,
        description="Most memory that decoding one recording may take, bytes",
    )


class Decoder:
    """Decodes recordings in processes of their own; safe to use from several threads.

    How many recordings are decoded at once is up to the callers.
    """

    def __init__(self, limits: DecodeLimits | None = None, recordings_each: int = 1) -> None:
        """Start the process that waits for work; it is ready within half a second.

        Args:
            limits: What decoding one recording may take.
            recordings_each: Recordings that a child decodes at most, one after the other.
        """
        self.limits = limits or DecodeLimits()
        self._recordings_each = recordings_each
        self._idle: list[_Child] = []
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = False
        with self._lock:
            self._start()

    @property
    def pid(self) -> int | None:
        """The waiting process; None before the first and after the last."""
        return self._process.pid if self._process else None

    def windows(
        self,
        recording: Bytes | Path | int,
        config: FeatureConfig,
        overlap_seconds: float = 0.0,
        bounds: audio.Bounds = audio.ANY,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[audio.Window]:
        """Decode a recording to windows, as `birdsong.audio.windows` does.

        Args:
            recording: Its bytes, its path here, or an open descriptor, which is read from its
                start and stays open.
            config: As for `audio.windows`.
            overlap_seconds: As for `audio.windows`.
            bounds: As for `audio.windows`.
            stopped: Asked twice a second while nothing comes; True ends the work and the windows.

        Yields:
            The windows in order of time.

        Raises:
            DataError: As `audio.windows`; also `crashed:`, `too slow:` and `memory:`, where the
                decoder did not survive the recording or took more than its limits.
            BirdsongError: The process cannot be started.
            OSError: The path cannot be opened.
        """
        job = self._job(config, overlap_seconds, bounds)
        longest = round(config.window_seconds * config.sample_rate) * 2
        file, given = _descriptor(recording), 0
        try:
            while True:
                child = self._submit(file, job)
                answers = _Answers(child.socket, self.limits.decode_seconds, stopped)
                try:
                    for number, window in enumerate(self._windows(child, answers, longest)):
                        if number == given:
                            given += 1
                            yield window
                    return
                except DataError as error:
                    # Could be the fault of an earlier recording: a new child knows only this one.
                    if not child.recordings or not str(error).startswith(("crashed:", "memory:")):
                        raise
                    self._drop_idle()
                    os.lseek(file, 0, os.SEEK_SET)
                finally:
                    self._leave(child)
        finally:
            if file != recording:
                os.close(file)

    def _windows(
        self, child: "_Child", answers: "_Answers", longest: int
    ) -> Iterator[audio.Window]:
        while True:
            kind, start, payload = answers.next(longest)
            if kind == WINDOW:
                yield audio.Window(start, np.frombuffer(payload, np.int16))
            elif kind == ERROR:
                raise DataError(payload.decode(errors="replace"))
            elif kind == ENDED:
                raise DataError(_how_it_ended(payload, self.limits))
            else:
                child.good = kind == DONE
                return

    def _job(self, config: FeatureConfig, overlap_seconds: float, bounds: audio.Bounds) -> bytes:
        job = {
            "config": config.model_dump(mode="json"),
            "overlap_seconds": overlap_seconds,
            # JSON has no infinity.
            "bounds": {
                name: None if value == math.inf else value for name, value in vars(bounds).items()
            },
            "limits": self.limits.model_dump(),
            "recordings": self._recordings_each,
        }
        return json.dumps(job).encode()

    def _submit(self, file: int, job: bytes) -> "_Child":
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                try:
                    socket.send_fds(child.socket, [job], [file])
                    return child
                except OSError:
                    child.socket.close()
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        with theirs, self._lock:
            for last in (False, True):
                if self._closed:
                    ours.close()
                    raise BirdsongError("The decoder was closed.")
                try:
                    if self._control is None:
                        self._start()
                    assert self._control is not None
                    socket.send_fds(self._control, [job], [file, theirs.fileno()])
                    return _Child(ours)
                except OSError as error:
                    # It is gone, as when the system killed it: the next one takes the work.
                    self._stop()
                    if last:
                        ours.close()
                        raise BirdsongError(
                            f"The decoder's process cannot be started: {error}."
                        ) from error
        raise AssertionError  # pragma: no cover

    def _leave(self, child: "_Child") -> None:
        """Let a child wait for the next recording, or hang up, which kills what still works."""
        child.recordings += 1
        with self._lock:
            if child.good and child.recordings < self._recordings_each and not self._closed:
                child.good = False
                self._idle.append(child)
                return
        child.socket.close()

    def _drop_idle(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().socket.close()

    def _start(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for this process, which ends the other
            )

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the process, and with it what it still decodes."""
        with self._lock:
            self._closed = True
            self._stop()
        self._drop_idle()

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class _Child:
    """A child.

    Attributes:
        socket: On which it answers, and takes further recordings.
        recordings: How many it had before.
        good: Whether it read the one that it has whole.
    """

    socket: socket.socket
    recordings: int = 0
    good: bool = False


class _Answers:
    """What a child sends of one recording, read under a limit of time.

    Only time spent waiting counts, not that in which the child waits for us to go on.
    """

    def __init__(self, ours: socket.socket, seconds: float, stopped: Callable[[], bool]) -> None:
        self._socket, self._stopped = ours, stopped
        self._limit = self._left = seconds
        ours.settimeout(_LOOK_SECONDS)

    def next(self, longest: int) -> tuple[bytes, float, bytearray]:
        """Kind, start and payload of the next message."""
        header = self._exactly(HEADER.size)
        if header is None:
            return ENDED, 0.0, bytearray()
        if not header:
            return _STOPPED, 0.0, bytearray()
        kind, start, size = HEADER.unpack(header)
        if size > max(longest, LONGEST_TEXT) or (kind == WINDOW and (size == 0 or size % 2)):
            raise DataError("crashed: the decoder broke on this recording.")
        payload = self._exactly(size) if size else bytearray()
        if payload is None:
            return ENDED, 0.0, bytearray()
        return (kind, start, payload) if payload or not size else (_STOPPED, 0.0, bytearray())

    def _exactly(self, size: int) -> bytearray | None:
        """So many bytes; None at the end of the stream, none where the work is not wanted."""
        data = bytearray(size)
        view, filled = memoryview(data), 0
        while filled < size:
            began = time.monotonic()
            try:
                count = self._socket.recv_into(view[filled:])
            except TimeoutError:
                count = -1
            except ConnectionError:
                count = 0
            self._left -= time.monotonic() - began
            if count == 0:
                return None
            filled += max(0, count)
            if self._stopped():
                return bytearray()
            if self._left < 0 and filled < size:
                raise DataError(
                    f"too slow: decoding it took more than the {self._limit:g} s that are allowed."
                )
        return data


def _descriptor(recording: Bytes | Path | int) -> int:
    if isinstance(recording, int):
        os.lseek(recording, 0, os.SEEK_SET)
        return recording
    if isinstance(recording, Path):
        return os.open(recording, os.O_RDONLY | os.O_CLOEXEC)
    file = os.memfd_create("recording", os.MFD_CLOEXEC)
    view = memoryview(recording)
    try:
        while view:
            view = view[os.write(file, view) :]
        os.lseek(file, 0, os.SEEK_SET)
    except BaseException:
        os.close(file)
        raise
    return file


def _environment() -> dict[str, str]:
    # Not ours as it is: a codec that was broken into must find no credentials in it.
    needed = {name: value for name, value in os.environ.items() if name.startswith(_NEEDED)}
    # One thread each: a process with more must not fork, and codecs have no use for them.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**needed, **threads, "MALLOC_ARENA_MAX": "1"}


def _how_it_ended(payload: bytearray, limits: DecodeLimits) -> str:
    status = int.from_bytes(payload, "big", signed=True) if payload else None
    if status == -signal.SIGXCPU:
        return f"too slow: decoding it took more than the {limits.decode_seconds:g} s allowed."
    if status == -signal.SIGKILL:
        return "memory: the system killed its decoder, most often for want of memory."
    name = ""
    if status is not None and status < 0:
        with contextlib.suppress(ValueError):
            name = f" ({signal.Signals(-status).name})"
    return f"crashed: the decoder broke on this recording{name}."


def memory_bytes(decoder: Decoder) -> int:
    """Resident memory of the waiting process and its children; 0 where it cannot be told."""
    pid = decoder.pid
    if pid is None:
        return 0
    with contextlib.suppress(OSError, ValueError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(resident_bytes(number) for number in (pid, *map(int, children)))
    return 0


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 where it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
