"""The one place that reads other places: files here, s3://, gs:// and generated data.

Files are read by ranges of bytes; only `fetch` copies one. Credentials come from each SDK's own
chain; AWS_ENDPOINT_URL and STORAGE_EMULATOR_HOST are honoured. Errors of the network that a retry
can mend are retried here.
"""

import io
import os
import re
import urllib.error
import urllib.request
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from birdsong import clouds
from birdsong.artifacts import file_sha256, write_aside
from birdsong.errors import ConfigError, DataError, StorageError

T = TypeVar("T")

SCHEMES = ("s3", "gs", "demo", "file")
LARGEST_MEMBER = 4 * 2**30
"""Most bytes that one member of a zip may unpack to; beyond it is taken for a zip bomb."""


def scheme_of(uri: str) -> str:
    """Tell what a URI leads to: file, s3, gs or demo.

    Raises:
        ConfigError: It is of another kind, or is misspelt.
    """
    match = re.match(r"^([A-Za-z][A-Za-z0-9+.-]*):", uri)
    if not match:
        return "file"
    scheme = match[1]
    if scheme == "demo":
        return scheme
    if scheme not in SCHEMES:
        raise ConfigError(
            f"{uri!r}: {scheme}: is no place that birdsong reads. Give a folder, a .zip, "
            "s3://bucket/prefix, gs://bucket/prefix or demo:. For MinIO and other S3 servers use "
            "s3:// and set AWS_ENDPOINT_URL."
        )
    if not uri.startswith(f"{scheme}://"):
        raise ConfigError(f"{uri!r} is misspelt: write {scheme}://... with two slashes.")
    if scheme != "file" and not bucket_and_key(uri)[0]:
        raise ConfigError(f"{uri!r} names no bucket: write {scheme}://bucket/prefix.")
    return scheme


def bucket_and_key(uri: str) -> tuple[str, str]:
    """The bucket and the key of an s3:// or gs:// URI."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def local_path(uri: str) -> Path:
    """The absolute path of a local place; links in it are kept."""
    return Path(os.path.abspath(Path(uri.removeprefix("file://")).expanduser()))  # noqa: PTH100


def list_bucket(source: str) -> Iterator[tuple[str, str, int]]:
    """Path below the prefix, URI and bytes of each object below s3://... or gs://..."""
    scheme, (bucket, prefix) = scheme_of(source), bucket_and_key(source)
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    for key, size in clouds.attempt(source, lambda: _pages(scheme, bucket, prefix)):
        name = key.removeprefix(prefix)
        if name and not name.endswith("/"):
            yield name, f"{scheme}://{bucket}/{key}", size


