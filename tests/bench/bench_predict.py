"""Measures batch prediction against the usual loop: librosa.load, cut, one pass for each file.

    .venv/bin/python tests/bench/bench_predict.py BUNDLE [--source FOLDER] [--runtime NAME]
        [--files N] [--rounds N]

The loop uses the bundle's own TensorFlow graph. Prediction uses the runtime (by default the fastest
one), once with recordings decoded apart, as it does, and once in this process, to see what that
costs. Networks are loaded once and warm. Rounds are interleaved, so that other work on the machine
hits all alike; figures are medians of seconds of audio per second, and of ratios within a round;
beside them seconds of audio per second of all cores' time, which other work disturbs less.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import librosa
import numpy as np

from birdsong import audio, batch_reading, predict
from birdsong.bundle import Bundle, read_bundle
from birdsong.scoring import Scorer, load_scorer

REAL = Path(__file__).parents[2] / "../shared/data/birds_real"


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="folder of a bundle")
    parser.add_argument("--source", type=Path, default=REAL, help="folder of recordings")
    parser.add_argument("--runtime", default="auto", help="of prediction")
    parser.add_argument("--files", type=int, help="recordings, evenly of all; by default all")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    found = [Path(file.uri) for _, file in predict.find([str(asked.source)])]
    files = found[:: max(1, len(found) // (asked.files or len(found)))][: asked.files]
    fast = load_scorer(asked.bundle, asked.runtime)
    bundle = read_bundle(asked.bundle, fast.runtime)
    graph = load_scorer(asked.bundle, "tensorflow")
    for scorer in (fast, graph):
        scorer.frames(np.zeros((48, 110_250), np.float32))
    ways = {
        f"predict, {fast.runtime}": lambda: ours(files, bundle, fast, batch_reading.Decoder),
        f"predict, {fast.runtime}, decoded in this process": lambda: ours(
            files, bundle, fast, InThisProcess
        ),
        "librosa loop, tensorflow": lambda: plain_loop(files, graph),
    }
    seen: dict[str, list[float]] = {name: [] for name in ways}
    per_core: dict[str, list[float]] = {name: [] for name in ways}
    loads = []
    for number in range(asked.rounds):
        for name in list(ways) if number % 2 else reversed(list(ways)):
            began, busy = time.perf_counter(), sum(os.times()[:4])
            seen[name].append(ways[name]())
            heard = seen[name][-1] * (time.perf_counter() - began)
            per_core[name].append(heard / (sum(os.times()[:4]) - busy))
        loads.append(os.getloadavg()[0])
    mine = next(iter(seen.values()))
    print(f"{len(files)} recordings, {asked.rounds} rounds, load {min(loads):.1f}-{max(loads):.1f}")
    for name, values in seen.items():
        ratio = statistics.median(one / other for one, other in zip(mine, values, strict=True))
        core = statistics.median(per_core[name])
        print(
            f"{name:60} {statistics.median(values):5.0f} times real time, {core:5.0f} per core and "
            f"second; predict is {ratio:.2f} times as fast"
        )


class InThisProcess(batch_reading.Decoder):
    """Decodes here: what predict would save without its processes."""

    windows = staticmethod(audio.windows)


def ours(files: list[Path], bundle: Bundle, scorer: Scorer, decoder: type) -> float:
    """Seconds of audio per second."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(batch_reading, "Decoder", decoder),
    ):
        started = time.perf_counter()
        out, places = Path(folder) / "out.csv", [str(file) for file in files]
        outcome = predict.predict(places, out, bundle, lambda: scorer, predict.Rule())
        return outcome.audio_seconds / (time.perf_counter() - started)


def plain_loop(files: list[Path], scorer: Scorer) -> float:
    """Seconds of audio per second."""
    started, heard = time.perf_counter(), 0.0
    for file in files:
        wave, _ = librosa.load(file, sr=22_050)
        heard += len(wave) / 22_050
        size = round(audio.FRAME_SECONDS * 22_050)
        padded = np.zeros(-(-len(wave) // size) * size, np.float32)
        padded[: len(wave)] = wave / max(np.abs(wave).max(), 1e-9)
        scorer.frames(padded.reshape(-1, size)).max(axis=0)
    return heard / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
