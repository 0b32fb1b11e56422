"""Broken recordings: real files of each format, changed where a seed says."""

import random
import struct
from collections.abc import Iterator
from pathlib import Path

from made_recordings import FORMATS, song

REAL = Path(__file__).parents[1] / "../shared/data/birds_real"
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def originals(seconds: float = 0.3) -> list[bytes]:
    """Short files of each format; also the beginnings of real recordings where those are."""
    made = [song(form, 1000 + 500 * i, seconds) for i, form in enumerate(FORMATS)]
    real = sorted(REAL.rglob("*.ogg"))[::60] if REAL.is_dir() else []
    return made + [file.read_bytes()[:40_000] for file in real]


def mutants(files: list[bytes], seed: int) -> Iterator[bytes]:
    """Without end: a file with one to four changes, the earlier bytes more often than the later."""
    source = random.Random(seed)
    while True:
        data = bytearray(source.choice(files))
        for _ in range(source.choice((1, 1, 1, 2, 4))):
            _CHANGES[source.randrange(len(_CHANGES))](data, source, files)
        yield bytes(data)


def _place(data: bytearray, source: random.Random) -> int:
    # Headers decide what a decoder believes, so half of the changes go there.
    end = min(len(data), 256) if source.random() < 0.5 else len(data)
    return source.randrange(max(1, end))


def _flip(data: bytearray, source: random.Random, files: list[bytes]) -> None:
    for _ in range(source.choice((1, 3, 30))):
        if data:
            data[_place(data, source)] ^= 1 << source.randrange(8)


def _edge(data: bytearray, source: random.Random, files: list[bytes]) -> None:
    form = source.choice(["<B", ">B", "<H", ">H", "<I", ">I"])
    value = source.choice(_EDGES) & (256 ** struct.calcsize(form) - 1)
    place = _place(data, source)
    data[place : place + struct.calcsize(form)] = struct.pack(form, value)


def _cut(data: bytearray, source: random.Random, files: list[bytes]) -> None:
    del data[_place(data, source) :]


def _drop(data: bytearray, source: random.Random, files: list[bytes]) -> None:
    place = _place(data, source)
    del data[place : place + source.choice((1, 4, 100, 5000))]


def _repeat(data: bytearray, source: random.Random, files: list[bytes]) -> None:
    place = _place(data, source)
    part = data[place : place + source.choice((1, 4, 100, 2000))]
    data[place:place] = part * source.choice((1, 2, 20))


def _noise(data: bytearray, source: random.Random, files: list[bytes]) -> None:
    place = _place(data, source)
    noise = source.randbytes(source.choice((1, 8, 500)))
    if source.random() < 0.5:
        data[place:place] = noise
    else:
        data[place : place + len(noise)] = noise


def _splice(data: bytearray, source: random.Random, files: list[bytes]) -> None:
    other = source.choice(files)
    data[_place(data, source) :] = other[source.randrange(len(other)) :]


_CHANGES = (_flip, _edge, _cut, _drop, _repeat, _noise, _splice)
