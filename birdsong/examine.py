"""What one recording is: its hash, length, rate and channels, and whether it is fit for use."""

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from birdsong import clouds, sources, storage
from birdsong.errors import DataError, StorageError

FULL_SCALE = 0.999
"""Samples at or beyond this, of 1, count as clipped."""
CLIPPED_SHARE = 0.001
"""Share of clipped samples from which a recording is listed as clipped."""
SILENT_PEAK = 0.5 / 32_768
"""A recording whose mono mix never exceeds this (half a step of 16 bit) is silent."""

_BLOCK = 65_536  # samples of each channel that are in memory at a time


@dataclass(frozen=True, slots=True)
class Examination:
    """What is known of one recording.

    Attributes:
        sha256: Of its bytes, in hexadecimal; empty where they cannot be read.
        size: How many bytes it has.
        seconds: Length as decoded.
        rate: Samples per second.
        offset: Where its bytes begin in the zip that holds it.
        problem: unreadable, empty, silent, clipped, or empty text for none.
        detail: More on the problem.
        data: Its bytes, where they are wanted.
    """

    sha256: str = ""
    size: int = 0
    seconds: float = 0.0
    rate: int = 0
    channels: int = 0
    offset: int | None = None
    problem: str = ""
    detail: str = ""
    data: bytes | None = None


def examine(file: sources.File, keep_bytes: bool = False) -> Examination:
    """Read, hash and decode one recording; what is wrong with it is told, not raised.

    It is decoded in blocks, so that memory does not depend on its length.

    Raises:
        StorageError: A bucket cannot be reached: then no other recording can be read either.
    """
    if file.fault:
        return Examination(problem="unreadable", detail=file.fault)
    remote = storage.scheme_of(file.uri) in {"s3", "gs"}
    offset, data, source = None, None, None
    try:
        if storage.scheme_of(file.uri) == "file" and file.offset is None and not keep_bytes:
            source = Path(file.uri)
            with source.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        else:
            data, offset = _read(file)
            sha256 = hashlib.sha256(data).hexdigest()
    except (DataError, clouds.AbsentError) as error:
        return Examination(problem="unreadable", detail=str(error))
    except (StorageError, OSError) as error:
        if remote:
            raise
        return Examination(problem="unreadable", detail=str(error))
    found = measure(source or io.BytesIO(data or b""))
    size = file.size if data is None else len(data)
    return replace(
        found, sha256=sha256, size=size, offset=offset, data=data if keep_bytes else None
    )


def _read(file: sources.File) -> tuple[bytes, int | None]:
    if file.uri.startswith("demo:"):
        return storage.read_recording({"uri": file.uri}, ""), None
    return sources.read_file(file)


def measure(source: Path | io.BytesIO) -> Examination:
    """Decode a recording once, block by block, for its length and its levels."""
    import soundfile

    size = source.stat().st_size if isinstance(source, Path) else len(source.getbuffer())
    if size == 0:
        return Examination(problem="empty", detail="the file has no bytes")
    count, clipped, peak = 0, 0, 0.0
    try:
        with soundfile.SoundFile(source) as sound:
            rate, channels = int(sound.samplerate), int(sound.channels)
            block = np.empty((_BLOCK, channels), np.float32)
            while len(part := sound.read(out=block)):
                loud = np.abs(part)
                clipped += int(np.count_nonzero(loud >= FULL_SCALE))
                # Both channels may cancel out in the mono mix that is used later.
                mono = loud if channels == 1 else np.abs(part.mean(axis=1))
                peak = max(peak, float(mono.max()))
                if not np.isfinite(loud.sum(dtype=np.float64)):
                    return Examination(problem="unreadable", detail="samples that are no numbers")
                count += len(part)
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        detail = str(getattr(error, "error_string", error))
        return Examination(problem="unreadable", detail=f"it cannot be decoded: {detail}")
    if count == 0:
        return Examination(problem="empty", detail="no samples")
    found = Examination(seconds=count / rate, rate=rate, channels=channels)
    if peak <= SILENT_PEAK:
        return replace(found, problem="silent", detail=f"{found.seconds:.1f} s of silence")
    share = clipped / (count * channels)
    if share > CLIPPED_SHARE:
        detail = f"{100 * share:.1f} % of samples at full scale"
        return replace(found, problem="clipped", detail=detail)
    return found
