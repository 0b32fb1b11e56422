"""Which recordings belong together, so that they must stay on one side of a split.

Recordings of one author on one day at one place are often takes of the same bird: a model that
trained on one knows the other. Copies of the same bytes are the same recording.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

PLACE_DECIMALS = 2
"""Latitude and longitude are the same place when they agree so far: about 1 km."""

_NOBODY = {"", "unknown", "anonymous", "n/a", "na", "none", "nan", "null"}
_DAY = re.compile(r"\d{4}-(?!00)\d{2}-(?!00)\d{2}")


@dataclass(frozen=True)
class Group:
    """Recordings that stay together.

    Attributes:
        name: A hash of what they share, hexadecimal.
        grouped_by: What they share, as `author+date+place`, or `alone`.
        rows: Their positions in the table.
    """

    name: str
    grouped_by: str
    rows: tuple[int, ...]


def make_groups(table: "pd.DataFrame", keys: Sequence[str]) -> list[Group]:
    """Find the recordings that may belong together.

    Each recording is grouped by as many of the keys as it has, at best by all, else by author
    and place, else by author (of those that are among `keys`), else it stands alone. Copies of
    the same bytes are always together.

    Args:
        table: Columns id, sha256, author, date, latitude, longitude.
        keys: Of author, date and place.

    Returns:
        The groups, each recording in exactly one, in an order that only depends on content.
    """
    ladder: list[tuple[str, ...]] = []
    rungs: list[tuple[str, ...]] = [("author", "date", "place"), ("author", "place")]
    for rung in [*rungs, ("author",), ("place",)]:
        wanted = tuple(key for key in rung if key in keys)
        # A date alone, or a place where authors count, says nothing about who belongs together
        # unless the user asked for nothing else.
        if wanted and wanted not in ladder and ("author" in wanted or "author" not in keys):
            ladder.append(wanted)
    values = {
        "author": [author_of(value) for value in table["author"]],
        "date": [_day(value) for value in table["date"]],
        "place": [
            place_of(latitude, longitude)
            for latitude, longitude in zip(table["latitude"], table["longitude"], strict=True)
        ],
    }
    hashes = table["sha256"].tolist()
    ids = table["id"].tolist()
    shared: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in range(len(table)):
        for wanted in ladder:
            if all(values[key][row] for key in wanted):
                shared["+".join(wanted), "\n".join(values[key][row] for key in wanted)].append(row)
                break
        else:
            shared["alone", ids[row]].append(row)

    # Copies of the same bytes tie their groups together.
    leader = {key: key for key in shared}

    def find(key: tuple[str, str]) -> tuple[str, str]:
        while leader[key] != key:
            leader[key] = key = leader[leader[key]]
        return key

    first_with: dict[str, tuple[str, str]] = {}
    for key in sorted(shared):
        for row in shared[key]:
            other = find(first_with.setdefault(hashes[row], key))
            smaller, larger = sorted((other, find(key)))
            leader[larger] = smaller
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for key in sorted(shared):
        members[find(key)] += shared[key]
    return [
        Group(digest(*key)[:16], key[0], tuple(sorted(rows, key=lambda row: ids[row])))
        for key, rows in members.items()
    ]


def digest(*texts: str) -> str:
    """SHA-256 of some texts, hexadecimal."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def author_of(value: object) -> str:
    name = " ".join(value.split()).casefold() if isinstance(value, str) else ""
    return "" if name in _NOBODY else name


def _day(value: object) -> str:
    """The day of an ISO date; nothing for a date without a day, as 2019-05-00."""
    match = _DAY.match(value) if isinstance(value, str) else None
    return match[0] if match else ""


def place_of(latitude: float | None, longitude: float | None) -> str:
    if latitude is None or longitude is None or latitude != latitude or longitude != longitude:
        return ""
    # Adding 0.0 turns -0.0 into 0.0.
    return ", ".join(
        f"{round(value, PLACE_DECIMALS) + 0.0:.{PLACE_DECIMALS}f}"
        for value in (latitude, longitude)
    )
