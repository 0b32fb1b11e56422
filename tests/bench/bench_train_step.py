"""Measures a training step on stored features against the same step on one constant batch.

    .venv/bin/python tests/bench/bench_train_step.py [--profile quick|reference] [--steps N]

The constant batch lies in memory, so the difference is what reading costs. Rounds of both are
interleaved, so that a machine that slows down slows both; figures are medians over rounds. Both
use the same recordings in the same batches, so that the network's work is the same.
"""

import argparse
import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np

from birdsong import artifacts, shards
from birdsong.ahead import read_ahead
from birdsong.config import FeatureConfig, Hyperparameters, TrainConfig
from birdsong.features import FeatureSet
from birdsong.profiles import PROFILES
from birdsong.trainer import Trainer, as_tensors
from birdsong.training_data import BATCHES_AHEAD, Batch, TrainingWindows

RECORDINGS, SPECIES = 256, 8


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="quick", choices=["quick", "reference"])
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each recording")
    parser.add_argument("--batch", type=int, default=16, help="recordings of a step")
    parser.add_argument("--steps", type=int, default=8, help="steps of one round")
    parser.add_argument("--rounds", type=int, default=7, help="rounds; figures are medians")
    asked = parser.parse_args()

    folder = Path(tempfile.mkdtemp(prefix="bench-train-step-"))
    try:
        features = write_features(folder / "development", asked.seconds)
        measure(features, asked.profile, asked.batch, asked.steps, asked.rounds)
    finally:
        shutil.rmtree(folder)


def write_features(path: Path, seconds: float) -> FeatureSet:
    """Noise of one length, so that every batch is as much work."""
    config, random = FeatureConfig(), np.random.default_rng(0)
    with artifacts.create(path, "features", config) as folder:
        writer = shards.ShardWriter(folder, config)
        for number in range(RECORDINGS):
            size = round(seconds * config.sample_rate)
            samples = random.integers(-32767, 32768, size, np.int16)
            columns = {
                "id": f"{number}.ogg",
                "sha256": f"{number:064x}",
                "label": f"s{number % SPECIES}",
                "secondary": [],
                "part": "train",
                "group": str(number),
                "rating": None,
            }
            data = shards.encode(samples, config)
            writer.add(columns, [(0.0, size, len(data))], data)
        writer.finish(
            [{"code": f"s{n}", "scientific_name": "", "common_name": ""} for n in range(SPECIES)]
        )
    return FeatureSet(path)


def measure(features: FeatureSet, profile: str, batch_size: int, steps: int, rounds: int) -> None:
    """Time rounds of both kinds in turn."""
    values = {**PROFILES[profile], "weights": "none"}
    config = TrainConfig(**{k: v for k, v in values.items() if k in TrainConfig.model_fields})
    hyperparameters = Hyperparameters(
        **{k: v for k, v in values.items() if k in Hyperparameters.model_fields}
    )
    with redirect_stdout(StringIO()):
        trainer = Trainer(config, hyperparameters, features.codes, 22_050, 10_000)
    windows = TrainingWindows(features, trainer.front_end_config.frame_samples, 0.0, 0)
    numbers = itertools.count()

    def stored() -> Iterator[Batch]:
        batches = (b for n in itertools.count() for b in windows.epoch(n, batch_size))
        return read_ahead(batches, BATCHES_AHEAD)

    reading = stored()
    constant = as_tensors(next(reading))

    def time_steps(next_batch: Callable[[], Batch]) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            loss = trainer.step(next_batch(), np.int32(next(numbers)))
        float(loss)
        return (time.perf_counter() - started) / steps

    def from_store() -> float:
        return time_steps(lambda: as_tensors(next(reading)))

    def from_memory() -> float:
        return time_steps(lambda: constant)

    from_memory(), from_store()
    pairs = []
    for number in range(rounds):
        # In turn first and second, so that neither always profits from a warm cache.
        order = (from_memory, from_store) if number % 2 else (from_store, from_memory)
        found = {kind.__name__: kind() for kind in order}
        pairs.append((found["from_memory"], found["from_store"]))
    reading.close()
    memory, store = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(stored / kept for kept, stored in pairs)
    print(f"profile {profile}: {config.backbone}, front end {config.front_end}, batch {batch_size}")
    print(f"constant batch    {memory * 1000:8.1f} ms a step")
    print(f"stored features   {store * 1000:8.1f} ms a step")
    print(f"ratio of rounds   {ratio:8.3f}   (to be at most 1.05)")


if __name__ == "__main__":
    main()
