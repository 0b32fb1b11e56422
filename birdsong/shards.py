"""Windows in shards: files of many windows each, read at random by offset and size."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from birdsong import artifacts
from birdsong.audio import decode_flac, encode_flac
from birdsong.config import FeatureConfig
from birdsong.errors import DataError

SHARD_BYTES = 1 << 30
"""A shard is closed once it holds this much; few files travel faster through object stores."""

_COPY_BYTES = 1 << 22


def encode(samples: np.ndarray, config: FeatureConfig) -> bytes:
    """A window, int16 of shape (samples,), as it lies in a shard."""
    if config.encoding == "flac":
        return encode_flac(samples, config.sample_rate)
    return samples.astype("<i2", copy=False).tobytes()


def decode(data: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """The window in bytes of a shard, uint8; PCM is not copied. int16 of shape (samples,)."""
    if config.encoding == "flac":
        return decode_flac(data.tobytes())
    return data.view("<i2")


class ShardWriter:
    """Appends recordings to the shards of one features artifact, and keeps its index.

    Args:
        folder: The artifact while it is written.
        config: Encoding of the shards.
        shard_bytes: A shard is closed once it holds this much.
    """

    def __init__(
        self, folder: artifacts.Folder, config: FeatureConfig, shard_bytes: int = SHARD_BYTES
    ) -> None:
        self._folder = folder
        self._config = config
        self._shard_bytes = shard_bytes
        self._shards = 0
        self._file: io.BufferedWriter | None = None
        self._name = ""
        self._hash = hashlib.sha256()
        self._offset = 0
        self.index: list[dict[str, Any]] = []
        self.quarantine: list[dict[str, str]] = []
        (folder.path / "shards").mkdir()

    @property
    def written_bytes(self) -> int:
        """Bytes of all windows so far."""
        return sum(row["size"] for row in self.index)

    def add(
        self,
        columns: Mapping[str, Any],
        windows: Sequence[tuple[float, int, int]],
        data: bytes | Path,
    ) -> None:
        """Append the windows of one recording.

        Args:
            columns: What the index says about the recording.
            windows: Start in seconds, samples and bytes of each window.
            data: Their bytes one after another, or a file with them, which is removed.
        """
        if self._file is None or self._offset >= self._shard_bytes:
            self._next_shard()
        for number, (start_seconds, samples, size) in enumerate(windows):
            self.index.append(
                {
                    **columns,
                    "window": number,
                    "start_seconds": start_seconds,
                    "samples": samples,
                    "shard": self._name,
                    "offset": self._offset,
                    "size": size,
                }
            )
            self._offset += size
        if isinstance(data, Path):
            with data.open("rb") as spooled:
                while block := spooled.read(_COPY_BYTES):
                    self._append(block)
            data.unlink()
        else:
            self._append(data)

    def finish(self, classes: object, training: object = None) -> None:
        """Write the tables; the artifact is complete after that.

        Args:
            classes: Code and names of each species.
            training: What the train part holds of each species.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.close()
        text, whole = pa.string(), pa.int64()
        index = pa.schema(
            {
                "id": text,
                "sha256": text,
                "window": pa.int16(),
                "label": text,
                "secondary": pa.list_(text),
                "part": text,
                "group": text,
                "rating": pa.float64(),
                "start_seconds": pa.float64(),
                "samples": pa.int32(),
                "shard": text,
                "offset": whole,
                "size": whole,
            }
        )
        path = self._folder.path
        pq.write_table(pa.Table.from_pylist(self.index, index), path / "index.parquet")
        quarantine = pa.schema({"id": text, "reason": text})
        pq.write_table(
            pa.Table.from_pylist(self.quarantine, quarantine), path / "quarantine.parquet"
        )
        artifacts.write_json(path / "classes.json", classes)
        artifacts.write_json(path / "training.json", training or {})

    def close(self) -> None:
        """Close the open shard, if any."""
        if self._file is not None:
            self._file.close()
            self._folder.known_sha256[self._name] = self._hash.hexdigest()
            self._file = None

    def _append(self, block: bytes) -> None:
        assert self._file is not None  # add opened it
        self._file.write(block)
        self._hash.update(block)

    def _next_shard(self) -> None:
        self.close()
        self._name = f"shards/{self._shards:05d}.{self._config.encoding}"
        self._shards += 1
        self._hash = hashlib.sha256()
        self._offset = 0
        self._file = (self._folder.path / self._name).open("wb")


class ShardReader:
    """Reads windows of one features artifact at random; safe in many threads."""

    def __init__(self, path: str | Path, config: FeatureConfig) -> None:
        self._path = Path(path)
        self._config = config
        self._maps: dict[str, np.ndarray] = {}

    def read(self, shard: str, offset: int, size: int) -> np.ndarray:
        """One window, int16 of shape (samples,), not writable where it is mapped from a file.

        Raises:
            DataError: The shard is missing or too short.
        """
        data = self._maps.get(shard)
        if data is None:
            try:
                data = np.memmap(self._path / shard, np.uint8, "r")
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{self._path / shard} cannot be read ({error}). Run featurize again."
                ) from error
            self._maps[shard] = data
        if offset + size > len(data):
            raise DataError(f"{self._path / shard} is cut off. Run featurize again.")
        return decode(data[offset : offset + size], self._config)
