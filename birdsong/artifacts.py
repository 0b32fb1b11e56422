"""What passes between stages: folders of open formats, whole or absent, each with a `spec.json`.

A folder is written under a temporary name beside its place and renamed when it is complete, so a
stage that dies leaves nothing that looks finished. `spec.json` names the schema, the settings that
made the folder, the SHA-256 of each file and the hashes of the artifacts it was made from.
`cost.json` may lie beside it, in no hash: what is made can be the same, what it cost never is.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from birdsong.errors import DataError, StorageError

SPEC, COST = "spec.json", "cost.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Spec:
    """The contents of `spec.json`.

    Attributes:
        kind: What the folder is: recordings, splits, features, hyperparameters, model, ...
        settings: The settings that made it.
        inputs: Name of each input artifact and its hash.
        files: Path within the folder to its SHA-256 and its size in bytes.
        version: Version of the folder's layout.
    """

    kind: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, dict[str, Any]]
    version: int = SCHEMA_VERSION

    @property
    def sha256(self) -> str:
        """The artifact's hash: over its kind, settings, inputs and the hashes of its files."""
        return hashlib.sha256(_canonical(self.__dict__).encode()).hexdigest()


@dataclass
class Folder:
    """A folder while it is written; `path` is its temporary place."""

    path: Path
    known_sha256: dict[str, str] = field(default_factory=dict)
    """Hashes that the writer computed while writing; the others are computed at the end."""


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def create(
    path: str | Path,
    kind: str,
    settings: BaseModel | Mapping[str, Any],
    inputs: Mapping[str, str | Path] | None = None,
) -> Iterator[Folder]:
    """Write an artifact folder whole or not at all.

    Args:
        path: Where the folder shall stand; what a failed attempt left there is replaced.
        kind: Name of the schema, checked again by `read_spec`.
        settings: What made the folder.
        inputs: Name and folder of each artifact that it is made from.

    Yields:
        The folder to write into, under a temporary name beside `path`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.writing"
    temporary.mkdir()
    try:
        folder = Folder(temporary)
        yield folder
        files = {
            str(file.relative_to(temporary)): {
                "sha256": folder.known_sha256.get(str(file.relative_to(temporary)))
                or file_sha256(file),
                "bytes": file.stat().st_size,
            }
            for file in sorted(temporary.rglob("*"))
            if file.is_file() and file != temporary / COST
        }
        spec = Spec(
            kind=kind,
            settings=settings.model_dump(mode="json")
            if isinstance(settings, BaseModel)
            else dict(settings),
            inputs={name: read_spec(place).sha256 for name, place in (inputs or {}).items()},
            files=files,
        )
        (temporary / SPEC).write_text(
            json.dumps(spec.__dict__, indent=1, sort_keys=True, allow_nan=False)
        )
        if target.is_dir():
            shutil.rmtree(target)
        elif target.exists():
            target.unlink()
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_spec(path: str | Path, kind: str | None = None) -> Spec:
    """Read `spec.json` of an artifact.

    Raises:
        DataError: The folder is not a complete artifact, or not of this kind or version.
    """
    place = Path(path) / SPEC
    try:
        spec = Spec(**json.loads(place.read_text()))
    except FileNotFoundError:
        raise DataError(
            f"{path} is not a finished artifact: it has no {SPEC}. "
            "Run the step that makes it again."
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{place} cannot be read ({error}). Run the step that makes it again."
        ) from error
    if spec.version != SCHEMA_VERSION:
        raise DataError(
            f"{path} has layout version {spec.version}, this birdsong reads {SCHEMA_VERSION}. "
            "Run the step that makes it again."
        )
    if kind is not None and spec.kind != kind:
        raise DataError(f"{path} is a {spec.kind!r} artifact, expected {kind!r}.")
    return spec


def verify(path: str | Path) -> Spec:
    """Check that every file of an artifact is there and unchanged.

    Raises:
        DataError: A file is missing or has other bytes; names the first one.
    """
    spec = read_spec(path)
    for name, expected in spec.files.items():
        file = Path(path) / name
        if not file.is_file():
            raise DataError(f"{path} is damaged: {name} is missing.")
        if file_sha256(file) != expected["sha256"]:
            raise DataError(f"{path} is damaged: {name} was changed after it was written.")
    return spec


@contextlib.contextmanager
def write_aside(path: str | Path) -> Iterator[Path]:
    """Write one file whole or not at all: yields a temporary name, renamed at the end."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.writing")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def ensure_room(path: str | Path, needed: int) -> None:
    """Refuse to begin writing what the disk cannot take.

    Libraries that write the files of a model crash where a disk fills under them (HDF5 ends the
    process), so this is asked before.

    Args:
        path: A folder that exists.
        needed: Bytes.

    Raises:
        StorageError: Less is free.
    """
    free = shutil.disk_usage(path).free
    if free < needed:
        raise StorageError(
            f"The disk is full: {free / 1e6:,.1f} MB are free at {path}, needed are "
            f"{needed / 1e6:,.1f} MB. Make room, or give a larger volume, and start it again."
        )


def write_json(path: str | Path, value: object, *, durable: bool = False) -> None:
    """Write JSON whole or not at all; NaN and infinity are refused.

    Args:
        path: The file.
        value: What it shall hold.
        durable: Return only when it would also be found after a power cut.
    """
    with write_aside(path) as temporary, temporary.open("w") as file:
        file.write(json.dumps(value, indent=1, allow_nan=False) + "\n")
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if durable:
        folder = os.open(Path(path).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_json(path: str | Path) -> Any:
    """Read a JSON file of an artifact.

    Raises:
        DataError: It is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.") from error
