"""Removes what no kept run needs: whole runs, or of a run the outputs that nobody reuses.

A reused output lies in the folder of the run that made it, so what a kept run's record points to
stays, whoever made it. Versions of the registry stay too: they are removed in MLflow.
"""

import contextlib
import datetime
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from birdsong import artifacts
from birdsong.errors import BirdsongError, DataError
from birdsong.runs import leftovers, record, reuse
from birdsong.runs.leftovers import TRASH, Leftover
from birdsong.runs.record import Run, State


@dataclass
class Removal:
    """What is removed of one run.

    Attributes:
        run: The run.
        places: Folders to remove; the run's own folder where nothing of it is needed.
        bytes: Their size; files with several names, as pages, count once.
        needed_by: Runs because of which the rest of it stays.
    """

    run: Run
    places: list[Path]
    bytes: int
    needed_by: list[str]


@dataclass
class Plan:
    """What gc removes, and which runs it keeps and why (run id to reason).

    Attributes:
        removals: Of runs.
        leftovers: Beside runs, and what killed processes left in kept ones.
        leftover_bytes: Size of the leftovers.
        kept: Runs that stay.
    """

    removals: list[Removal] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)
    leftover_bytes: int = 0
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Of all that goes together."""
        return sum(removal.bytes for removal in self.removals) + self.leftover_bytes

    @property
    def empty(self) -> bool:
        """Whether nothing goes."""
        return not self.removals and not self.leftovers


def make(runs: str | Path, *, keep: int = 10, older_than_days: float | None = None) -> Plan:
    """Decide what can go.

    Args:
        runs: Folder of all runs.
        keep: The newest runs that stay in any case.
        older_than_days: Only runs that ended longer ago than this go; None for any age.

    Raises:
        DataError: A record cannot be read, so nobody knows what that run needs.
    """
    found = [_read(place.parent) for place in sorted(Path(runs).glob(f"*/{record.RECORD}"))[::-1]]
    plan = Plan()
    champions = _champions(Path(runs))
    for number, run in enumerate(found):
        if run.state == State.RUNNING:
            plan.kept[run.id] = "is running"
        elif number < keep:
            plan.kept[run.id] = f"among the newest {keep}"
        elif older_than_days is not None and _age_days(run) <= older_than_days:
            plan.kept[run.id] = f"not older than {older_than_days:g} days"
        elif _version(run) in champions:
            plan.kept[run.id] = "registered under an alias"
    # A run at work takes outputs of its parent step by step.
    parents = {run.parent: run.id for run in found if run.state == State.RUNNING and run.parent}
    for parent, child in parents.items():
        if parent not in plan.kept:
            plan.kept[parent] = f"{child}, which is running, goes on from it"
    needed: dict[Path, list[str]] = {}
    for run in found:
        if run.id in plan.kept:
            for place in _points_to(run):
                needed.setdefault(place, []).append(run.id)
    for run in found:
        if run.id not in plan.kept:
            removal = _removal(run, needed)
            if removal.places:
                plan.removals.append(removal)
    plan.leftovers = leftovers.find(Path(runs).absolute(), found, plan.kept, older_than_days)
    plan.leftover_bytes = _size([leftover.place for leftover in plan.leftovers])
    return plan


def _read(folder: Path) -> Run:
    try:
        return record.read(folder)
    except DataError as error:
        raise DataError(
            f"{error} Nothing is removed, because it is not known what that run needs; remove "
            f"{folder} by hand if it is of no use."
        ) from error


def _age_days(run: Run) -> float:
    ended = datetime.datetime.fromisoformat(run.ended or run.started)
    return (datetime.datetime.now(datetime.UTC) - ended).total_seconds() / 86_400


def _points_to(run: Run) -> Iterator[Path]:
    for step in run.steps.values():
        for value in (*step.outputs.values(), *step.inputs.values()):
            for item in value.get("items", [value]):
                if "uri" in item and reuse.is_here(item["uri"]):
                    yield Path(item["path"])


def _version(run: Run) -> tuple[str, int] | None:
    """Name and number of the version that a run registered."""
    for step in run.steps.values():
        path = step.outputs.get("version", {}).get("path")
        if step.name == "register" and path:
            with contextlib.suppress(BirdsongError, KeyError, ValueError, TypeError):
                version = artifacts.read_json(Path(path) / "version.json")
                return str(version["name"]), int(version["version"])
    return None


def _champions(runs: Path) -> set[tuple[str, int]]:
    """Versions with an alias in the registry of the runs folder."""
    file = runs / "registry" / "mlflow.db"
    if not file.is_file():
        return set()
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT name, version FROM registered_model_aliases")
            return {(str(name), int(version)) for name, version in rows}
    except sqlite3.Error as error:
        raise DataError(
            f"{file} cannot be read ({error}), so it is not known which run made the champion. "
            "Nothing is removed."
        ) from error


def _removal(run: Run, needed: dict[Path, list[str]]) -> Removal:
    inside = {place: who for place, who in needed.items() if run.folder in place.parents}
    if not inside:
        return Removal(run, [run.folder], _size([run.folder]), [])
    places = []
    for folder in _leaves(run.folder / "artifacts", set(inside)):
        places.append(folder)
    who = sorted({name for names in inside.values() for name in names})
    return Removal(run, places, _size(places), who)


def _leaves(folder: Path, wanted: set[Path]) -> Iterator[Path]:
    """The highest places under a folder that hold nothing wanted and are not within it."""
    if not folder.is_dir():
        return
    for place in sorted(folder.iterdir()):
        if place in wanted:
            continue
        if any(place in other.parents for other in wanted):
            yield from _leaves(place, wanted)
        elif place.is_dir() or place.name != "executor_output.json":
            yield place


def _size(places: list[Path]) -> int:
    seen: dict[tuple[int, int], int] = {}
    for place in places:
        for file in (place, *place.rglob("*")):
            with contextlib.suppress(OSError):
                state = file.lstat()
                if not file.is_dir():
                    seen[state.st_dev, state.st_ino] = state.st_blocks * 512
    return sum(seen.values())


def remove(plan: Plan, runs: str | Path, *, keep: int, older_than_days: float | None) -> Plan:
    """Remove what was decided, if it still may go: what a new run took meanwhile stays.

    Returns:
        What was removed.
    """
    trash = Path(runs) / TRASH
    agreed = {place for removal in plan.removals for place in removal.places}
    agreed |= {leftover.place for leftover in plan.leftovers}

    def away(place: Path) -> None:
        target = trash / "-".join(place.relative_to(Path(runs).absolute()).parts)
        shutil.rmtree(target, ignore_errors=True)  # of a gc that was killed
        place.rename(target)

    with reuse.locked(runs, exclusive=True):
        now = make(runs, keep=keep, older_than_days=older_than_days)
        trash.mkdir(exist_ok=True)
        done = Plan(kept=now.kept)
        for removal in now.removals:
            places = [place for place in removal.places if place in agreed]
            for place in places:
                away(place)
            if places:
                done.removals.append(removal)
        done.leftovers = [one for one in now.leftovers if one.place in agreed]
        done.leftover_bytes = _size([one.place for one in done.leftovers])
        for leftover in done.leftovers:
            if leftover.place != trash.absolute():
                away(leftover.place)
    shutil.rmtree(trash, ignore_errors=True)
    return done


def as_text(plan: Plan) -> str:
    """The plan for people."""
    from birdsong.runs.plan import size

    lines = []
    for removal in plan.removals:
        rest = (
            f"; the rest is needed by {', '.join(removal.needed_by)}" if removal.needed_by else ""
        )
        what = "all of it" if not removal.needed_by else f"{len(removal.places)} of its outputs"
        state = f"{removal.run.state:<9}"
        lines.append(f"{removal.run.id}  {state}  {size(removal.bytes):>10}  {what}{rest}")
    for why in dict.fromkeys(leftover.why for leftover in plan.leftovers):
        places = [leftover.place for leftover in plan.leftovers if leftover.why == why]
        shown = "/".join(places[0].parts[-2:]) + (" ..." if len(places) > 1 else "")
        lines.append(f"{len(places)} x {why}  {size(_size(places))}  {shown}")
    lines.append(f"kept: {len(plan.kept)} runs")
    lines += [f"  {run}  {why}" for run, why in plan.kept.items() if "newest" not in why]
    total = f"{len(plan.removals)} runs, {len(plan.leftovers)} leftovers, {size(plan.bytes)}"
    lines.append("Nothing to remove." if plan.empty else f"to remove: {total}")
    return "\n".join(lines)
