"""Work that is done a little ahead by threads, such as reading while the network computes."""

import collections
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def read_ahead(items: Iterator[T], count: int) -> Generator[T, None, None]:
    """Pass items on, up to `count` of them made ahead by a thread.

    What the thread raises is raised here. The thread ends with the loop, also when that breaks off.
    """
    yield from read_each_ahead([items], count, 1)


def read_each_ahead(
    parts: Iterable[Iterator[T]], count: int, at_once: int
) -> Generator[T, None, None]:
    """Pass on the items of one iterator after the other, of several of them made ahead.

    Args:
        parts: The iterators, each used by one thread.
        count: Items of each that are made ahead.
        at_once: Iterators that are at work at once.

    Yields:
        The items in order. What a thread raises is raised in its place; threads end with the
        loop, also when that breaks off.
    """
    waiting: collections.deque[_Ahead[T]] = collections.deque()
    left = iter(parts)
    try:
        while True:
            while len(waiting) < at_once and (part := next(left, None)) is not None:
                waiting.append(_Ahead(part, count))
            if not waiting:
                return
            yield from waiting[0]
            waiting.popleft().close()
    finally:
        for one in waiting:
            one.stop()
        for one in waiting:
            one.close()


class _Ahead(Generic[T]):
    """An iterator whose items are made by a thread of its own."""

    def __init__(self, items: Iterator[T], count: int) -> None:
        self._items = items
        self._ready: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(count)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, name="read-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            item, error, last = self._ready.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # type: ignore[misc]

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stopped.set()

    def close(self) -> None:
        """End the thread."""
        self.stop()
        self._thread.join()

    def _read(self) -> None:
        try:
            for item in self._items:
                self._put(item)
                if self._stopped.is_set():
                    return
            self._put(None, last=True)
        except BaseException as error:
            self._put(None, error)
        finally:
            # A generator that is broken off ends in its own thread, with what it holds.
            if isinstance(self._items, Generator):
                self._items.close()

    def _put(self, item: T | None, error: BaseException | None = None, last: bool = False) -> None:
        while not self._stopped.is_set():
            try:
                return self._ready.put((item, error, last), timeout=0.1)
            except queue.Full:
                continue
