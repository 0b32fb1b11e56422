"""Train the network on weak labels, choose its best epoch, and write the model artifact."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from birdsong import (
    artifacts,
    baseline,
    cost,
    devices,
    history,
    progress,
    weak_labels,
)
from birdsong.ahead import read_ahead
from birdsong.checkpoints import Checkpoints, folder_beside, key
from birdsong.config import (
    FRONT_ENDS,
    FeatureConfig,
    Hyperparameters,
    RuntimeConfig,
    TrainConfig,
)
from birdsong.errors import DataError
from birdsong.features import FeatureSet
from birdsong.hyperparameters import read as read_hyperparameters
from birdsong.model import export, in_float32
from birdsong.runtimes import export as runtime_export
from birdsong.tensorflow_setup import tf
from birdsong.trainer import Trainer, as_tensors
from birdsong.training_data import BATCHES_AHEAD, TrainingWindows, Windows
from birdsong.training_state import Epoch, Fit

_BYTES_A_WEIGHT = 16
"""Room for the weights as float32, as a graph, and for what is written aside of them."""

SCORED_TOGETHER = 8
"""Windows of validation that are scored at a time: at most 96 frames."""


def fit(
    features: FeatureSet,
    hyperparameters: Hyperparameters,
    config: TrainConfig,
    label: str = "train",
    after_epoch: Callable[[Epoch], None] | None = None,
    checkpoints: Path | None = None,
) -> Fit:
    """Train on the train part and keep the weights of the best epoch on the validation part.

    The best epoch has the highest validation accuracy rounded to 0.01, so that in a large
    validation part a few lucky recordings do not decide; of equal ones it has the lowest
    validation loss, since in a small part many epochs are equal and the first of them has learnt
    the least. Patience counts the epochs since the rounded accuracy last rose. Without a
    validation part it is the last epoch, and training never stops early.

    Args:
        features: The development artifact.
        hyperparameters: Learning rate, augmentation and dropout.
        config: Settings of the training.
        label: Word before the lines of progress.
        after_epoch: Called with each epoch that runs here; may raise to stop.
        checkpoints: Folder for the state after each epoch, for any number of trainings; one that
            was ended there goes on after its last epoch, with the same weights in the end as if
            it had not been. The caller removes `Fit.checkpoints`. None for no checkpoints.

    Raises:
        DataError: A species has no training window, or the loss is not finite.
        ConfigError, StorageError: The weights do not fit or cannot be had.
    """
    front_end = FRONT_ENDS[config.front_end]
    windows = TrainingWindows(
        features,
        front_end.frame_samples,
        config.class_balance,
        config.seed,
        config.background,
        config.rating_weight,
    )
    validation = Windows(features, "validation", front_end.frame_samples)
    steps = windows.steps(config.batch_size)
    trainer = Trainer(
        config,
        hyperparameters,
        features.codes,
        features.config.sample_rate,
        steps * config.epochs,
    )
    result = Fit(trainer.network, trainer.started_from)
    print(
        f"{label}: {len(windows)} windows of {len(features.codes)} species, {steps} steps an "
        f"epoch, {len(validation)} windows for validation. {trainer.started_from}",
        flush=True,
    )
    if checkpoints:
        name = key(features.path, (config, hyperparameters), trainer.variables)
        result.checkpoints = Checkpoints(checkpoints / name)
        result.resume(trainer.variables, label)
    progress.tell(label, len(result.epochs), config.epochs, "epochs")
    while len(result.epochs) < config.epochs and not result.stopped_early:
        epoch = _run_epoch(trainer, windows, validation, len(result.epochs) + 1, steps)
        result.take(epoch, config.patience)
        result.keep(trainer.variables)
        _tell(label, epoch, config.epochs, result)
        if after_epoch:
            after_epoch(epoch)
    progress.tell(label, config.epochs, config.epochs, "epochs")
    if result.best_weights:
        trainer.network.set_weights(result.best_weights)
    return result


def _run_epoch(
    trainer: Trainer, windows: TrainingWindows, validation: Windows, number: int, steps: int
) -> Epoch:
    started = time.monotonic()
    losses = []
    batches = read_ahead(windows.epoch(number, trainer.config.batch_size), BATCHES_AHEAD)
    for step, batch in enumerate(batches):
        losses.append(trainer.step(trainer.place(batch), tf.constant((number - 1) * steps + step)))
    loss = float(np.mean([float(value) for value in losses]))
    if not np.isfinite(loss):
        raise DataError(
            f"train: the loss of epoch {number} is {loss}. Lower learning_rate (now "
            f"{trainer.hyperparameters.learning_rate:g}) and train again."
        )
    accuracy = validation_loss = None
    if len(validation):
        logits = score_windows(trainer, validation)
        accuracy = recording_accuracy(validation, logits)
        validation_loss = float(
            weak_labels.crossentropy_modified(
                validation.labels(), logits, trainer.config.pos_weight
            )
        )
    rate = float(trainer.schedule(number * steps))
    return Epoch(number, loss, validation_loss, accuracy, rate, time.monotonic() - started)


def score_windows(trainer: Trainer, windows: Windows) -> NDArray[np.float32]:
    """Logits of windows, each the highest over its frames: float32, (windows, species)."""
    # Sorted by length, so that short ones are not padded to the longest.
    order = np.argsort(windows.samples, kind="stable")
    out = np.empty((len(windows), len(windows.features.codes)), np.float32)
    parts = np.array_split(order, -(-len(order) // SCORED_TOGETHER))
    batches = read_ahead(map(windows.batch, parts), BATCHES_AHEAD)
    for positions, batch in zip(parts, batches, strict=True):
        tensors = as_tensors(batch)
        out[positions] = trainer.score(tensors.waveforms, tensors.samples).numpy()
    return out


def recording_accuracy(windows: Windows, scores: NDArray[np.floating]) -> float:
    """MultiCategoryAccuracy over recordings, each scored by the highest of its windows."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(windows.ids))}
    owner = np.array([numbers[name] for name in windows.ids])
    highest = np.full((len(numbers), scores.shape[1]), -np.inf)
    np.maximum.at(highest, owner, scores)
    labels = np.zeros((len(numbers), scores.shape[1]), np.int8)
    labels[owner] = windows.labels()
    return float(np.mean(weak_labels.multi_category_accuracy(labels, highest)))


