"""A page to look at and listen to: a few recordings of each species as training gets them."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from birdsong import pages
from birdsong.audio import FULL_SCALE
from birdsong.config import FrontEndConfig
from birdsong.frontend import fft_length, mel_matrix, window_values

if TYPE_CHECKING:
    from birdsong.features import FeatureSet

MOST_RECORDINGS = 75
"""On one page, which stays below about 15 MB."""

MOST_PER_SPECIES = 4
EXCERPT_SECONDS = 8.0
FLOOR_DB = 70.0
MEL_BANDS = 126
WINDOW = 661
"""Samples: 30 ms, the middle one of the network's three windows."""

_STYLE = Markup("""<style>
.takes { display: grid; grid-template-columns: repeat(auto-fill, minmax(16.5rem, 1fr));
  gap: 1rem; }
.take { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem;
  overflow: hidden; font-size: .85rem; line-height: 1.35; }
.take figure { margin: 0; height: 9rem; position: relative; background: repeating-linear-gradient(
  45deg, #e4e9ef, #e4e9ef 6px, #eef2f6 6px, #eef2f6 12px); }
.take img { display: block; height: 100%; width: 100%; }
.take figcaption { position: absolute; left: .4rem; top: .25rem; color: #fff; font-size: .7rem;
  text-shadow: 0 0 3px #000, 0 0 2px #000; }
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
    index = features.index[features.index["part"] != "no_call"]
    first = index[index["window"] == 0]
    rows_of = {code: rows.index.tolist() for code, rows in first.groupby("label")}
    shown = [species for species in features.classes if species["code"] in rows_of]
    shown = shown[:MOST_RECORDINGS]
    each = max(1, min(MOST_PER_SPECIES, MOST_RECORDINGS // max(1, len(shown))))
    lead = (
        f"{len(index):,} windows of {len(rows_of)} species for training and validation. Up to "
        f"{each} recordings of each species: the liveliest {EXCERPT_SECONDS:g} seconds of the "
        "first window, mono, trimmed and at full level as training gets it. Pictures run from left "
        "to right in time and, on a mel scale, upwards in frequency."
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
    """Log-mel levels of an excerpt, 100 columns a second.

    The network's own front end needs SciPy, which the image of the data stages does not have;
    this picture shares its mel bands and is for people.

    Args:
        samples: int16, shape (samples,), at least one.
        rate: Samples per second.

    Returns:
        Level in dB below the loudest point, down to -`FLOOR_DB`, float32, shape
        (bands from high to low, columns).
    """
    config = FrontEndConfig(sample_rate=rate, mel_bands=MEL_BANDS + 2, dropped_bands=2)
    hop = round(rate / 100)
    size = fft_length(WINDOW)
    wave = np.zeros(len(samples) + size, np.float32)
    wave[WINDOW // 2 : WINDOW // 2 + len(samples)] = samples
    pieces = np.lib.stride_tricks.sliding_window_view(wave[: len(samples) + WINDOW], WINDOW)[::hop]
    power = np.abs(np.fft.rfft(pieces * window_values(WINDOW), size)) ** 2
    bands = power.astype(np.float32) @ mel_matrix(config, WINDOW)
    loudest = max(float(bands.max()), 1e-12)
    level = 10 * np.log10(np.maximum(bands / loudest, np.float32(10 ** (-FLOOR_DB / 10))))
    upright: np.ndarray = np.flipud(level.T).astype(np.float32)
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
    width = min(100.0, 100 * len(samples) / rate / EXCERPT_SECONDS)
    image = pages.inline_image(
        picture(spectrogram(samples, rate)), "image/jpeg", f"Spectrogram of {name}"
    )
    return Markup(
        '<div class="take"><figure><div style="padding:0;height:100%;width:{:.1f}%">{}</div>'
        "<figcaption>{:.0f} kHz</figcaption></figure>"
        '<div><b>{}</b><br><span class="soft">{}</span>{}</div></div>'
    ).format(
        width,
        image,
        rate / 2000,
        name,
        " · ".join(str(fact) for fact in facts),
        pages.player(ogg(samples, rate), "audio/ogg"),
    )


def _liveliest(samples: np.ndarray, rate: int) -> np.ndarray:
    """The part of up to `EXCERPT_SECONDS` with the largest mean square, by half seconds."""
    step, length = rate // 2, round(EXCERPT_SECONDS * rate)
    starts = range(0, max(1, len(samples) - length + 1), step)
    energy = np.concatenate([[0], np.cumsum(samples.astype(np.float64) ** 2)])
    best = max(starts, key=lambda start: energy[min(start + length, len(samples))] - energy[start])
    return samples[best : best + length]


def picture(level: np.ndarray) -> bytes:
    """Levels of `spectrogram` as a JPEG."""
    import matplotlib.image

    buffer = io.BytesIO()
    # Noise makes PNG five times larger.
    matplotlib.image.imsave(
        buffer,
        level,
        vmin=-FLOOR_DB,
        vmax=0,
        cmap="magma",
        format="jpg",
        pil_kwargs={"quality": 85},
    )
    return buffer.getvalue()


def ogg(samples: np.ndarray, rate: int) -> bytes:
    """Write int16 samples, shape (samples,), as a small OGG Vorbis file for a player."""
    import soundfile

    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", rate, 1, format="OGG", subtype="VORBIS", compression_level=0.6
    ) as file:
        # libsndfile's Vorbis writer overflows its stack on one long write.
        for start in range(0, len(samples), 1 << 14):
            file.write(samples[start : start + (1 << 14)].astype(np.float32) / (FULL_SCALE + 1))
    return buffer.getvalue()
