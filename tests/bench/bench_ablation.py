"""Shows what augmentations and weak labels bring, on one inner fold of the real recordings.

    .venv/bin/python tests/bench/bench_ablation.py [--source FOLDER] [--work FOLDER] [--only NAMES]

The recordings are those that bench_quality.py does not hold out in its first fold; a quarter of
them, by author, is held out here. So that fold stays unseen by whatever is chosen from this table.
Each row trains the network of `quick` anew with one thing changed and the same seed; what is done
stays in `--work`, and a run that was stopped goes on with the next row.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import bench_quality as quality
import numpy as np
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedGroupKFold

from birdsong import artifacts, augment, training
from birdsong.config import Hyperparameters, TrainConfig
from birdsong.features import FeatureSet
from birdsong.profiles import PROFILES
from birdsong.tensorflow_setup import keras, tf
from birdsong.trainer import Trainer, waves
from birdsong.training_data import Windows

EPOCHS = 40
DRAWS = 2_000


class RandomFrame(Trainer):
    """Trains on any frame of a recording, as if its label were true of each."""

    def best_frames(self, batch: Any, seed: Any, share: Any = None) -> Any:
        size = self.front_end_config.frame_samples
        room = tf.maximum(batch.samples - size, 0)
        part = tf.random.stateless_uniform([tf.shape(room)[0]], seed)
        starts = tf.cast(part * tf.cast(room + 1, tf.float32), tf.int32)
        positions = starts[:, tf.newaxis] + tf.range(size)
        return waves(tf.gather(batch.waveforms, positions, batch_dims=1))


WITHOUT: dict[str, Any] = {
    "weak labels (any frame instead of the best)": mock.patch.object(
        training, "Trainer", RandomFrame
    ),
    "random start": mock.patch.object(
        augment, "random_starts", lambda samples, *_: tf.zeros_like(samples)
    ),
    "mix within the species": mock.patch.object(augment, "LEAST_WEIGHT", 1.0),
    "frames without a bird": mock.patch.object(augment, "NO_CALL_SHARE", 0.0),
}
"""What is no setting is taken out of the code for the time of a training."""

CHANGES: dict[str, dict[str, float]] = {
    "without class balance": {"class_balance": 0.0},
    "without time mask": {"time_mask": 0.0},
    "without frequency mask": {"freq_mask": 0.0},
    "without raised floor": {"reduce_db": 0.0},
    "with mixup=0.5": {"mixup": 0.5},
    "with background=0.5": {"background": 0.5},
    "with gain_db=20": {"gain_db": 20.0},
    "with label_smoothing=0.05": {"label_smoothing": 0.05},
    "with rating_weight=1": {"rating_weight": 1.0},
}
"""Settings of `quick` that a row changes."""

WHOLE = "quick as it is"
SEED = "another seed"


def main() -> None:
    """Run the rows that are not done yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default=str(quality.REAL), help="a source as ingest takes it")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "birdsong-cv")
    parser.add_argument("--only", default="", help="rows by a part of their name, comma-separated")
    given = parser.parse_args()
    everything = quality.prepare(given.source, given.work)
    authors = quality.read_authors(everything, given.work)
    parts = assign_parts(everything, authors)
    rows = [WHOLE, *(f"without {name}" for name in WITHOUT), *CHANGES, SEED]
    wanted = [name for name in given.only.split(",") if name]
    results = {}
    for name in rows:
        if wanted and name != WHOLE and not any(part in name for part in wanted):
            continue
        place = given.work / f"ablation-{name.split(' (')[0].replace(' ', '-')}.json"
        if not place.exists():
            artifacts.write_json(place, run_row(everything, parts, name))
        results[name] = artifacts.read_json(place)
    print_table(everything, authors, parts, results)


