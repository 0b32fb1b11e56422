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
from birdsong.runs import record
from birdsong.runs.record import Run, State, Step
from birdsong.runs_page import dag

HEADLINES = ("accuracy", "macro_auc", "cmap", "macro_f1", "false_positive_rate")
"""Metrics that the list shows, of the last step that logged them."""

_TAIL = 8192


@dataclass
class _Kept:
    stamp: tuple[int, int]
    run: Run | None
    summary: dict[str, Any]
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
            raise DataError(str(kept.summary["error"]))
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
        if kept and kept.stamp == stamp and not (kept.run and kept.run.state == State.RUNNING):
            return kept
        try:
            run = self.run(name)
        except BirdsongError as error:
            kept = _Kept(stamp, None, {"id": name, "state": "UNREADABLE", "error": str(error)})
        else:
            kept = _Kept(stamp, run, summary(run))
        with self._lock:
            self._kept[name] = kept
        return kept

    def _details(self, run: Run, short: Mapping[str, Any]) -> dict[str, Any]:
        try:
            ir = json.loads((run.folder / record.PIPELINE).read_text())
        except (OSError, ValueError):
            ir = {}
        document = run.as_json() | dict(short)
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


def summary(run: Run) -> dict[str, Any]:
    """What the list shows of a run."""
    metrics: dict[str, float] = {}
    for step in run.steps.values():
        wanted = (name for name in HEADLINES if name in step.metrics)
        for name in wanted:
            metrics[name] = step.metrics[name]
            for end in ("low", "high"):
                metrics.pop(f"{name}_{end}", None)
                if f"{name}_{end}" in step.metrics:
                    metrics[f"{name}_{end}"] = step.metrics[f"{name}_{end}"]
        if step.name.startswith("evaluate"):
            break  # later steps compare with other models under the same names
    states = [str(step.state) for step in run.steps.values()]
    return {
        "id": run.id,
        "pipeline": run.pipeline,
        "state": str(run.state),
        "started": run.started,
        "ended": run.ended,
        "seconds": run.seconds,
        "source": run.arguments.get("source"),
        "metrics": metrics,
        "parent": run.parent,
        "note": run.note,
        "error": run.error,
        "step_count": len(states),
        "done_count": sum(state in ("SUCCEEDED", "REUSED") for state in states),
        "running": [step.name for step in run.steps.values() if step.state == State.RUNNING],
        "failed": [step.name for step in run.steps.values() if step.state == State.FAILED],
    }
