"""What is done of a long work on many recordings, kept so that a killed one goes on."""

import contextlib
import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from birdsong import sources, storage
from birdsong.errors import ConfigError


class Journal:
    """What is done, a line of JSON for each recording; a line cut off by a kill does not count.

    Args:
        path: The file; made where it is absent.

    Raises:
        ConfigError: Another process is writing it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, tuple[int, Mapping[str, Any]]] = {}

    def __enter__(self) -> "Journal":
        self._file: BinaryIO = self._path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ConfigError(
                f"Another prediction is writing {self._path.name}. Wait for it, or give another "
                "--out."
            ) from None
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            entry = json.loads(line)
            self._places[entry["file"]] = (whole, entry["stamp"])
            whole += len(line)
        self._file.truncate(whole)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def holds(self, name: str, file: sources.File) -> bool:
        """Whether a recording is done, and is still the one that was listened to."""
        return name in self._places and self._places[name][1] == _stamp(file)

    def add(self, name: str, file: sources.File, entry: Mapping[str, Any]) -> None:
        """Note that a recording is done."""
        stamp = _stamp(file)
        line = json.dumps({"file": name, "stamp": stamp, **entry}).encode() + b"\n"
        place = self._file.seek(0, 2)
        self._file.write(line)
        self._file.flush()
        self._places[name] = (place, stamp)

    def read(self, name: str) -> dict[str, Any]:
        """What was noted of a recording."""
        self._file.seek(self._places[name][0])
        found: dict[str, Any] = json.loads(self._file.readline())
        return found

    def remove(self) -> None:
        """Forget all of it."""
        self._path.unlink(missing_ok=True)


def _stamp(file: sources.File) -> dict[str, Any]:
    """What tells that a file was changed: size and, here, time; in a zip its checksum."""
    changed = None
    if storage.scheme_of(file.uri) == "file":
        with contextlib.suppress(OSError):
            changed = Path(file.uri).stat().st_mtime_ns
    return {"size": file.size, "crc": file.crc, "changed": changed}
