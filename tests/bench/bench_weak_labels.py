"""Measures learning from weak labels against plain training on one frame of each recording.

    .venv/bin/python tests/bench/bench_weak_labels.py [--profile quick|reference] [--seconds N]

Both train the same network on the same recordings in the same batches. The plain way cuts one
frame; ours scores every frame of a recording and trains on the best of them. `looped` finds that
frame recording by recording, as `tf.map_fn` or a loop in Python would, and stands for what ours is
not. Rounds are interleaved; figures are medians.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from bench_train_step import write_features

from birdsong import weak_labels
from birdsong.config import Hyperparameters, TrainConfig
from birdsong.profiles import PROFILES
from birdsong.tensorflow_setup import tf
from birdsong.trainer import Trainer, as_tensors
from birdsong.training_data import Batch, TrainingWindows


class OneFrame(Trainer):
    """Trains on the first frame of each recording."""

    def best_frames(self, batch: Batch, seed: Any, share: Any = None) -> Any:
        size = self.front_end_config.frame_samples
        return tf.cast(batch.waveforms[:, :size], tf.float32) * (1 / weak_labels.FULL_SCALE)


class Looped(Trainer):
    """Finds the best frame of one recording after another."""

    def best_frames(self, batch: Batch, seed: Any, share: Any = None) -> Any:
        def one(fields: tuple[Any, Any, Any]) -> Any:
            waveform, samples, primary = (field[tf.newaxis] for field in fields)
            alone = batch._replace(waveforms=waveform, samples=samples, primary=primary)
            return super(Looped, self).best_frames(alone, seed)[0]

        fields = (batch.waveforms, batch.samples, batch.primary)
        kept = tf.TensorSpec([self.front_end_config.frame_samples], tf.float32)
        return tf.map_fn(one, fields, parallel_iterations=1, fn_output_signature=kept)


def main() -> None:
    """Run the comparison and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="quick", choices=["quick", "reference"])
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each recording")
    parser.add_argument("--batch", type=int, default=8, help="recordings of a step")
    parser.add_argument("--rounds", type=int, default=9, help="rounds; figures are medians")
    asked = parser.parse_args()
    values = {**PROFILES[asked.profile], "weights": "none"}
    config = TrainConfig(**{k: v for k, v in values.items() if k in TrainConfig.model_fields})
    hyperparameters = Hyperparameters(
        **{k: v for k, v in values.items() if k in Hyperparameters.model_fields}
    )
    folder = Path(tempfile.mkdtemp(prefix="bench-weak-labels-"))
    try:
        features = write_features(folder / "development", asked.seconds)
        (batch, *_) = TrainingWindows(features, 110_250, 0.0, 0).epoch(0, asked.batch)
        tensors = as_tensors(batch)
        steps: dict[str, Callable[[], float]] = {}
        for name, kind in (("one frame", OneFrame), ("best frame", Trainer), ("looped", Looped)):
            with redirect_stdout(StringIO()):
                trainer = kind(config, hyperparameters, features.codes, 22_050, 10_000)
            steps[name] = lambda trainer=trainer: seconds_of(trainer, tensors)
        for step in steps.values():
            step()
        rounds = [{name: step() for name, step in steps.items()} for _ in range(asked.rounds)]
    finally:
        shutil.rmtree(folder)
    frames = asked.batch * -(-round(asked.seconds * 22_050) // 110_250)
    print(
        f"profile {asked.profile}: {config.backbone}, {asked.batch} recordings of "
        f"{asked.seconds:g} s = {frames} frames a step"
    )
    for name, count in (("one frame", asked.batch), ("best frame", frames), ("looped", frames)):
        taken = statistics.median(found[name] for found in rounds)
        print(f"{name:12} {taken * 1000:8.1f} ms a step {count / taken:8.0f} frames heard a second")
    plain = statistics.median(found["best frame"] / found["one frame"] for found in rounds)
    loop = statistics.median(found["looped"] / found["best frame"] for found in rounds)
    print(
        f"best frame takes {plain:.2f} times as long as one frame for "
        f"{frames // asked.batch} times the audio; looped {loop:.2f} times as long as best frame"
    )


def seconds_of(trainer: Trainer, tensors: Batch) -> float:
    """Time of one step."""
    started = time.perf_counter()
    float(trainer.step(tensors, np.int32(0)))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
