"""One recording from its bytes to its answer: decoded apart, scored with those of others."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from birdsong import audio
from birdsong.bundle import Bundle
from birdsong.decoding import Decoder, memory_bytes, resident_bytes
from birdsong.errors import DataError
from birdsong.serving.answers import Answer, Asked, heard, known
from birdsong.serving.batching import Batcher, Floats, FrameScorer
from birdsong.serving.body import Recording
from birdsong.serving.limits import Limits
from birdsong.serving.metrics import Metrics
from birdsong.serving.problems import Problem

_UNHEARD = {
    "unreadable": (422, "unreadable"),
    "empty": (422, "empty"),
    "not finite": (422, "not-finite"),
    "channels": (422, "channels"),
    "rate": (422, "rate"),
    "crashed": (422, "decoder-crashed"),
    "too long": (413, "too-long"),
    "too slow": (413, "decode-time"),
    "memory": (413, "decode-memory"),
}
"""Words that the decoder starts its errors with, and ours for them; others are our fault."""

_ADVICE = {
    "too-long": "Send it in parts.",
    "decode-time": "Send it in parts, or as WAV or FLAC.",
    "decode-memory": "Send it in parts, or as WAV or FLAC.",
    "channels": "Mix it down, or send its channels one by one.",
    "rate": "Check that it is not damaged, or resample it.",
}
_NO_WINDOWS = '"windows":[]'
_SEND_ANOTHER = "Send a whole OGG, MP3, FLAC, WAV, WebM or MP4 file."


class Listener:
    """Listens to recordings, a few at a time; others wait their turn, up to a bound."""

    def __init__(
        self,
        bundle: Bundle,
        version: str | None,
        scorer: FrameScorer,
        limits: Limits,
        held_bytes: Callable[[], int],
    ) -> None:
        self._bundle, self._limits = bundle, limits
        self.version, self.runtime = version, str(getattr(scorer, "runtime", "tensorflow"))
        self.decoder = Decoder(limits.decoding)
        self.metrics = Metrics(
            {
                "name": bundle.name,
                "version": version or "",
                "bundle_sha256": bundle.sha256,
                "runtime": self.runtime,
            },
            lambda: resident_bytes(os.getpid()),
            lambda: memory_bytes(self.decoder),
        )
        self._batcher = Batcher(scorer, self.metrics.batch_done)
        self._threads = ThreadPoolExecutor(limits.at_once, "listen")
        self._turns = asyncio.Semaphore(limits.at_once)
        self._waiting = 0
        self._last_call = threading.Event()
        self._last_calls: set[asyncio.Event] = set()
        self.metrics.waiting.set_function(lambda: self._waiting)
        self.metrics.held_bytes.set_function(held_bytes)

    def close(self) -> None:
        """End threads and processes, when no request is left."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.decoder.close()
        self._batcher.close()

    def last_call(self) -> None:
        """The server ends in seconds: what is not finished is given back with a reason."""
        self._last_call.set()
        for event in self._last_calls:
            event.set()

    async def answer(self, recording: Recording, asked: Asked, gone: asyncio.Event) -> bytes:
        """The answer to a recording, as JSON.

        Args:
            recording: Its bytes.
            asked: What is told beside the detections.
            gone: Set where the client has hung up, so that the work stops.

        Raises:
            Problem: It cannot be heard, or not now.
        """
        if self._turns.locked() and self._waiting >= self._limits.queue:
            raise self._busy()
        ended = asyncio.Event()
        if self._last_call.is_set():
            ended.set()
        stop = threading.Event()
        self._last_calls.add(ended)
        ending = asyncio.create_task(_first(gone, ended))
        begun = threading.Event()
        turn = asyncio.create_task(self._turn(recording, asked, stop, begun))
        try:
            await asyncio.wait((turn, ending), return_when=asyncio.FIRST_COMPLETED)
            if turn.done():
                return await turn
        finally:
            stop.set()
            self._last_calls.discard(ended)
            ending.cancel()
            # A thread that has begun reads the recording, whose descriptor must not become that
            # of another one before it ends; it looks at `stop` twice a second.
            if not begun.is_set():
                turn.cancel()
            await asyncio.wait((turn,))
            if not turn.cancelled():
                turn.exception()  # told where it matters
        if gone.is_set():
            raise Problem(400, "cut-off", "The client hung up.")
        raise Problem(
            503,
            "stopping",
            "The server is being stopped and did not finish in time. Send the recording again.",
            {"Retry-After": "10", "Connection": "close"},
        )

    async def _turn(
        self, recording: Recording, asked: Asked, stop: threading.Event, begun: threading.Event
    ) -> bytes:
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        begun.set()
        try:
            with self.metrics.working.track_inprogress():
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(
                    self._threads, self._listen, recording, asked, stop
                )
        finally:
            self._turns.release()

    def _busy(self) -> Problem:
        return Problem(
            503,
            "busy",
            f"{self._limits.at_once} recordings are being listened to and {self._limits.queue} "
            "wait. Try again in a moment.",
            {"Retry-After": "5"},
        )

    def _listen(self, recording: Recording, asked: Asked, stop: threading.Event) -> bytes:
        """In a thread: each window becomes JSON at once, so that long answers stay small."""
        began = time.perf_counter()
        parts: list[bytes] = []
        try:
            for window in heard(self._windows(recording, stop), self._bundle, self._score, asked):
                parts.append(window.model_dump_json(exclude_defaults=True).encode())
                self.metrics.audio_seconds.inc(window.seconds)
        except DataError as error:
            raise _problem(error) from None
        if not parts and not stop.is_set():
            raise Problem(422, "silent", "The recording is silent: there is nothing to listen to.")
        head = Answer(
            model=self._bundle.name,
            version=self.version,
            bundle_sha256=self._bundle.sha256,
            runtime=self.runtime,
            seconds=round(time.perf_counter() - began, 4),
            highest_hz=self._bundle.features.sample_rate / 2,
            windows=[],
            species=None if asked == "detections" else known(self._bundle),
        ).model_dump_json(exclude_defaults=True)
        before, found, after = head.partition(_NO_WINDOWS)
        assert found
        return b"".join((before.encode(), b'"windows":[', b",".join(parts), b"]", after.encode()))

    def _windows(self, recording: Recording, stop: threading.Event) -> Iterator[audio.Window]:
        # Training keeps the first minute by default; a served recording is heard to its end.
        longest = self._limits.longest_seconds
        config = self._bundle.features.model_copy(update={"seconds": longest})
        spent = 0.0
        windows = self.decoder.windows(
            recording.descriptor, config, bounds=self._limits.bounds, stopped=stop.is_set
        )
        try:
            while True:
                began = time.perf_counter()
                window = next(windows, None)
                spent += time.perf_counter() - began
                if window is None or stop.is_set():
                    return
                yield window
        finally:
            windows.close()  # type: ignore[attr-defined]
            self.metrics.decode.observe(spent)

    def _score(self, frames: Floats) -> Future[Floats]:
        return self._batcher.submit(frames)


async def _first(*events: asyncio.Event) -> None:
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _problem(error: DataError) -> Problem:
    word, _, rest = str(error).partition(":")
    if word not in _UNHEARD:
        raise error
    status, code = _UNHEARD[word]
    told = rest.strip().rstrip(".")
    return Problem(
        status,
        code,
        f"The recording cannot be used: {told}. {_ADVICE.get(code, _SEND_ANOTHER)}",
    )
