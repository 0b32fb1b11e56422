"""Work that is done a little ahead by a thread, such as reading while the network computes."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterator[T], count: int) -> Generator[T, None, None]:
    """Pass items on, up to `count` of them made ahead by a thread.

    What the thread raises is raised here. The thread ends with the loop, also when that breaks off.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(count)
    stopped = threading.Event()

    def put(item: T | None, error: BaseException | None = None, last: bool = False) -> None:
        while not stopped.is_set():
            try:
                return ready.put((item, error, last), timeout=0.1)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(None, last=True)
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error, last = ready.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