def _pages(scheme: str, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Keys and sizes below a prefix; the first page is fetched at once, so that errors show."""
    if scheme == "s3":
        pages = clouds.s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = ((item["Key"], item["Size"]) for page in pages for item in page.get("Contents", ()))
    else:
        blobs = clouds.gs().list_blobs(
            bucket, prefix=prefix, fields="items(name,size),nextPageToken"
        )
        keys = ((blob.name, int(blob.size)) for blob in blobs)
    first = next(keys, None)

    def rest() -> Iterator[tuple[str, int]]:
        if first is not None:
            yield first
            try:
                yield from keys
            except Exception as error:
                raise clouds.explained(f"{scheme}://{bucket}/{prefix}", error) from error

    return rest()


# --- reading ------------------------------------------------------------------------------------


def size_of(uri: str) -> int:
    """Bytes of a file here or in a bucket."""
    scheme = scheme_of(uri)
    if scheme == "file":
        try:
            return local_path(uri).stat().st_size
        except OSError as error:
            raise StorageError(f"{uri} cannot be read: {error.strerror or error}.") from error
    bucket, key = bucket_and_key(uri)
    if scheme == "s3":
        head = clouds.attempt(uri, lambda: clouds.s3().head_object(Bucket=bucket, Key=key))
        return int(head["ContentLength"])
    blob = clouds.attempt(uri, lambda: clouds.gs().bucket(bucket).get_blob(key))
    if blob is None:
        raise clouds.absent(uri)
    return int(blob.size)


def read_range(uri: str, offset: int, size: int) -> bytes:
    """Read bytes of a file here or in a bucket; fewer where it ends before.

    Raises:
        StorageError: The place is absent or cannot be read.
    """
    if size <= 0:
        return b""
    scheme = scheme_of(uri)
    if scheme == "file":
        try:
            with local_path(uri).open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise StorageError(f"{uri} cannot be read: {error.strerror or error}.") from error
    bucket, key = bucket_and_key(uri)
    last = offset + size - 1
    if scheme == "s3":

        def get() -> bytes:
            answer = clouds.s3().get_object(Bucket=bucket, Key=key, Range=f"bytes={offset}-{last}")
            body: bytes = answer["Body"].read()
            return body
    else:

        def get() -> bytes:
            blob = clouds.gs().bucket(bucket).blob(key)
            body: bytes = blob.download_as_bytes(start=offset, end=last, checksum=None)
            return body

    return clouds.attempt(uri, get)


class _RangeReader(io.RawIOBase):
    """A seekable file over `read_range`, with a few recent blocks kept in memory."""

    def __init__(self, uri: str, block: int = 2**20, kept: int = 4) -> None:
        self._uri, self._size = uri, size_of(uri)
        self._block, self._kept = block, kept
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("negative place in a file")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._size or not len(buffer):
            return 0
        number, inside = divmod(self._at, self._block)
        if number not in self._blocks:
            start = number * self._block
            self._blocks[number] = read_range(
                self._uri, start, min(self._block, self._size - start)
            )
            if len(self._blocks) > self._kept:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        part = self._blocks[number][inside : inside + len(buffer)]
        if not part:
            raise StorageError(f"{self._uri} became shorter while it was read. Run again.")
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def open_for_reading(uri: str) -> BinaryIO:
    """Open a file here or in a bucket as a seekable stream that fetches only what is read."""
    if scheme_of(uri) == "file":
        path = local_path(uri)
        try:
            return path.open("rb")
        except FileNotFoundError:
            raise StorageError(f"{path} does not exist. Check the path.") from None
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror or error}.") from error
    return io.BufferedReader(_RangeReader(uri), 2**16)


def unpack(stored: bytes, compression: str | None) -> bytes:
    """The original bytes of a zip's member, compressed by `deflate` or not.

    Raises:
        DataError: It is damaged, or unpacks to more than `LARGEST_MEMBER`.
    """
    if compression != "deflate":
        return stored
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        original = stream.decompress(stored, LARGEST_MEMBER)
    except zlib.error as error:
        raise DataError(f"the zip's member cannot be unpacked ({error}); it is damaged") from error
    if stream.unconsumed_tail:
        raise DataError(f"the zip's member unpacks to more than {LARGEST_MEMBER:,} bytes")
    return original


def read_recording(row: Mapping[str, Any], artifact: str | Path) -> bytes:
    """Read the original bytes of one row of `recordings.parquet`, wherever they are.

    Args:
        row: At least `uri`, `size`, and in a zip or a snapshot `offset` and `compression`.
        artifact: Folder of the recordings artifact, which a snapshot lies in.

    Raises:
        DataError: What is stored is shorter than the row says, or damaged.
        StorageError: The place is absent or cannot be read.
    """
    uri = str(row["uri"])
    scheme = scheme_of(uri)
    if scheme == "demo":
        from birdsong import demo_data

        return demo_data.read(uri)
    if scheme == "file" and not _stands_alone(uri):
        uri = str(Path(artifact) / uri)
    size, offset = _whole(row.get("size")), _whole(row.get("offset"))
    if size is None:
        size = size_of(uri) - (offset or 0)
    data = read_range(uri, offset or 0, size)
    if len(data) != size:
        raise DataError(
            f"{row.get('id', uri)}: {uri} holds {len(data):,} bytes where {size:,} were recorded: "
            "it was changed after ingest. Run ingest again."
        )
    compression = row.get("compression")
    return unpack(data, compression if isinstance(compression, str) else None)


def _stands_alone(uri: str) -> bool:
    """Whether a local URI stands on its own; others lie within their artifact."""
    return uri.startswith("file://") or Path(uri).is_absolute()


def _whole(value: Any) -> int | None:
    """A whole number from a table, where absent values are None, NaN or pandas' NA."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def fetch(uri: str, target: str | Path, sha256: str | None = None) -> Path:
    """Copy one file to this machine, whole or not at all.

    Args:
        uri: Path, s3://, gs://, https:// or http:// (then with `sha256`).
        target: Where it shall lie; a file there with the right hash is taken as it is.
        sha256: What its SHA-256 must be, in hexadecimal; None or empty for unchecked.

    Raises:
        DataError: The hash does not fit.
        StorageError: The file is absent or cannot be read.
    """
    path = Path(target)
    if sha256 and path.is_file() and file_sha256(path) == sha256:
        return path
    with write_aside(path) as temporary:
        with temporary.open("wb") as file:
            for block in _blocks(uri, sha256):
                file.write(block)
        came = file_sha256(temporary)
        if sha256 and came != sha256:
            raise DataError(
                f"{uri} has SHA-256 {came}, expected {sha256}: another file, or damaged on the "
                "way. Check the address and the hash."
            )
    return path


def _blocks(uri: str, sha256: str | None) -> Iterator[bytes]:
    if re.match(r"^https?://", uri):
        if uri.startswith("http://") and not sha256:
            raise ConfigError(f"{uri} is not encrypted on the way: give its sha256 too.")
        try:
            with urllib.request.urlopen(uri, timeout=60) as answer:  # noqa: S310
                while block := answer.read(2**20):
                    yield block
        except (urllib.error.URLError, OSError) as error:
            raise StorageError(
                f"{uri} cannot be fetched: {getattr(error, 'reason', error)}. Without a network, "
                "give the path of a file that is here."
            ) from error
        return
    total, step = size_of(uri), 8 * 2**20
    for start in range(0, total, step):
        yield read_range(uri, start, min(step, total - start))
