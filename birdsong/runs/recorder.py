"""Writes the record of a run while it goes on; see `birdsong.runs.record` for what it holds."""

import contextlib
import datetime
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from birdsong import artifacts
from birdsong.errors import StorageError
from birdsong.runs import processes
from birdsong.runs.record import ID, PIPELINE, RECORD, Run, State, Step, now

_STAMP = "%Y%m%d-%H%M%S"


class Recorder:
    """Writes the record of the run that this process executes."""

    def __init__(
        self,
        runs: str | Path,
        pipeline: Mapping[str, Any],
        arguments: Mapping[str, Any],
        steps: Mapping[str, Step],
        **more: Any,
    ) -> None:
        """Create the run's folder and its first record.

        Args:
            runs: Folder of all runs; made if absent.
            pipeline: The compiled pipeline.
            arguments: Value of each parameter of the pipeline.
            steps: The steps that may run, in order.
            **more: Further fields of `Run`.

        Raises:
            StorageError: The folder cannot be written.
        """
        folder = _make_folder(Path(runs).absolute(), pipeline)
        own = processes.current()
        self.run = Run(
            id=folder.name,
            pipeline=pipeline["pipelineInfo"]["name"],
            folder=folder,
            arguments=dict(arguments),
            started=now(),
            host=own.host,
            pid=own.pid,
            process_started=own.started,
            steps=dict(steps),
            **more,
        )
        self._lock = threading.RLock()
        # Seconds are counted by a clock that nobody sets; the times are for people.
        self._began: dict[str, float] = {"": time.monotonic()}
        self.save()

    def save(self) -> None:
        """Replace the record on disk.

        Raises:
            StorageError: It cannot be written; the last one is still there.
        """
        place = self.run.folder / RECORD
        with self._lock:
            try:
                artifacts.write_json(place, self.run.as_json(), durable=True)
            except OSError as error:
                raise StorageError(
                    f"The record {place} cannot be written ({error.strerror or error}). When "
                    f"that is mended, go on with: resume {self.run.id}"
                ) from error

    def update(self, step: str, **changes: Any) -> Step:
        """Change fields of a step and save; an unknown step (of a loop) is added."""
        with self._lock:
            entry = self.run.steps.setdefault(step, Step(name=step))
            for name, value in changes.items():
                setattr(entry, name, value)
            if "started" in changes:
                self._began[step] = time.monotonic()
            entry.seconds = self._seconds(step) if entry.ended else None
            self.save()
            return entry

    def finish(self, state: State, error: str | None = None) -> None:
        """Close the record: steps that never started are skipped, open ones are cancelled."""
        with self._lock:
            for entry in self.run.steps.values():
                if entry.state == State.PENDING:
                    entry.state = State.SKIPPED
                elif entry.state == State.RUNNING:
                    entry.state, entry.ended = State.CANCELLED, now()
                    entry.seconds = self._seconds(entry.name)
            self.run.state, self.run.error, self.run.ended = state, error, now()
            self.run.seconds = self._seconds("")
            self.save()

    def _seconds(self, step: str) -> float | None:
        began = self._began.get(step)
        return None if began is None else round(time.monotonic() - began, 3)


def _make_folder(runs: Path, pipeline: Mapping[str, Any]) -> Path:
    folder = None
    try:
        runs.mkdir(parents=True, exist_ok=True)
        while folder is None:
            # Another run that starts at this moment may draw the same digits.
            with contextlib.suppress(FileExistsError):
                wanted = runs / _next_id(runs)
                wanted.mkdir()
                folder = wanted
        for name in ("logs", "artifacts"):
            (folder / name).mkdir()
        artifacts.write_json(folder / PIPELINE, dict(pipeline), durable=True)
        return folder
    except OSError as error:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise StorageError(
            f"The runs folder {runs} cannot be written ({error.strerror}). "
            "Choose another one with --runs."
        ) from error


def _next_id(runs: Path) -> str:
    """The time and four digits; after all that are there, also those of the same second.

    Where the clock was set back by less than a day (the end of summer time), the last one's time
    is taken on, so that the order of names stays the order of runs.
    """
    moment = datetime.datetime.now().replace(microsecond=0)
    digits = secrets.randbelow(0x8000)
    newest = max((place.name for place in runs.iterdir() if ID.fullmatch(place.name)), default="")
    if newest[:15] >= moment.strftime(_STAMP):
        with contextlib.suppress(ValueError):  # a name that only looks like a time
            last = datetime.datetime.strptime(newest[:15], _STAMP)
            if last - moment < datetime.timedelta(days=1):
                moment, digits = last, int(newest[16:], 16) + 1 + secrets.randbelow(16)
    if digits > 0xFFFF:
        moment, digits = moment + datetime.timedelta(seconds=1), secrets.randbelow(0x8000)
    return f"{moment.strftime(_STAMP)}-{digits:04x}"
