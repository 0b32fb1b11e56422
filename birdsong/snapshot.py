"""The original bytes of recordings, kept with a run in a few tar files."""

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

from birdsong import artifacts

SNAPSHOT_BYTES = 2**30
"""Size from which the next tar of a snapshot is begun."""


class Snapshot:
    """Original bytes of recordings, one after the other in a few tar files."""

    def __init__(self, folder: artifacts.Folder) -> None:
        self._folder = folder
        self._number = -1
        self._tar: tarfile.TarFile | None = None
        self._file: _HashedFile | None = None

    def add(self, name: str, data: bytes) -> dict[str, Any]:
        """Append a recording; gives the place that `storage.read_recording` reads it from."""
        if self._tar is None or self._tar.offset >= SNAPSHOT_BYTES:
            self.close()
            self._number += 1
            path = self._folder.path / self._name()
            path.parent.mkdir(exist_ok=True)
            self._file = _HashedFile(path)
            self._tar = tarfile.open(  # noqa: SIM115
                fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT
            )
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))
        blocks = -(-len(data) // tarfile.BLOCKSIZE)
        return {
            "uri": self._name(),
            "member": name,
            "offset": self._tar.offset - blocks * tarfile.BLOCKSIZE,
            "size": len(data),
            "compression": "stored",
        }

    def _name(self) -> str:
        return f"snapshot/{self._number:05d}.tar"

    def close(self) -> None:
        """Finish the tar at hand."""
        if self._tar is not None and self._file is not None:
            self._tar.close()
            self._folder.known_sha256[self._name()] = self._file.close_and_hash()
        self._tar = self._file = None


class _HashedFile(io.FileIO):
    """A file that hashes what is written to it, so that it need not be read again for that."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "wb")
        self._hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._hash.update(view)
        written = 0
        while written < len(view):
            written += super().write(view[written:]) or 0
        return written

    def close_and_hash(self) -> str:
        """Close it and give the SHA-256 of all that was written."""
        self.close()
        return self._hash.hexdigest()
