"""The recordings of a batch as windows: fetched and decoded, several at once, while others compute.

They are decoded in other processes, so that a recording that crashes its codec, or takes all
memory, is one bad file among others.
"""

import contextlib
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from birdsong import audio, sources, storage
from birdsong.ahead import read_each_ahead
from birdsong.config import FeatureConfig
from birdsong.decoding import DecodeLimits, Decoder
from birdsong.errors import BirdsongError, DataError, UnreachableError
from birdsong.serving.answers import LONGEST_SECONDS

RECORDINGS_AHEAD, WINDOWS_AHEAD = 4, 6
"""Recordings that are fetched and decoded at once while the network works, and windows of each:
at most 63 MB of samples."""

HELD_BYTES = 64 * 2**20
"""A larger recording of a bucket is copied to the disk beside the output, not held in memory."""

RECORDINGS_EACH = 25
"""Recordings that a process decodes before a new one takes its place."""

_LIMITS = DecodeLimits(decode_seconds=4 * 3600)
"""A day of sound may take long to decode, most of all while the network has the cores."""

Decoded = tuple[int, audio.Window | None, str]
"""Number of the recording, and a window of it; after the last one None, and its error."""


def windows(
    files: Sequence[sources.File], config: FeatureConfig, overlap_seconds: float, near: Path
) -> Generator[Decoded, None, None]:
    """Fetch and decode recordings of any length, a few ahead of whoever takes their windows.

    Args:
        files: The recordings.
        config: Sample rate and seconds of a window.
        overlap_seconds: By which consecutive windows overlap.
        near: Folder for copies of large recordings of buckets.

    Yields:
        For each recording, in order, its windows and then its end, with an error or without.

    Raises:
        UnreachableError: A place does not answer: no fault of a recording's.
    """
    whole = config.model_copy(update={"seconds": LONGEST_SECONDS})
    with Decoder(_LIMITS, RECORDINGS_EACH) as decoder:
        each = (
            _windows_of(number, file, decoder, whole, overlap_seconds, near)
            for number, file in enumerate(files)
        )
        with contextlib.closing(read_each_ahead(each, WINDOWS_AHEAD, RECORDINGS_AHEAD)) as ahead:
            yield from ahead


def _windows_of(
    number: int,
    file: sources.File,
    decoder: Decoder,
    config: FeatureConfig,
    overlap_seconds: float,
    near: Path,
) -> Iterator[Decoded]:
    error = ""
    try:
        if file.fault:
            raise DataError(f"unreadable: {file.fault}.")
        with _fetched(file, near) as data:
            for window in decoder.windows(data, config, overlap_seconds):
                yield number, window, ""
    except UnreachableError:
        raise
    except BirdsongError as problem:
        error = str(problem)
    except OSError as problem:
        error = f"unreadable: {problem.strerror or problem}"
    yield number, None, error


@contextlib.contextmanager
def _fetched(file: sources.File, near: Path) -> Iterator[Path | bytes | int]:
    if file.offset is None and storage.scheme_of(file.uri) == "file":
        yield Path(file.uri)
    elif file.offset is not None or file.size <= HELD_BYTES:
        yield sources.read_file(file)[0]
    else:
        with tempfile.TemporaryFile(dir=near) as copy:
            for start in range(0, file.size, HELD_BYTES):
                part = min(HELD_BYTES, file.size - start)
                copy.write(storage.read_range(file.uri, start, part))
            copy.flush()
            yield copy.fileno()
