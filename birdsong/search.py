"""Search for hyperparameters with Optuna, or pass the given ones on."""

import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsong import artifacts, history, progress
from birdsong.config import Hyperparameters, TrainConfig, TuneConfig
from birdsong.errors import DataError

if TYPE_CHECKING:
    import optuna

SPACE: dict[str, tuple[float, float]] = {
    "learning_rate": (1e-5, 1e-3),
    "time_mask": (0.0, 0.97),
    "freq_mask": (0.0, 0.97),
    "reduce_db": (0.0, 0.9),
    "dropout": (0.0, 0.7),
}
"""Lowest and highest value of each hyperparameter; the learning rate is searched by its logarithm.

The reference's best values lie outside its own ranges, so these are wider.
"""

FIRST_EPOCHS = 2
"""Epochs that every trial gets before it may be pruned."""

FIRST_TRIALS = 4
"""Trials that run to their end before others are held against them."""


def tune(
    development_path: str | Path,
    hyperparameters_path: str | Path,
    history_path: str | Path,
    tune: TuneConfig,
    train: TrainConfig,
    start: Hyperparameters,
) -> dict[str, float]:
    """Search for the hyperparameters with the highest validation accuracy.

    The first trial tries `start`. A trial whose best accuracy so far is below the median of the
    others at the same epoch is pruned. Finished trials are kept in a SQLite file beside the output
    until the search is complete: after a kill, the same search goes on with the trials that lack.

    Args:
        development_path: Features of train and validation.
        hyperparameters_path: Where `hyperparameters.json` goes, with `trials.json`.
        history_path: Where the HTML page of trials goes.
        tune: Number of trials and their epochs; no trials pass `start` on.
        train: Settings of each trial; its epochs are replaced by the trial's.
        start: Values that the search starts from.

    Returns:
        Trials finished and pruned, and the best validation accuracy; only the former two for no
        trials.

    Raises:
        DataError: There are no validation recordings to choose by.
        ConfigError, StorageError: The weights do not fit or cannot be had.
    """
    if tune.trials == 0:
        artifacts.read_spec(development_path, "features")
        _write(hyperparameters_path, development_path, tune, start, [])
        history.write_search(history_path, [], start, None, tune)
        return {"trials_finished": 0.0, "trials_pruned": 0.0}
    started = time.monotonic()
    place = Path(hyperparameters_path)
    identity = _identity(development_path, tune, train, start)
    storage = place.parent / f".{place.name}.{identity}.sqlite"
    storage.parent.mkdir(parents=True, exist_ok=True)
    study = _search(development_path, tune, train, start, storage, identity)
    best = Hyperparameters(**study.best_params)
    trials = [_row(trial) for trial in study.trials]
    _write(hyperparameters_path, development_path, tune, best, trials)
    history.write_search(history_path, trials, best, study, tune)
    storage.unlink(missing_ok=True)
    states = [trial["state"] for trial in trials]
    return {
        "trials_finished": float(states.count("complete")),
        "trials_pruned": float(states.count("pruned")),
        "best_validation_accuracy": float(study.best_value),
        "seconds": time.monotonic() - started,
    }


def _search(
    development_path: str | Path,
    tune: TuneConfig,
    train: TrainConfig,
    start: Hyperparameters,
    storage: Path,
    identity: str,
) -> "optuna.Study":
    import optuna

    from birdsong.features import FeatureSet
    from birdsong.tensorflow_setup import keras
    from birdsong.training import fit
    from birdsong.training_state import Epoch

    features = FeatureSet(development_path)
    if not features.select("validation"):
        raise DataError(
            "tune: there are no validation recordings to choose hyperparameters by. Raise "
            "validation_fraction in split, or set trials=0."
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=identity,
        storage=f"sqlite:///{storage}",
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(FIRST_TRIALS, FIRST_EPOCHS),
    )
    if not study.trials:
        study.enqueue_trial(_within(start))
    config = train.model_copy(update={"epochs": tune.epochs})

    def objective(trial: "optuna.Trial") -> float:
        values = {
            name: trial.suggest_float(name, low, high, log=name == "learning_rate")
            for name, (low, high) in SPACE.items()
        }
        best = 0.0

        def report(epoch: Epoch) -> None:
            nonlocal best
            best = max(best, epoch.validation_accuracy or 0.0)
            trial.report(best, epoch.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        keras.backend.clear_session()
        fit(features, Hyperparameters(**values), config, f"trial-{trial.number}", report)
        return best

    def count() -> int:
        done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        return len(study.get_trials(deepcopy=False, states=done))

    progress.tell("search", count(), tune.trials, "trials")
    while count() < tune.trials:
        # Seeded by the trial: a sampler that starts anew after a kill would draw the first again.
        study.sampler = optuna.samplers.TPESampler(seed=train.seed + count())
        study.optimize(objective, n_trials=1)
        progress.tell("search", count(), tune.trials, "trials")
    return study


def _within(start: Hyperparameters) -> dict[str, float]:
    """The values to start from, moved to the edge of the space where they lie outside."""
    values = start.model_dump()
    return {name: min(max(values[name], low), high) for name, (low, high) in SPACE.items()}


def _identity(
    development_path: str | Path, tune: TuneConfig, train: TrainConfig, start: Hyperparameters
) -> str:
    """Names a search by all that decides its trials; their number may grow."""
    parts = [
        artifacts.read_spec(development_path, "features").sha256,
        tune.model_dump(exclude={"trials"}),
        train.model_dump(exclude={"epochs"}),
        start.model_dump(),
        SPACE,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _row(trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "accuracy": trial.value,
        "by_epoch": [value for _, value in sorted(trial.intermediate_values.items())],
        "values": trial.params,
        "seconds": trial.duration.total_seconds() if trial.duration else None,
    }


def _write(
    path: str | Path,
    development_path: str | Path,
    tune: TuneConfig,
    best: Hyperparameters,
    trials: list[dict[str, Any]],
) -> None:
    with artifacts.create(
        path, "hyperparameters", tune, {"development": development_path}
    ) as folder:
        artifacts.write_json(folder.path / "hyperparameters.json", best.model_dump(mode="json"))
        artifacts.write_json(folder.path / "trials.json", trials)