def train(
    development_path: str | Path,
    hyperparameters_path: str | Path,
    model_path: str | Path,
    history_path: str | Path,
    config: TrainConfig,
    runtime_config: RuntimeConfig | None = None,
) -> dict[str, float]:
    """Train the network and the baseline, and write the model artifact and its curves.

    Until the artifact stands, checkpoints are kept where `checkpoints.folder_beside` says: after a
    kill, the same training goes on with its next epoch.

    Args:
        development_path: Features of train and validation.
        hyperparameters_path: Artifact of tune.
        model_path: Where the model goes: weights, settings, species, the exported graph `serve`
            from waveforms to scores, the network for other runtimes, the baseline, and the
            history.
        history_path: Where the HTML page of curves goes.
        config: Settings of the training.
        runtime_config: When another runtime than TensorFlow is admitted.

    Returns:
        Validation accuracy of the network and of the baseline (absent without a validation part),
        best epoch, epochs, admitted runtimes and seconds.

    Raises:
        DataError: An artifact is not what it should be, or a species has no training window.
        ConfigError, StorageError: The weights do not fit or cannot be had.
    """
    started = time.monotonic()
    features = FeatureSet(development_path)
    hyperparameters, config = read_hyperparameters(hyperparameters_path, config)
    fitted = fit(features, hyperparameters, config, checkpoints=folder_beside(model_path))
    plain = baseline.fit(features, features.select("train"))
    front_end = FRONT_ENDS[config.front_end]
    summary = {"best_epoch": float(fitted.best_epoch), "epochs": float(len(fitted.epochs))}
    validation = Windows(features, "validation", front_end.frame_samples)
    if fitted.accuracy is not None:
        summary["validation_accuracy"] = fitted.accuracy
        summary["baseline_validation_accuracy"] = recording_accuracy(
            validation, plain.scores(features, validation.rows.tolist())
        )
    else:
        print("train: no validation recordings, so the last epoch is taken.", flush=True)
    record = {
        "started_from": fitted.started_from,
        "best_epoch": fitted.best_epoch,
        "stopped_early": fitted.stopped_early,
        "epochs": [epoch.__dict__ for epoch in fitted.epochs],
        "summary": summary,
    }
    inputs = {"development": development_path, "hyperparameters": hyperparameters_path}
    with artifacts.create(model_path, "model", config, inputs) as folder:
        artifacts.ensure_room(folder.path, _BYTES_A_WEIGHT * fitted.network.count_params())
        fitted.network.save_weights(str(folder.path / "weights.weights.h5"))
        network = in_float32(fitted.network, config, len(features.codes))
        export(network, front_end, folder.path / "saved_model")
        artifacts.write_json(
            folder.path / "model.json", _settings(config, hyperparameters, features.config)
        )
        artifacts.write_json(folder.path / "classes.json", features.classes)
        artifacts.write_json(folder.path / "history.json", record)
        plain.save(folder.path)
        table = runtime_export.export_and_compare(
            folder.path,
            network,
            front_end,
            features,
            runtime_config or RuntimeConfig(),
            config.seed,
        )
        seconds = time.monotonic() - started + fitted.resumed_seconds
        spent = cost.Part(
            step=cost.TRAIN, machine=devices.described(config.devices), seconds=seconds
        )
        cost.note(folder.path, *cost.read(hyperparameters_path), spent)
    summary["admitted_runtimes"] = float(
        sum(entry["admitted"] for entry in table["runtimes"].values())
    )
    summary["seconds"] = time.monotonic() - started
    history.write_training(history_path, fitted.epochs, record, config, hyperparameters, table)
    if fitted.checkpoints:
        fitted.checkpoints.remove()
    return summary


def _settings(
    config: TrainConfig, hyperparameters: Hyperparameters, features: FeatureConfig
) -> dict[str, Any]:
    return {
        "train": config.model_dump(mode="json"),
        "hyperparameters": hyperparameters.model_dump(mode="json"),
        "front_end": FRONT_ENDS[config.front_end].model_dump(mode="json"),
        "features": features.model_dump(mode="json"),
    }


def _tell(label: str, epoch: Epoch, epochs: int, result: Fit) -> None:
    parts = [f"epoch {epoch.epoch}/{epochs}", f"loss {epoch.loss:.4f}"]
    if epoch.validation_accuracy is not None:
        parts.append(f"validation accuracy {epoch.validation_accuracy:.3f}")
        parts.append(f"best {result.accuracy:.3f} in epoch {result.best_epoch}")
    print(f"{label}: {', '.join(parts)}, {epoch.seconds:.1f} s", flush=True)
    progress.tell(label, epoch.epoch, epochs, "epochs")
