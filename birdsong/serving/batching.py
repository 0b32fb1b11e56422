"""One thread that runs the network, over the frames of all requests that wait."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

MOST_FRAMES = 48
"""Frames of one pass, four full windows; more gain nothing."""


class FrameScorer(Protocol):
    """What `birdsong.scoring.Scorer` and the scorers of other runtimes give."""

    def frames(self, frames: Floats, /) -> Floats:
        """Scores in [0, 1], shape (frames, species)."""
        ...


class Batcher:
    """Scores what waits, together; nothing waits for others to come.

    While the network works on one batch the next one gathers. Since the network itself uses all
    cores, a second pass at the same time would only slow the first.
    """

    def __init__(
        self,
        scorer: FrameScorer,
        tell: Callable[[int, float], None] = lambda frames, seconds: None,
    ) -> None:
        """Start the thread.

        Args:
            scorer: The network.
            tell: Hears frames and seconds of each pass.
        """
        self._scorer, self._tell = scorer, tell
        self._waiting: queue.SimpleQueue[tuple[Floats, Future[Floats]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def submit(self, frames: Floats) -> Future[Floats]:
        """Score frames, float32 of shape (frames, samples), with those of others."""
        future: Future[Floats] = Future()
        self._waiting.put((frames, future))
        return future

    def close(self) -> None:
        """End the thread, after all that was submitted."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, count, last = [first], len(first[0]), False
            while count < MOST_FRAMES:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                batch.append(more)
                count += len(more[0])
            self._score([one for one in batch if one[1].set_running_or_notify_cancel()])
            if last:
                return

    def _score(self, batch: list[tuple[Floats, Future[Floats]]]) -> None:
        if not batch:
            return
        began = time.perf_counter()
        try:
            frames = batch[0][0] if len(batch) == 1 else np.concatenate([f for f, _ in batch])
            scores = self._scorer.frames(frames)
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)
            return
        self._tell(len(frames), time.perf_counter() - began)
        start = 0
        for part, future in batch:
            future.set_result(scores[start : start + len(part)])
            start += len(part)
