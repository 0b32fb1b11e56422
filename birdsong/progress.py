"""Progress of long work, told as lines that people can read in a log and programs can parse.

A step of a run is a process of its own, perhaps in a container on another machine; its standard
output is the one channel that every runner carries. A line looks like this:

    progress decode 120/512 recordings

`birdsong.runs` turns such lines into a live bar; in a pod's log they are readable as they are.
"""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
LINE = re.compile(r"^progress (?P<label>\S+) (?P<done>\d+)/(?P<total>\d+) (?P<unit>.*)$")


@dataclass(frozen=True)
class Update:
    """One parsed line of progress."""

    label: str
    done: int
    total: int
    unit: str


def parse(line: str) -> Update | None:
    """Read one line of a log; None where it is not about progress."""
    match = LINE.match(line.rstrip("\n"))
    if not match:
        return None
    return Update(match["label"], int(match["done"]), int(match["total"]), match["unit"])


def tell(label: str, done: int, total: int, unit: str) -> None:
    """Write one line of progress; `label` is one word, as `decode`, `unit` a plural noun."""
    print(f"progress {label} {done}/{total} {unit}", flush=True)


def track(
    items: Iterable[T], total: int, label: str, unit: str, every_seconds: float = 1.0
) -> Iterator[T]:
    """Pass `items` on and tell how many are done, once in `every_seconds` and at the end."""
    told_at, done = time.monotonic(), 0
    tell(label, 0, total, unit)
    for item in items:
        yield item
        done += 1
        if time.monotonic() - told_at >= every_seconds and done < total:
            tell(label, done, total, unit)
            told_at = time.monotonic()
    tell(label, done, total, unit)
