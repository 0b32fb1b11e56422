"""WebM and MP4, as browsers record them: Opus, Vorbis or AAC, which libsndfile does not open.

PyAV reads them, with the FFmpeg that it brings along. It is loaded only where such a file comes,
and is not told of any other format: playlists and the like, which name further places to read, stay
out of reach.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from birdsong.errors import DataError

CODECS = {"opus", "vorbis", "flac", "aac", "alac", "mp3", "mp3float"}
"""Decoders that are used: what browsers and phones record."""


def kind_of(beginning: bytes) -> str | None:
    """FFmpeg's name of a container by its first 12 bytes; None for what is not one of the two."""
    if beginning.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if beginning[4:8] == b"ftyp":
        return "mp4"
    return None


class BrowserFile:
    """The first audio stream of a WebM or MP4 file, with what is used of `soundfile.SoundFile`.

    Attributes:
        samplerate: Samples per second.
        channels: Number of channels.
    """

    def __init__(self, source: str | Path | BinaryIO | int, kind: str) -> None:
        """Open a file and decode its first samples.

        Args:
            source: Path, open binary file, or descriptor of one.
            kind: As `kind_of` tells.

        Raises:
            DataError: PyAV is not installed, or it is no such file, or has no audio.
        """
        try:
            import av
        except ImportError:
            raise DataError(
                "unreadable: WebM and MP4 need PyAV, which is not installed here (pip install av)."
            ) from None
        self._errors: Any = av.FFmpegError
        self._file: Any = open(source, "rb", closefd=False) if isinstance(source, int) else source  # noqa: SIM115
        try:
            self._container: Any = av.open(self._file, format=kind)
        except (av.FFmpegError, ValueError) as error:
            raise DataError(f"unreadable: {_words(error)}") from error
        try:
            self._frames = self._decoded()
            self._held = next(self._frames, None)
        except BaseException:
            self.__exit__()
            raise
        if self._held is None:
            self.__exit__()
            raise DataError("empty: it has no samples.")
        self.channels: int = self._held.shape[1]

    def __enter__(self) -> "BrowserFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def read(self, count: int, **_: object) -> np.ndarray:
        """The next samples, float32, at most `count`, shape (samples, channels); none at the end.

        Raises:
            DataError: What follows cannot be decoded.
        """
        if self._held is None or not len(self._held):
            self._held = next(self._frames, None)
            if self._held is None:
                return np.empty((0, self.channels), np.float32)
        block, self._held = self._held[:count], self._held[count:]
        return block

    def _decoded(self) -> Iterator[np.ndarray]:
        """What each packet holds, float32 of shape (samples, channels), never empty."""
        if not self._container.streams.audio:
            raise DataError("empty: it has no audio, only other streams.")
        stream = self._container.streams.audio[0]
        # Without its parameters PyAV would crash (PyAV-Org/PyAV#2344).
        context = stream.codec_context
        if context is None or context.name not in CODECS:
            name = "an unknown codec" if context is None else f"the codec {context.name}"
            raise DataError(f"unreadable: its audio is in {name}.")
        context.thread_count = 1
        form: tuple[int, int] | None = None
        try:
            for frame in self._container.decode(stream):
                found = (frame.sample_rate, len(frame.layout.channels))
                if form is None:
                    form = found
                    self.samplerate: int = found[0]
                if found != form:
                    raise DataError("unreadable: its rate or its channels change on the way.")
                block = frame.to_ndarray()
                if not frame.format.is_planar:
                    block = block.reshape(-1, found[1]).T
                if block.dtype.kind == "i":
                    block = block.astype(np.float32) / -float(np.iinfo(block.dtype).min)
                if block.size:
                    yield block.T.astype(np.float32, copy=False)
        except (self._errors, ValueError) as error:
            raise DataError(f"unreadable: {_words(error)}") from error


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
