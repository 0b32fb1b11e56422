"""What steps read and change beside their inputs and outputs: sources, weights, the registry."""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from birdsong import artifacts
from birdsong.errors import BirdsongError

Outputs = Mapping[str, Mapping[str, Any]]

_PLACES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("source", ("demo:",)),
    ("no_call_source", ()),
    ("weights", ("imagenet", "none")),
    ("frame_labels", ()),
)
"""Inputs of steps that name places, and the beginnings of values that do not."""


def state(values: Mapping[str, Any]) -> str | None:
    """What the places hold that inputs of a step name, cheaply; None where that cannot be told.

    Only the inputs in `_PLACES` name places. A local folder is known by the names, sizes
    and times of its files, a file by its size and time; generated songs by the code; a table of
    frame labels with the recordings beside it. A bucket may hold other bytes under the same name
    and size, so a step that reads one always runs; if it finds the same, the steps after it are
    reused all the same.
    """
    found = []
    for name, plain in _PLACES:
        text = values.get(name)
        if not isinstance(text, str) or not text or text.startswith(plain):
            continue
        if name == "weights" and values.get("weights_sha256"):
            continue
        place = Path(text.removeprefix("file://")).expanduser()
        if "://" in str(text).removeprefix("file://") or not place.exists():
            return None
        if name == "frame_labels":
            place = place.resolve().parent
        found.append(f"{name} {_stamp(place)}")
    return "\n".join(found)


def _stamp(place: Path) -> str:
    total = hashlib.sha256()
    if place.is_file():
        state = place.stat()
        return f"{state.st_size} {state.st_mtime_ns}"
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(place, followlinks=True):
        state = Path(folder).stat()
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):  # a link to nothing
                state = file.stat()
                line = f"{file.relative_to(place)}\0{state.st_size}\0{state.st_mtime_ns}\0"
                total.update(line.encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def still_holds(component: str, values: Mapping[str, Any], outputs: Outputs) -> bool:
    """Whether what a finished step did outside of its outputs is still so.

    Only register does anything there. Its result is reused while the registry is a file and holds
    the version with the same bundle; a refusal by comparison to the champion is asked for again.
    """
    if component != "register" or "registry" not in values:
        return True
    file = Path(str(values["registry"]).removeprefix("sqlite:///"))
    if not str(values["registry"]).startswith("sqlite:///") or not file.is_file():
        return False
    try:
        version = artifacts.read_json(Path(outputs["version"]["path"]) / "version.json")
        if version["status"] != "registered" and values.get("gate") == "champion":
            return False
        # Not by MLflow, which takes seconds to import.
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT t.key, t.value FROM model_version_tags t JOIN model_versions v "
                "ON v.name = t.name AND v.version = t.version "
                "WHERE v.name = ? AND v.version = ? AND v.current_stage <> 'Deleted_Internal'",
                (version["name"], int(version["version"])),
            ).fetchall()
        tags = dict(rows)
        place = Path(str(version["uri"]).removeprefix("file://"))
        return (
            tags.get("bundle_sha256") == version["bundle_sha256"]
            and tags.get("status") == version["status"]
            and place.is_dir()
        )
    except (BirdsongError, sqlite3.Error, OSError, KeyError, ValueError, TypeError):
        return False
