"""How the invented species of generated recordings sing, over which wind and hum."""

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]

RATE = 32_000
"""Samples per second of the generated recordings, as in BirdCLEF."""


def sing(samples: Samples, species: int, random: np.random.Generator, level: float) -> None:
    """Add the bouts of one bird to noise whose root mean square is 1."""
    _, _, song, low = SONGS[species % len(SONGS)]
    # Variants of one kind of song are told apart by their pitch.
    pitch = low * 1.45 ** ((species // len(SONGS)) % 4) * 2 ** random.uniform(-0.12, 0.12)
    tempo = 2 ** random.uniform(-0.2, 0.2)
    bout = song(pitch, tempo, random)
    bout *= 10 ** (level / 20) / np.sqrt(np.mean(bout**2))
    start = round(random.uniform(0.1, 1.5) * RATE)
    while start + len(bout) <= len(samples):
        samples[start : start + len(bout)] += bout * random.uniform(0.7, 1.0)
        start += len(bout) + round(random.uniform(0.8, 4.0) * RATE)


@functools.cache
def _noise_tables() -> tuple[Samples, Samples]:
    """Two stretches of wind and hiss whose lengths share no factor, so that sums do not repeat."""
    random = np.random.default_rng(20_210_401)
    tables = []
    for count, slope in ((131_072, 1.0), (104_976, 0.5)):
        hertz = np.fft.rfftfreq(count, 1 / RATE)
        spectrum = np.fft.rfft(random.standard_normal(count)) / (1 + (hertz / 150) ** slope)
        spectrum[hertz < 20] = 0
        table = np.fft.irfft(spectrum, count)
        tables.append(table / table.std())
    return tables[0], tables[1]


def noise(random: np.random.Generator, count: int) -> Samples:
    """Wind, hiss and sometimes a hum, root mean square 1."""
    wind, hiss = _noise_tables()
    share = random.uniform(0.2, 0.8)
    samples: Samples = np.resize(np.roll(wind, random.integers(len(wind))), count) * share
    samples += np.resize(np.roll(hiss, random.integers(len(hiss))), count) * (1 - share)
    if random.random() < 0.4:
        hertz = float(random.choice((50.0, 60.0, 100.0)))
        period = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)
        period += 0.5 * np.sin(4 * np.pi * hertz * np.arange(RATE) / RATE)
        samples += np.resize(period, count) * random.uniform(0.1, 0.6)
    samples /= samples.std()
    return samples


def _tone(hertz: Samples) -> Samples:
    """A sine with this frequency at each sample."""
    tone: Samples = np.sin(2 * np.pi * np.cumsum(hertz) / RATE)
    return tone


def _syllable(start: float, end: float, seconds: float) -> Samples:
    """A tone that glides from one frequency to another and fades in and out."""
    count = max(int(seconds * RATE), 64)
    glide = np.linspace(0, 1, count)
    faded: Samples = _tone(start * (end / start) ** glide) * np.sin(np.pi * glide) ** 0.7
    return faded


def _row_of(syllables: list[Samples], gap_seconds: float) -> Samples:
    gap = np.zeros(int(gap_seconds * RATE))
    return np.concatenate([part for syllable in syllables for part in (syllable, gap)])


def _trill(pitch: float, tempo: float, random: np.random.Generator) -> Samples:
    note = _syllable(1.25 * pitch, 0.85 * pitch, 0.045 / tempo)
    return _row_of([note] * int(random.integers(16, 28)), 0.022 / tempo)


def _sweep(pitch: float, tempo: float, random: np.random.Generator) -> Samples:
    note = _syllable(0.75 * pitch, 1.5 * pitch, 0.38 / tempo)
    return _row_of([note] * int(random.integers(2, 5)), 0.16 / tempo)


def _buzz(pitch: float, tempo: float, random: np.random.Generator) -> Samples:
    count = int(random.uniform(0.6, 1.1) / tempo * RATE)
    time = np.arange(count) / RATE
    pulses = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * 85 * tempo * time))
    body = _tone(np.full(count, pitch)) + 0.6 * _tone(np.full(count, 1.31 * pitch))
    buzz: Samples = body * pulses * np.sin(np.pi * np.linspace(0, 1, count)) ** 0.4
    return buzz


def _chip(pitch: float, tempo: float, random: np.random.Generator) -> Samples:
    note = _syllable(1.6 * pitch, 0.8 * pitch, 0.028)
    parts = []
    for _ in range(int(random.integers(3, 8))):
        parts.append(_row_of([note], random.uniform(0.12, 0.34) / tempo))
    return np.concatenate(parts)


def _warble(pitch: float, tempo: float, random: np.random.Generator) -> Samples:
    count = int(random.uniform(1.0, 1.8) / tempo * RATE)
    time = np.arange(count) / RATE
    wave = np.sin(2 * np.pi * 7 * tempo * time) + 0.5 * np.sin(2 * np.pi * 11.3 * tempo * time)
    warble: Samples = _tone(pitch * 1.22**wave) * np.sin(np.pi * np.linspace(0, 1, count)) ** 0.3
    return warble


def _hoot(pitch: float, tempo: float, random: np.random.Generator) -> Samples:
    seconds = 0.3 / tempo
    note = _syllable(pitch, 0.93 * pitch, seconds) + 0.3 * _syllable(
        2 * pitch, 1.86 * pitch, seconds
    )
    return _row_of([note] * int(random.integers(2, 5)), 0.25 / tempo)


def _rattle(pitch: float, tempo: float, random: np.random.Generator) -> Samples:
    click = random.standard_normal(320) * np.exp(-np.arange(320) / 60)
    click *= np.sin(2 * np.pi * pitch * np.arange(320) / RATE)
    return _row_of([click] * int(random.integers(18, 34)), 0.03 / tempo)


def _peep(pitch: float, tempo: float, random: np.random.Generator) -> Samples:
    pair = [
        _syllable(1.2 * pitch, 1.2 * pitch, 0.16 / tempo),
        _syllable(0.9 * pitch, 0.9 * pitch, 0.24 / tempo),
    ]
    return _row_of(pair * int(random.integers(1, 4)), 0.07 / tempo)


SONGS: tuple[tuple[str, str, Callable[[float, float, np.random.Generator], Samples], float], ...]
SONGS = (
    ("tri", "trill", _trill, 3600.0),
    ("swe", "sweep", _sweep, 2600.0),
    ("buz", "buzz", _buzz, 4600.0),
    ("chi", "chip", _chip, 4200.0),
    ("war", "warbl", _warble, 2400.0),
    ("pee", "peep", _peep, 3000.0),
    ("hoo", "hoot", _hoot, 750.0),
    ("rat", "rattl", _rattle, 3200.0),
)
"""Letters of the code, kind, song and lowest pitch in Hz."""
