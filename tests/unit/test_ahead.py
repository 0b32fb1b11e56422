"""Work that is done ahead: in order, bounded, and ended with whoever waits for it."""

import threading
import time
from collections.abc import Iterator

import pytest

from birdsong.ahead import read_ahead, read_each_ahead


def running() -> int:
    return sum(thread.name == "read-ahead" for thread in threading.enumerate())


def test_items_of_several_iterators_come_in_order_however_long_each_takes() -> None:
    def slow(part: int) -> Iterator[tuple[int, int]]:
        for item in range(3):
            time.sleep(0.02 * (3 - part))
            yield part, item

    found = list(read_each_ahead((slow(part) for part in range(3)), 2, 3))
    assert found == [(part, item) for part in range(3) for item in range(3)]
    assert running() == 0


def test_no_more_is_made_ahead_than_was_asked_for() -> None:
    begun: list[int] = []
    made: list[tuple[int, int]] = []

    def part(number: int) -> Iterator[int]:
        begun.append(number)
        for item in range(100):
            made.append((number, item))
            yield item

    ahead = read_each_ahead((part(number) for number in range(10)), 3, 2)
    assert next(ahead) == 0
    time.sleep(0.3)
    assert begun == [0, 1]
    # Three wait, one is held by the thread; of the first one was taken.
    assert sorted(made) == [(0, item) for item in range(5)] + [(1, item) for item in range(4)]
    ahead.close()
    assert running() == 0


def test_an_error_comes_in_its_place_and_ends_the_threads() -> None:
    def part(number: int) -> Iterator[int]:
        yield number
        if number == 1:
            raise ValueError("broken")

    ahead = read_each_ahead((part(number) for number in range(5)), 4, 3)
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(ValueError, match="broken"):
        next(ahead)
    assert running() == 0


def test_a_loop_that_breaks_off_closes_what_the_iterator_holds() -> None:
    closed = threading.Event()

    def part() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    ahead = read_ahead(part(), 2)
    next(ahead)
    ahead.close()
    assert closed.is_set()
    assert running() == 0
