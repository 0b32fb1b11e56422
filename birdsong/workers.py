"""Run one function over many items on all cores, results in order, memory flat."""

import collections
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from birdsong.errors import BirdsongError

T = TypeVar("T")
R = TypeVar("R")


def count_cores(quota: str | Path = "/sys/fs/cgroup/cpu.max") -> int:
    """Cores that this process may use: by affinity, and by the quota of its container.

    Args:
        quota: File of cgroup 2 with microseconds of CPU per period; a pod that is limited to 2
            CPUs sees all 64 cores of its node otherwise.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(OSError, ValueError):
        allowed, period = Path(quota).read_text().split()
        if allowed != "max":
            cores = min(cores or 1, max(1, int(allowed) // int(period)))
    return cores or 1


def in_order(
    function: Callable[[T], R],
    items: Iterable[T],
    workers: int,
    describe: Callable[[T], str] = str,
) -> Generator[R, None, None]:
    """Apply a function to items in worker processes; results come in the order of the items.

    At most three items per worker are under way or wait to be taken, so memory does not grow
    with the number of items. With one worker everything happens in this process.

    Args:
        function: A function at the top level of a module.
        items: Its arguments, picklable.
        workers: Number of processes.
        describe: Names an item in an error.

    Yields:
        The function's results. What it raises is raised here.

    Raises:
        BirdsongError: A worker died, as when the system killed it for lack of memory.
    """
    if workers == 1:
        yield from map(function, items)
        return
    # Spawned, since a process with threads (as TensorFlow or pyarrow start them) must not fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_follow_parent)
    waiting: collections.deque[tuple[str, Future[R]]] = collections.deque()
    try:
        with _nobody_is_main():
            for item in items:
                waiting.append((describe(item), pool.submit(function, item)))
                if len(waiting) >= 3 * workers:
                    yield _take_first(waiting)
            while waiting:
                yield _take_first(waiting)
    except BrokenProcessPool:
        names = [name for name, future in waiting if not future.done() or future.exception()]
        raise BirdsongError(
            f"One of {workers} worker processes died without a word: most often the system killed "
            "it for lack of memory, else a decoder crashed. Give the step more memory or fewer "
            f"cores and run it again. In work or next were: {', '.join(names) or 'the last items'}."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _take_first(waiting: collections.deque[tuple[str, Future[R]]]) -> R:
    # It leaves the queue after its result is there, so that an error can name it.
    result = waiting[0][1].result()
    waiting.popleft()
    return result


@contextlib.contextmanager
def _nobody_is_main() -> Iterator[None]:
    """Keep workers from importing the caller's main module again.

    In a component that is kfp's executor, a second of CPU in each worker for nothing; in a script
    without a main guard it would run the script again.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _follow_parent() -> None:
    """End a worker with its parent, however that ended; leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
