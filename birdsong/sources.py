"""What files a source of recordings holds: a folder or a zip, here or in a bucket.

Nothing is ever unpacked: of a zip only the directory is read, and each member by one range of
bytes, so that neither the zip nor a name within it can do harm or fill a disk.
"""

import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from birdsong.errors import ConfigError, DataError, StorageError
from birdsong.storage import (
    list_bucket,
    local_path,
    open_for_reading,
    read_range,
    scheme_of,
    unpack,
)

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_HEADER_SLACK = 64  # a local header's extra field may be longer than the directory's


@dataclass(frozen=True, slots=True)
class File:
    """A file of a source.

    Attributes:
        path: Its path within the source, parts joined by "/".
        uri: The file itself, or the zip that holds it.
        size: Bytes as they are stored.
        member: Its name within the zip.
        offset: Where its local header begins in the zip.
        compression: stored or deflate, for members of a zip.
        crc: The zip's checksum of it.
        fault: Why it cannot be used, as an unsafe name; None where nothing is known against it.
    """

    path: str
    uri: str
    size: int
    member: str | None = None
    offset: int | None = None
    compression: str | None = None
    crc: int | None = None
    fault: str | None = None


def clean_path(name: str) -> str | None:
    """A relative path without `.`, `..`, backslashes or control characters; None if it is not one.

    Nothing is unpacked, so such names cannot do harm here; but an identifier is joined to folders
    by others.
    """
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts) or "\\" in name or not name.isprintable():
        return None
    if re.match(r"^[A-Za-z]:", name):
        return None
    return name


# --- listing ------------------------------------------------------------------------------------


def list_files(source: str) -> Iterator[File]:
    """List the files of a folder or a zip, here or in a bucket, in no particular order.

    Args:
        source: Folder, zip, s3://bucket/prefix or gs://bucket/prefix (or a .zip there).

    Raises:
        DataError: The zip is broken.
        StorageError: The place is absent or cannot be read.
    """
    scheme = scheme_of(source)
    if source.lower().endswith(".zip") and (scheme != "file" or not local_path(source).is_dir()):
        place = str(local_path(source)) if scheme == "file" else source
        return _list_zip(place)
    if scheme == "file":
        return _list_folder(local_path(source))
    if scheme in {"s3", "gs"}:
        return _list_bucket(source)
    raise ConfigError(f"{source!r} has no files to list.")


def _file(name: str, uri: str, **rest: Any) -> File:
    if clean_path(name) is not None:
        return File(path=name, uri=uri, **rest)
    # Tables hold UTF-8 alone; the file is not read, so its place may be shown escaped.
    shown, uri = _escaped(name), _escaped(uri)
    fault = f"the name {shown!r} is not a plain relative path"
    return File(path=shown, uri=uri, fault=fault, **rest)


def _escaped(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _list_folder(root: Path) -> Iterator[File]:
    if not root.exists():
        raise StorageError(f"{root} does not exist. Give the folder that holds the recordings.")
    if not root.is_dir():
        raise StorageError(f"{root} is a file, but neither a folder nor a .zip.")
    # Links to folders are followed, each folder once, so that a loop of links ends.
    seen: set[tuple[int, int]] = set()
    waiting = [(str(root), "")]
    while waiting:
        folder, prefix = waiting.pop()
        try:
            state = os.stat(folder)  # noqa: PTH116
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        waiting.append((entry.path, f"{prefix}{entry.name}/"))
                    elif entry.is_file():
                        yield _file(
                            f"{prefix}{entry.name}", uri=entry.path, size=entry.stat().st_size
                        )
                    else:
                        what = "a link to nothing" if entry.is_symlink() else "no file but a device"
                        found = _file(f"{prefix}{entry.name}", uri=entry.path, size=0)
                        yield replace(found, fault=found.fault or f"it is {what}")
        except OSError as error:
            raise StorageError(
                f"{folder} cannot be listed: {error.strerror or error}. Check its permissions."
            ) from error


def _list_zip(place: str) -> Iterator[File]:
    with open_for_reading(place) as file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, EOFError, struct.error, ValueError) as error:
            raise DataError(
                f"{place} is not a whole zip: {error}. Download or copy it again and compare its "
                "size; `unzip -t` tells whether it is whole."
            ) from error
        with archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                found = _file(
                    info.filename,
                    uri=place,
                    size=info.compress_size,
                    member=info.filename.encode("utf-8", "backslashreplace").decode(),
                    offset=info.header_offset,
                    compression={0: "stored", 8: "deflate"}.get(info.compress_type),
                    crc=info.CRC,
                )
                if info.flag_bits & 1:
                    found = replace(found, fault="it is encrypted within the zip")
                elif found.compression is None:
                    found = replace(
                        found,
                        fault=f"compression method {info.compress_type} of zip is not supported; "
                        "pack it with deflate or stored",
                    )
                yield found


def _list_bucket(source: str) -> Iterator[File]:
    for name, uri, size in list_bucket(source):
        yield _file(name, uri=uri, size=size)


def read_file(file: File) -> tuple[bytes, int | None]:
    """Read one file of a source.

    Returns:
        Its original bytes and, in a zip, the offset at which they are stored.

    Raises:
        DataError: The member of the zip is damaged.
        StorageError: The place cannot be read.
    """
    if file.offset is None:
        return read_range(file.uri, 0, file.size), None
    head = _LOCAL_HEADER.size + len((file.member or "").encode()) + _HEADER_SLACK
    data = read_range(file.uri, file.offset, head + file.size)
    if len(data) < _LOCAL_HEADER.size or not data.startswith(b"PK\x03\x04"):
        raise DataError("the zip has no member where its directory says; it is damaged")
    _, name_length, extra_length = _LOCAL_HEADER.unpack_from(data)
    begin = _LOCAL_HEADER.size + name_length + extra_length
    stored = data[begin : begin + file.size]
    if len(stored) < file.size:
        more = read_range(file.uri, file.offset + begin + len(stored), file.size - len(stored))
        stored += more
    if len(stored) < file.size:
        raise DataError("the zip ends within this member; it is damaged")
    original = unpack(stored, file.compression)
    if file.crc is not None and zlib.crc32(original) != file.crc:
        raise DataError("the checksum in the zip does not fit; it is damaged")
    return original, file.offset + begin
