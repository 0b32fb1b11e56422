"""What lies in a runs folder beside runs and that nothing needs any more, for `runs gc`.

Of a process that was killed while it wrote: names that end in `.writing`, folders of runs that
have no record yet, the workspace of kfp. Of trainings that were interrupted and not taken up again:
their checkpoints. Of the page: what the commands printed that its buttons started.
"""

import datetime
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from birdsong.runs.record import ID, PIPELINE, RECORD, Run, State

CHECKPOINTS = ".checkpoints"
"""Folder in the runs folder: trainings at work keep their state there, one folder for each."""

PAGE = ".page"
"""Folder in the runs folder: what the commands print that the page of runs started."""

TRASH = ".gc"
"""Folder in the runs folder that removed things are renamed into before they are deleted, so that
a run is either there or gone. Two levels deep, where nobody looks for records."""

_YOUNG_SECONDS = 3600.0
"""Somebody may still be at work with what is younger than this."""
_DAY = 86_400.0


@dataclass(frozen=True)
class Leftover:
    """A file or folder that can go, and why."""

    place: Path
    why: str


def find(
    runs: Path, found: Iterable[Run], kept: Mapping[str, str], older_than_days: float | None = None
) -> list[Leftover]:
    """All that can go, in kept runs and beside runs.

    Args:
        runs: Folder of all runs.
        found: All runs in it.
        kept: Ids of those that stay; the others go as a whole or are looked at by gc itself.
        older_than_days: Only what was last written longer ago than this.
    """
    all_runs = list(found)
    least = max((older_than_days or 0.0) * _DAY, _YOUNG_SECONDS)
    return [
        leftover
        for leftover in (
            *_trash(runs),
            *_unrecorded(runs),
            *_in_runs(run for run in all_runs if run.id in kept),
            *_checkpoints(runs, all_runs, kept),
            *_page(runs, all_runs),
        )
        if leftover.place.name == TRASH or _age_seconds(leftover.place) > least
    ]


def _age_seconds(place: Path) -> float:
    """Seconds since something in it was written; 0 where it changes during the look."""
    try:
        times = [place.lstat().st_mtime]
        if place.is_dir() and not place.is_symlink():
            times += [file.lstat().st_mtime for file in place.rglob("*")]
    except FileNotFoundError:
        return 0.0
    return time.time() - max(times)


def _trash(runs: Path) -> Iterator[Leftover]:
    if (runs / TRASH).is_dir():
        yield Leftover(runs / TRASH, "of a gc that was interrupted")


def _unrecorded(runs: Path) -> Iterator[Leftover]:
    for place in sorted(runs.iterdir()):
        if not ID.fullmatch(place.name) or not place.is_dir() or (place / RECORD).exists():
            continue
        own = {"logs", "artifacts", PIPELINE}
        if all(part.name in own or part.name.endswith(".writing") for part in place.iterdir()):
            yield Leftover(place, "a run that was killed before its first record")


def _in_runs(kept: Iterable[Run]) -> Iterator[Leftover]:
    for run in kept:
        if run.state == State.RUNNING:
            continue
        if (run.folder / "workspace").is_dir():
            yield Leftover(run.folder / "workspace", "of an engine that was killed")
        for place in _writing(run.folder):
            yield Leftover(place, "of a step that was killed while it wrote")


def _writing(folder: Path) -> Iterator[Path]:
    """Half-written files and folders, without a look into those that are whole."""
    places = [folder, folder / "artifacts", *(folder / "artifacts").glob("*/")]
    for place in places:
        if place.is_dir():
            yield from sorted(place.glob(".*.writing"))


def _checkpoints(
    runs: Path, all_runs: Iterable[Run], kept: Mapping[str, str]
) -> Iterator[Leftover]:
    """Checkpoints that no kept run which ended before its time has written."""
    spans = []
    for run in all_runs:
        if run.state == State.RUNNING:
            return  # it may be at work with any of them
        if run.id in kept and run.state != State.SUCCEEDED:
            spans.append((_seconds(run.started), _seconds(run.ended)))
    for place in sorted((runs / CHECKPOINTS).glob("*/")):
        written = time.time() - _age_seconds(place)
        if not any(
            (start is None or start <= written) and (end is None or written <= end)
            for start, end in spans
        ):
            yield Leftover(place, "checkpoints of a training that no kept run would take up")


def _seconds(text: str | None) -> float | None:
    return datetime.datetime.fromisoformat(text).timestamp() if text else None


def _page(runs: Path, all_runs: Iterable[Run]) -> Iterator[Leftover]:
    if any(run.state == State.RUNNING for run in all_runs):
        return
    for place in sorted((runs / PAGE).glob("*.log")):
        yield Leftover(place, "what a command printed that the page started")
