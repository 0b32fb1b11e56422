"""From 5-second frames to pictures: three log-mel spectrograms as three channels, in NumPy.

The network's own front end is a part of its graph (`birdsong.frontend_graph`); this is its twin
for runtimes that cannot take it (OpenVINO, ONNX Runtime), and the source of the matrices of both.
Levels are relative to full scale, never to the peak of a frame or of a batch, so a frame gives the
same picture alone and beside any other, and silence is the floor.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from numpy.typing import NDArray

from birdsong.config import FrontEndConfig
from birdsong.errors import DataError
from birdsong.workers import count_cores

Floats = NDArray[np.float32]


def fft_length(window: int) -> int:
    """Samples of the FFT of a window: the next power of two, so that no sample is cropped."""
    return 1 << (window - 1).bit_length()


@cache
def window_values(window: int) -> Floats:
    """A periodic Hann window scaled so that a full-scale sine has magnitude 1 at its bin.

    Returns:
        float32, shape (window,), to be read only: the array is shared.
    """
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    values = np.asarray(hann * (2 / hann.sum()), np.float32)
    values.flags.writeable = False
    return values


@cache
def mel_matrix(config: FrontEndConfig, window: int) -> Floats:
    """Triangles that gather the bins of a power spectrum into mel bands.

    Neighbouring bands overlap by half and peak at 1. At low frequencies and for short windows bands
    would be narrower than one bin and often empty; there each side is widened to one bin.

    Returns:
        float32, shape (bins, bands), bins = fft_length // 2 + 1 and bands = mel_bands minus the
        dropped lowest ones; to be read only: the array is shared.

    Source:
        Mel scale of the HTK Book (Young et al., 2006): 2595 * log10(1 + f / 700).
    """
    length = fft_length(window)
    bin_hz = config.sample_rate / length
    top = 2595 * np.log10(1 + config.sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, config.mel_bands + 2) / 2595) - 1)
    centres = edges[1:-1]
    low = np.minimum(edges[:-2], centres - bin_hz)
    high = np.maximum(edges[2:], centres + bin_hz)
    hz = np.arange(length // 2 + 1)[:, np.newaxis] * bin_hz
    rising = (hz - low) / (centres - low)
    falling = (high - hz) / (high - centres)
    triangles = np.maximum(0, np.minimum(rising, falling))[:, config.dropped_bands :]
    matrix = np.ascontiguousarray(triangles, np.float32)
    matrix.flags.writeable = False
    return matrix


def pictures(frames: NDArray[np.floating], config: FrontEndConfig) -> Floats:
    """Turn frames into pictures.

    Columns are centred on every `hop`-th sample; beyond both ends of a frame there is silence.

    Args:
        frames: Samples in [-1, 1] at `config.sample_rate` Hz, shape (frames, frame_samples).
        config: Windows, hop and mel settings.

    Returns:
        Level from -1 (`floor_db` below full scale, or less) to 1 (a full-scale sine, or more),
        float32, shape (frames, columns, bands, windows): `(frames, *config.picture_shape)`.

    Raises:
        DataError: Frames of another shape, or samples that are not finite.
    """
    frames = np.asarray(frames, np.float32)
    if frames.ndim != 2 or frames.shape[1] != config.frame_samples:
        raise DataError(
            f"pictures: got frames of shape {frames.shape}, need (frames, {config.frame_samples}). "
            "Cut and pad with birdsong.audio.frames first."
        )
    if not np.isfinite(frames).all():
        raise DataError("pictures: got samples that are not finite numbers. Decode them again.")
    out = np.empty((len(frames), *config.picture_shape), np.float32)

    def work(part: slice) -> None:
        for picture, frame in zip(out[part], frames[part], strict=True):
            for channel, window in enumerate(config.windows):
                picture[:, :, channel] = _levels(frame, window, config)

    # Frame by frame: NumPy and SciPy give the lock of the interpreter back while they work.
    workers = min(count_cores(), len(frames))
    if workers < 2:
        work(slice(None))
    else:
        with ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(work, slice(n, None, workers)) for n in range(workers)]:
                done.result()
    return out


COLUMNS_AT_ONCE = 64
"""Columns whose spectra are worked on together: they fit into a core's cache."""


@cache
def _bands(config: FrontEndConfig, window: int) -> tuple[tuple[slice, slice, Floats], ...]:
    """The mel matrix in blocks of few bands: which bands, of which parts of the spectrum, and the
    block itself.

    A band gathers few bins, so most of the matrix is 0. The squares of the real and the imaginary
    part of a bin stand side by side and are added by the same product. Blocks are so small that
    NumPy's BLAS does not start threads for them, which would fight with ours.
    """
    matrix = np.repeat(mel_matrix(config, window), 2, axis=0)
    taken = matrix != 0
    first, last = taken.argmax(axis=0), len(matrix) - taken[::-1].argmax(axis=0)
    blocks, start = [], 0
    while start < matrix.shape[1]:
        end = start + 1
        while end < matrix.shape[1] and (
            COLUMNS_AT_ONCE * (end + 1 - start) * (last[end] - first[start]) <= SINGLE_THREAD
        ):
            end += 1
        bands, parts = slice(start, end), slice(first[start], last[end - 1])
        blocks.append((bands, parts, np.ascontiguousarray(matrix[parts, bands])))
        start = end
    return tuple(blocks)


SINGLE_THREAD = 4 * 65536
"""Multiplications of a matrix product up to which OpenBLAS stays in the calling thread."""


def _levels(frame: Floats, window: int, config: FrontEndConfig) -> Floats:
    """Levels of one frame in one resolution, shape (columns, bands)."""
    # The FFT of TensorFlow too, rounding alike. NumPy's is closer to the truth, and so differs by
    # 2e-5 from the graph beside a loud tone; it is slower as well.
    from scipy import fft

    columns, bands, _ = config.picture_shape
    before = window // 2
    needed = (columns - 1) * config.hop + window
    padded = np.zeros(max(needed, before + len(frame)), np.float32)
    padded[before : before + len(frame)] = frame
    slices = np.lib.stride_tricks.sliding_window_view(padded, window)[:: config.hop][:columns]
    power = np.empty((columns, bands), np.float32)
    length = fft_length(window)
    windowed = np.zeros((COLUMNS_AT_ONCE, length), np.float32)
    for start in range(0, columns, COLUMNS_AT_ONCE):
        part = slices[start : start + COLUMNS_AT_ONCE]
        count = len(part)
        np.multiply(part, window_values(window), out=windowed[:count, :window])
        squares = fft.rfft(windowed[:count], axis=1).view(np.float32)
        np.multiply(squares, squares, out=squares)
        for chosen, parts, block in _bands(config, window):
            power[start : start + count, chosen] = squares[:, parts] @ block
    return to_picture(power, config.floor_db)


def to_picture(power: Floats, floor_db: float) -> Floats:
    """Power re full scale to level, `floor_db` below full scale and less as -1, 0 dB as 1.

    Works in place.
    """
    np.maximum(power, np.float32(10 ** (-floor_db / 10)), out=power)
    np.log(power, out=power)
    power *= np.float32(20 / floor_db / np.log(10.0))
    power += np.float32(1)
    return np.clip(power, -1, 1, out=power)
