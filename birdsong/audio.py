"""From the bytes of a recording to 16-bit windows and 5-second frames: the one definition.

Featurize stores these windows, training and serving score their frames. A stored window that is
written as FLAC and read again gives the same window, bit for bit, so that a golden recording
scores on an endpoint as it did here.
"""

import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from birdsong import browser_audio
from birdsong.config import FeatureConfig
from birdsong.errors import ConfigError, DataError

FULL_SCALE = 32_767
"""The 16-bit value of a window's peak."""

FRAME_SECONDS = 5.0
"""Seconds of one frame, the network's input."""

SILENCE = 0.5 / 32_768
"""Peak, of full scale 1, below which a window is silent: 16 bits would hold nothing but zeros."""

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Samples per second that a header may claim; beyond them it is taken for broken."""

MOST_CHANNELS = 64
"""Channels that a header may claim; arrays of microphones have fewer."""

Recording = bytes | str | Path | BinaryIO | int
"""A recording's bytes, its path, an open binary file or the descriptor of one."""

_BLOCK_SAMPLES = 1 << 15
"""Samples, over all channels, that are decoded at a time; small enough to stay in cache."""


@dataclass(frozen=True)
class Window:
    """Up to `FeatureConfig.window_seconds` of one recording, ready to be stored or scored.

    Attributes:
        start_seconds: Where its first sample lies in the recording.
        samples: Mono at `FeatureConfig.sample_rate`, int16, shape (samples,), at least one
            sample; the peak is 32767 or -32767, the first and the last sample are not 0.
    """

    start_seconds: float
    samples: np.ndarray


@dataclass(frozen=True)
class Bounds:
    """What a recording may be at most, beyond which it is refused.

    Attributes:
        seconds: Of audio, silence included, counted as it is decoded: headers lie.
        channels: Channels.
        lowest_rate: Samples per second, at least.
        highest_rate: Samples per second, at most.
    """

    seconds: float = math.inf
    channels: int = MOST_CHANNELS
    lowest_rate: int = LOWEST_RATE
    highest_rate: int = HIGHEST_RATE


ANY = Bounds()


def windows(
    data: Recording, config: FeatureConfig, overlap_seconds: float = 0.0, bounds: Bounds = ANY
) -> Iterator[Window]:
    """Decode a recording to windows, one after another, in memory bounded for any length.

    The mean of the channels is resampled (soxr, HQ) and cut into consecutive windows, each of
    which begins with the next sample that is not digital silence. It is divided by its peak,
    rounded to 16 bits and freed of zeros at both ends. A recording that gives no window at all is
    silent.

    Args:
        data: OGG, MP3, FLAC or WAV; where PyAV is installed also WebM and MP4, as browsers record
            them.
        config: Sample rate, seconds of a window, and most seconds that are kept; silence before
            a window does not count.
        overlap_seconds: End of a full window that the next one begins with, less than a window.
        bounds: What is refused.

    Yields:
        The windows in order of time.

    Raises:
        ConfigError: The overlap is not shorter than a window.
        DataError: The recording cannot be decoded, has no samples, or a sample is not finite.
            The message starts with a word for the kind: `unreadable:`, `empty:`, `not finite:`,
            `too long:`, `channels:`, `rate:`.
            A file that just ends early, as a cut-off OGG, MP3 or WAV, counts as far as it goes.
    """
    window_samples = round(config.window_seconds * config.sample_rate)
    left = round(config.seconds * config.sample_rate)
    buffer = np.empty(min(window_samples, left), np.float32)
    overlap = round(overlap_seconds * config.sample_rate)
    if not 0 <= overlap < window_samples:
        raise ConfigError(
            f"The overlap is {overlap_seconds:g} s; it must be from 0 to less than a window of "
            f"{config.window_seconds:g} s."
        )
    # Of `filled` samples the first `shared` were in the window before.
    filled = shared = start = 0
    for chunk in _resampled(data, config.sample_rate, bounds):
        while len(chunk) and left:
            if not filled:
                silent = _leading_silence(chunk)
                start += silent
                chunk = chunk[silent:]
            taken = chunk[: min(len(buffer) - filled, left)]
            buffer[filled : filled + len(taken)] = taken
            filled += len(taken)
            left -= len(taken)
            chunk = chunk[len(taken) :]
            if filled == len(buffer):
                kept = buffer[filled - overlap :].copy() if overlap else buffer[:0]
                yield _finished(buffer, start, config.sample_rate)
                kept = kept[_leading_silence(kept) :]
                start += filled - len(kept)
                buffer[: len(kept)] = kept
                filled = shared = len(kept)
        if left == 0:
            break
    if filled > shared:
        yield _finished(buffer[:filled], start, config.sample_rate)


