"""Measures batch prediction against the usual loop: librosa.load, cut, one pass for each file.

    .venv/bin/python tests/bench/bench_predict.py BUNDLE [--source FOLDER] [--rounds N]

Both use the bundle's own TensorFlow graph, loaded once. Rounds are interleaved; figures are
medians of seconds of audio per second, and of the ratio within a round.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import librosa
import numpy as np

from birdsong import audio, predict
from birdsong.bundle import read_bundle
from birdsong.scoring import Scorer

REAL = Path(__file__).parents[2] / "../shared/data/birds_real"


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="folder of a bundle")
    parser.add_argument("--source", default=str(REAL), help="folder of recordings")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    bundle = read_bundle(asked.bundle)
    scorer = Scorer(bundle.model)
    files = predict.find([asked.source])
    scorer.frames(np.zeros((48, 110_250), np.float32))
    pairs = []
    for number in range(asked.rounds):
        order = (ours, plain_loop) if number % 2 else (plain_loop, ours)
        found = {way.__name__: way(asked.source, files, bundle, scorer) for way in order}
        pairs.append((found["ours"], found["plain_loop"]))
    for name, values in zip(
        ("birdsong predict", "librosa loop"), zip(*pairs, strict=True), strict=True
    ):
        print(f"{name:17} {statistics.median(values):7.0f} times real time")
    ratio = statistics.median(one / other for one, other in pairs)
    print(f"ratio of rounds   {ratio:7.2f}")


def ours(source: str, files: list, bundle: object, scorer: Scorer) -> float:
    """Seconds of audio per second."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        rule = predict.Rule()
        outcome = predict.predict([source], Path(folder) / "out.csv", bundle, lambda: scorer, rule)
        return outcome.audio_seconds / (time.perf_counter() - started)


def plain_loop(source: str, files: list, bundle: object, scorer: Scorer) -> float:
    """Seconds of audio per second."""
    started, heard = time.perf_counter(), 0.0
    for _, file in files:
        wave, _ = librosa.load(file.uri, sr=22_050)
        heard += len(wave) / 22_050
        size = round(audio.FRAME_SECONDS * 22_050)
        padded = np.zeros(-(-len(wave) // size) * size, np.float32)
        padded[: len(wave)] = wave / max(np.abs(wave).max(), 1e-9)
        scorer.frames(padded.reshape(-1, size)).max(axis=0)
    return heard / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