def assign_parts(everything: FeatureSet, authors: np.ndarray) -> np.ndarray:
    """`train` and `held` of the inner fold; the outer fold and what is left over are `unused`."""
    fold_of = quality.assign_folds(everything, authors, 5)
    inner = np.flatnonzero(fold_of != 0)
    labels = everything.index["label"].to_numpy()
    parts = np.full(len(labels), "unused", object)
    splitter = StratifiedGroupKFold(4, shuffle=True, random_state=quality.SEED)
    train, held = next(splitter.split(inner, labels[inner], authors[inner]))
    parts[inner[train]], parts[inner[held]] = "train", "held"
    # A species that only the outer fold or the held part has cannot be learnt or is not scored.
    known = set(labels[parts == "train"])
    for code in set(everything.codes) - known:
        rows = np.flatnonzero(labels == code)
        parts[rows] = "train"
    return parts


@contextlib.contextmanager
def changed(name: str) -> Iterator[tuple[TrainConfig, Hyperparameters]]:
    """The settings of a row, with what it takes out of the code taken out."""
    values = {**PROFILES["quick"], "patience": 0, "epochs": EPOCHS, **CHANGES.get(name, {})}
    values |= {"seed": 1} if name == SEED else {}
    config = TrainConfig(**{k: v for k, v in values.items() if k in TrainConfig.model_fields})
    hyperparameters = Hyperparameters(
        **{k: v for k, v in values.items() if k in Hyperparameters.model_fields}
    )
    with WITHOUT.get(name.removeprefix("without "), contextlib.nullcontext()):
        yield config, hyperparameters


def run_row(everything: FeatureSet, parts: np.ndarray, name: str) -> dict[str, Any]:
    """Train and score the held windows."""
    started, busy = time.monotonic(), time.process_time()
    everything.index["part"] = parts
    keras.backend.clear_session()
    with changed(name) as (config, hyperparameters):
        fitted = training.fit(everything, hyperparameters, config, label="ablation")
        trainer = Trainer(config, hyperparameters, everything.codes, 22_050, 1)
    trainer.network.set_weights(fitted.network.get_weights())
    logits = training.score_windows(trainer, Windows(everything, "held", 110_250))
    return {
        "logits": logits.round(4).tolist(),
        "seconds": round(time.monotonic() - started),
        "core_seconds": round(time.process_time() - busy),
    }


def print_table(
    everything: FeatureSet, authors: np.ndarray, parts: np.ndarray, results: dict[str, Any]
) -> None:
    """Accuracy and mean average precision, and the difference to the first row by author."""
    held = np.flatnonzero(parts == "held")
    column = {code: number for number, code in enumerate(everything.codes)}
    truth = everything.index["label"].map(column).to_numpy()[held]
    of_author = [np.flatnonzero(authors[held] == name) for name in sorted(set(authors[held]))]
    print(
        f"\n{np.sum(parts == 'train')} recordings trained on, {len(held)} held out, of "
        f"{len(of_author)} authors and {len(set(truth))} species; {EPOCHS} epochs\n"
    )
    print("| | accuracy | against the first row | cmAP | core-minutes |\n|---|---|---|---|---|")
    whole = None
    for name, result in results.items():
        logits = np.array(result["logits"])
        right = logits.argmax(axis=1) == truth
        whole = right if whole is None else whole
        precision = np.mean(
            [average_precision_score(truth == n, logits[:, n]) for n in sorted(set(truth))]
        )
        random = np.random.default_rng(0)
        draws = []
        for _ in range(DRAWS):
            drawn = random.integers(len(of_author), size=len(of_author))
            picked = np.concatenate([of_author[n] for n in drawn])
            draws.append(right[picked].mean() - whole[picked].mean())
        low, high = np.percentile(draws, [2.5, 97.5])
        difference = right.mean() - whole.mean()
        against = "" if right is whole else f"{difference:+.3f} ({low:+.3f} to {high:+.3f})"
        print(
            f"| {name} | {right.mean():.3f} | {against} | {precision:.3f} | "
            f"{result['core_seconds'] / 60:.1f} |"
        )


if __name__ == "__main__":
    main()