def frames(samples: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """Cut a window into the frames that the network scores.

    Args:
        samples: One window, int16, shape (samples,). Samples beyond the longest window are
            an error, an empty window gives one silent frame.
        config: Sample rate and seconds of a window.

    Returns:
        float32 in [-1, 1] (int16 / 32767), shape (frames, frame_samples): 110,250 samples in
        5 s at 22,050 Hz, at most 12 frames in 60 s; the last one is padded with zeros.

    Raises:
        DataError: The samples are not mono int16 or longer than a window.
    """
    if samples.ndim != 1 or samples.dtype != np.int16:
        raise DataError(
            f"frames: got {samples.dtype} of shape {samples.shape}, need int16 of shape "
            "(samples,), as birdsong.audio.windows gives them."
        )
    longest = round(config.window_seconds * config.sample_rate)
    if len(samples) > longest:
        raise DataError(
            f"frames: got {len(samples)} samples, a window has at most {longest}. "
            "Cut longer audio with birdsong.audio.windows."
        )
    size = round(FRAME_SECONDS * config.sample_rate)
    count = max(1, math.ceil(len(samples) / size))
    padded = np.zeros(count * size, np.float32)
    np.multiply(samples, np.float32(1 / FULL_SCALE), out=padded[: len(samples)], casting="unsafe")
    # -32768 never comes from `windows`, but may come from others.
    np.maximum(padded, -1, out=padded)
    return padded.reshape(count, size)


def encode_flac(samples: np.ndarray, sample_rate: int) -> bytes:
    """Write a window, int16 of shape (samples,), as a FLAC file that `windows` reads back."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_flac(data: bytes) -> np.ndarray:
    """Read back what `encode_flac` wrote: int16, shape (samples,)."""
    samples: np.ndarray = soundfile.read(io.BytesIO(data), dtype="int16")[0]
    return samples


def _leading_silence(chunk: np.ndarray) -> int:
    """How many samples pass before the first that is not digital silence; NaN is not silence."""
    quiet = np.abs(chunk) < SILENCE
    return len(chunk) if quiet.all() else int(quiet.argmin())


def _finished(window: np.ndarray, start: int, rate: int) -> Window:
    """Normalise, round and trim float samples, in place; the first one is not silence."""
    peak = max(float(window.max()), -float(window.min()))
    if not math.isfinite(peak):
        raise DataError("not finite: resampling overflowed, the samples are too large.")
    window *= FULL_SCALE / peak
    np.rint(window, out=window)
    rounded = window.astype(np.int16)
    sounding = rounded != 0
    first = int(sounding.argmax())
    last = len(rounded) - int(sounding[::-1].argmax())
    return Window((start + first) / rate, rounded[first:last])


def _resampled(data: Recording, rate: int, bounds: Bounds) -> Iterator[np.ndarray]:
    """Mono float32 chunks at `rate`, of any lengths; together as long as in one shot."""
    try:
        with _opened(data) as file:
            if not bounds.lowest_rate <= file.samplerate <= bounds.highest_rate:
                raise DataError(
                    f"rate: its header claims {file.samplerate} samples per second, "
                    f"expected {bounds.lowest_rate} to {bounds.highest_rate}."
                )
            if file.channels > bounds.channels:
                raise DataError(
                    f"channels: its header claims {file.channels} channels, expected at most "
                    f"{bounds.channels}."
                )
            if file.samplerate == rate:
                yield from _mono(file, bounds)
                return
            stream = soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32", quality="HQ")
            read = 0
            for block in _mono(file, bounds):
                read += len(block)
                yield stream.resample_chunk(block)
            # A few samples at 96 kHz are less than one at 22,050 Hz; silence makes up for it.
            missing = max(0, math.ceil(file.samplerate / rate) - read)
            yield stream.resample_chunk(np.zeros(missing, np.float32), last=True)
    except soundfile.LibsndfileError as error:
        raise DataError(f"unreadable: {error.error_string}") from error
    except (TypeError, RuntimeError) as error:
        raise DataError(f"unreadable: {error}") from error


def _opened(data: Recording) -> Any:
    """An open sound file: rate, channels and `read`."""
    source = io.BytesIO(data) if isinstance(data, bytes) else data
    kind = browser_audio.kind_of(_beginning(source))
    if kind is not None:
        return browser_audio.BrowserFile(source, kind)
    return soundfile.SoundFile(source)


def _beginning(source: str | Path | BinaryIO | int, size: int = 12) -> bytes:
    try:
        if isinstance(source, str | Path):
            with open(source, "rb") as file:  # noqa: PTH123
                return file.read(size)
        if isinstance(source, int):
            return os.pread(source, size, 0)
        found = source.read(size)
        source.seek(0)
        return found
    except OSError:
        return b""  # What is wrong with it, libsndfile says.


def _mono(file: Any, bounds: Bounds) -> Iterator[np.ndarray]:
    """Blocks of the mean of an open sound file's channels, float32, shape (samples,)."""
    channels = file.channels
    size = max(1, _BLOCK_SAMPLES // channels)
    left = bounds.seconds * file.samplerate
    anything = False
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        anything = True
        left -= len(block)
        if left < 0:
            raise DataError(f"too long: it has more than {bounds.seconds:g} s of audio.")
        if channels == 1:
            mono = block[:, 0]
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                # Column by column: NumPy's mean along a short axis is ten times slower.
                mono = block[:, 0] + block[:, 1]
                for channel in range(2, channels):
                    mono += block[:, channel]
                mono *= np.float32(1 / channels)
        if not np.isfinite(mono).all():
            raise DataError("not finite: a sample is NaN or infinite.")
        yield mono
    if not anything:
        raise DataError("empty: it has no samples.")
