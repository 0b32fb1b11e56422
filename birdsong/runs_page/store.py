"""What the page knows of a runs folder: records, kept as long as their files do not change.

Records name places as they were when the run was made. A runs folder that was moved or mounted
elsewhere still shows its files: a place is found by the run's id within it.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsong import progress
from birdsong.errors import BirdsongError, DataError
from birdsong.runs import headline, record
from birdsong.runs.record import Run, State, Step
from birdsong.runs_page import dag

_TAIL = 8192


@dataclass
class _Kept:
    stamp: tuple[int, int]
    summary: dict[str, Any]
    run: Run | None = None
    detail: dict[str, Any] | None = None


class Store:
    """The runs of one folder, as the page shows them; all paths are relative to the folder."""

    def __init__(self, runs: str | Path) -> None:
        self.folder = Path(runs).resolve()
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()

    def summaries(self) -> list[dict[str, Any]]:
        """A summary of each run, newest first; one that cannot be read says so."""
        names = sorted(
            (place.parent.name for place in self.folder.glob(f"*/{record.RECORD}")), reverse=True
        )
        return [kept.summary for name in names if (kept := self._look(name)) is not None]

    def detail(self, name: str) -> dict[str, Any]:
        """All that the page shows of one run, and its graph.

        Raises:
            DataError: There is no such run, or its record cannot be read.
        """
        kept = self._look(name)
        if kept is None:
            raise DataError(f"There is no run {name!r} in {self.folder}.")
        if kept.run is None:
            kept.run = self.run(name)
        if kept.detail is None:
            kept.detail = self._details(kept.run, kept.summary)
        if kept.run.state == State.RUNNING:
            running = {
                step.name: told
                for step in kept.run.steps.values()
                if step.state == State.RUNNING and (told := self._progress(step)) is not None
            }
            return kept.detail | {"progress": running}
        return kept.detail

    def run(self, name: str) -> Run:
        """The record of one run.

        Raises:
            DataError: There is none, or it cannot be read.
        """
        if Path(name).name != name or name in ("", ".", ".."):
            raise DataError(f"{name!r} is not the id of a run.")
        try:
            return record.read(self.folder / name)
        except AttributeError as error:  # JSON, but no object
            raise DataError(f"{name}/{record.RECORD} cannot be read ({error}).") from error

    def relative(self, path: str | None) -> str | None:
        """A place of a record, relative to the runs folder; None where it is not within it."""
        if not path or ("://" in path and not path.startswith("file://")):
            return None
        place = Path(path.removeprefix("file://"))
        if place.is_absolute():
            for folder in (self.folder, Path.cwd() / self.folder):
                if place.is_relative_to(folder):
                    return str(place.relative_to(folder))
        for position, part in enumerate(place.parts[:-1]):
            inside = place.parts[position + 1] in ("artifacts", "logs", "pages")
            if inside and (self.folder / part / record.RECORD).is_file():
                return str(Path(*place.parts[position:]))
        return None

    def locate(self, path: str) -> Path:
        """A file or folder of the runs folder; links that lead out of it are refused.

        Raises:
            PermissionError: It lies elsewhere.
            FileNotFoundError: It does not exist.
        """
        try:
            place = (self.folder / path).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise FileNotFoundError(path) from error
        if "\0" in path or not place.is_relative_to(self.folder):
            raise PermissionError(path)
        if not place.exists():
            raise FileNotFoundError(path)
        return place

    def log(self, name: str, step: str) -> Path | None:
        """The log of a step; None while it has none."""
        entry = self.run(name).steps.get(step)
        where = self.relative(entry.log) if entry else None
        if where is None:
            return None
        try:
            return self.locate(where)
        except FileNotFoundError:
            return None

    def _look(self, name: str) -> _Kept | None:
        try:
            stat = (self.folder / name / record.RECORD).stat()
        except (OSError, ValueError):
            return None
        stamp = (stat.st_mtime_ns, stat.st_size)
        with self._lock:
            kept = self._kept.get(name)
        # A record that says RUNNING is of a run that may have died without touching it.
        if kept and kept.stamp == stamp and kept.summary["state"] != State.RUNNING:
            return kept
        kept = self._read(name, stamp)
        with self._lock:
            self._kept[name] = kept
        return kept

    def _read(self, name: str, stamp: tuple[int, int]) -> _Kept:
        try:
            short = headline.read(self.folder / name / record.RECORD)
            if short is not None and short["state"] != State.RUNNING:
                return _Kept(stamp, short | {"id": name})
            run = self.run(name)
        except (BirdsongError, OSError) as error:
            return _Kept(stamp, {"id": name, "state": "UNREADABLE", "error": str(error)})
        return _Kept(stamp, headline.of(run), run)

    def _details(self, run: Run, short: Mapping[str, Any]) -> dict[str, Any]:
        try:
            ir = json.loads((run.folder / record.PIPELINE).read_text())
        except (OSError, ValueError):
            ir = {}
        document = dict(short) | run.as_json()
        for step in document["steps"]:
            step["log"] = self.relative(step["log"])
            for values in (step["inputs"], step["outputs"]):
                for value in values.values():
                    if "uri" in value:
                        value["file"] = self.relative(value.get("path") or value["uri"])
        return document | {"graph": dag.graph(run, ir), "progress": {}}

    def _progress(self, step: Step) -> dict[str, Any] | None:
        where = self.relative(step.log)
        if where is None:
            return None
        try:
            with self.locate(where).open("rb") as file:
                file.seek(0, 2)
                file.seek(max(file.tell() - _TAIL, 0))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return None
        for line in reversed(lines):
            if (told := progress.parse(line)) is not None:
                return dict(vars(told))
        return None
