"""A page to look at and listen to: a few recordings of each species as training gets them."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from birdsong import pages
from birdsong.audio import FULL_SCALE

if TYPE_CHECKING:
    from birdsong.features import FeatureSet

MOST_RECORDINGS = 75
"""On one page, which stays below about 15 MB."""

MOST_PER_SPECIES = 4
EXCERPT_SECONDS = 8.0
FLOOR_DB = 70.0

_STYLE = Markup("""<style>
.takes { display: grid; grid-template-columns: repeat(auto-fill, minmax(16.5rem, 1fr));
  gap: 1rem; }
.take { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem;
  overflow: hidden; font-size: .85rem; line-height: 1.35; }
.take img { display: block; width: 100%; height: 9rem; image-rendering: auto; }
.take audio { display: block; margin: .4rem 0 0; }
.take div { padding: .5rem .7rem .6rem; }
.take b { overflow-wrap: anywhere; }
h2 small { font-weight: 400; color: var(--soft); font-style: italic; font-size: .95rem; }
</style>""")


def write_page(
    path: str | Path, features: "FeatureSet", details: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write the page.

    Args:
        path: Where the HTML goes.
        features: The development artifact.
        details: Rows of recordings.parquet by id: author, licence, seconds.
    """
    index = features.index
    first = index[index["window"] == 0]
    rows_of = {code: rows.index.tolist() for code, rows in first.groupby("label")}
    shown = [species for species in features.classes if species["code"] in rows_of]
    shown = shown[:MOST_RECORDINGS]
    each = max(1, min(MOST_PER_SPECIES, MOST_RECORDINGS // max(1, len(shown))))
    lead = (
        f"{len(index):,} windows of {len(rows_of)} species for training and validation. Up to "
        f"{each} recordings of each species: the liveliest {EXCERPT_SECONDS:g} seconds of the "
        f"first window, from 0 to {features.config.sample_rate / 2000:g} kHz, as training gets it."
    )
    if len(rows_of) > len(shown):
        lead += f" The page shows the first {len(shown)} species only."
    parts = [_STYLE]
    for species in shown:
        rows = rows_of[species["code"]]
        # Spread over the list, which is sorted by id, instead of the first few.
        picked = [rows[i * len(rows) // each] for i in range(each)] if len(rows) > each else rows
        parts.append(
            Markup('<h2 id="{}">{} <small>{}</small></h2>').format(
                species["code"],
                species["common_name"] or species["code"],
                f"{species['scientific_name']} · {species['code']} · {len(rows)} recordings",
            )
        )
        takes = [_take(features, row, details) for row in picked]
        parts.append(Markup('<div class="takes">{}</div>').format(Markup("").join(takes)))
    if not shown:
        parts.append(pages.paragraph("There are no windows to show."))
    pages.write(path, "What training hears", lead, parts)


def spectrogram(samples: np.ndarray, rate: int) -> np.ndarray:
    """Level in dB below the loudest point, float32, shape (frequencies from high to low, times).

    Args:
        samples: int16, shape (samples,).
        rate: Samples per second.
    """
    size, hop = 512, max(1, round(rate / 80))
    wave = np.zeros(max(len(samples), round(EXCERPT_SECONDS * rate)) + size, np.float32)
    wave[size // 2 : size // 2 + len(samples)] = samples
    pieces = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop]
    power = np.abs(np.fft.rfft(pieces * np.hanning(size).astype(np.float32))) ** 2
    level = 10 * np.log10(np.maximum(power / max(power.max(), 1e-12), 10 ** (-FLOOR_DB / 10)))
    upright: np.ndarray = np.flipud(level.T[1:]).astype(np.float32)
    return upright


def _take(features: "FeatureSet", row: int, details: Mapping[str, Mapping[str, Any]]) -> Markup:
    rate = features.config.sample_rate
    name = str(features.index["id"].iloc[row])
    detail = details[name]
    samples = _liveliest(features.waveform(row), rate)
    facts = [
        detail.get("author") or "author not given",
        detail.get("licence") or "licence not given",
        f"{detail['seconds']:.1f} s",
    ]
    return Markup(
        '<div class="take">{}<div><b>{}</b><br><span class="soft">{}</span>{}</div></div>'
    ).format(
        pages.inline_image(_png(spectrogram(samples, rate)), "image/png", f"Spectrogram of {name}"),
        name,
        " · ".join(str(fact) for fact in facts),
        pages.player(_ogg(samples, rate), "audio/ogg"),
    )


def _liveliest(samples: np.ndarray, rate: int) -> np.ndarray:
    """The part of up to `EXCERPT_SECONDS` with the largest mean square, by half seconds."""
    step, length = rate // 2, round(EXCERPT_SECONDS * rate)
    starts = range(0, max(1, len(samples) - length + 1), step)
    energy = np.concatenate([[0], np.cumsum(samples.astype(np.float64) ** 2)])
    best = max(starts, key=lambda start: energy[min(start + length, len(samples))] - energy[start])
    return samples[best : best + length]


def _png(level: np.ndarray) -> bytes:
    import matplotlib.image

    buffer = io.BytesIO()
    matplotlib.image.imsave(
        buffer, level, vmin=-FLOOR_DB, vmax=0, cmap="magma", format="png", origin="upper"
    )
    return buffer.getvalue()


def _ogg(samples: np.ndarray, rate: int) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", rate, 1, format="OGG", subtype="VORBIS", compression_level=0.6
    ) as file:
        # libsndfile's Vorbis writer overflows its stack on one long write.
        for start in range(0, len(samples), 1 << 14):
            file.write(samples[start : start + (1 << 14)].astype(np.float32) / (FULL_SCALE + 1))
    return buffer.getvalue()
