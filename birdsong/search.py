"""Search for hyperparameters with Optuna, or pass the given ones on."""

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from birdsong import (
    artifacts,
    cost,
    hyperparameters,
    progress,
    search_page,
    search_result,
    search_space,
    workers,
)
from birdsong.checkpoints import folder_beside
from birdsong.config import Hyperparameters, TrainConfig, TuneConfig
from birdsong.errors import ConfigError, DataError, StorageError
from birdsong.trials import MACHINE, Trials

if TYPE_CHECKING:
    import optuna

    from birdsong.features import FeatureSet


@dataclass(frozen=True)
class Job:
    """What one of the processes that share a search needs to know.

    Attributes:
        development_path: Features of train and validation.
        storage: Folder of the trials.
        tune, train, start: As given to `tune`.
        number: Which of the processes it is.
    """

    development_path: Path
    storage: Path
    tune: TuneConfig
    train: TrainConfig
    start: Hyperparameters
    number: int = 0


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
    others at the same epoch is pruned; one that fails, as for a loss that is no number or for
    lack of memory, is recorded with its reason and the search goes on. Until the search is
    complete trials are kept where `checkpoints.folder_beside` says: after a kill, the same search
    goes on with the trials that lack, the one that was under way among them.

    Args:
        development_path: Features of train and validation.
        hyperparameters_path: Where `hyperparameters.json` goes, with `trials.json`.
        history_path: Where the HTML page of trials goes.
        tune: Number of trials, their epochs, the space and how many processes share the work; no
            trials pass `start` on.
        train: Settings of each trial; its epochs are replaced by the trial's.
        start: Values that the search starts from.

    Returns:
        Trials finished, pruned and failed, and the best validation accuracy; only the former for
        no trials.

    Raises:
        DataError: There are no validation recordings to choose by, or every trial failed.
        ConfigError, StorageError: The weights do not fit or cannot be had.
    """
    if tune.trials == 0:
        return search_result.pass_on(
            hyperparameters_path, history_path, development_path, tune, start
        )
    started = time.monotonic()
    _check(development_path, tune, train)
    identity = _identity(development_path, tune, train, start)
    storage = folder_beside(hyperparameters_path) / f"search-{identity}"
    jobs = [
        Job(Path(development_path), storage, tune, train, start, number)
        for number in range(tune.workers)
    ]
    for _ in workers.in_order(work, jobs, tune.workers, lambda job: f"worker {job.number}"):
        pass
    trials = open_trials(jobs[0])
    rows = trials.rows()
    states = [row["state"] for row in rows]
    if "complete" not in states:
        reasons = list(dict.fromkeys(row["error"] for row in rows if row["error"]))
        # Started again after a change of the machine or the data, it shall try again.
        trials.remove()
        raise DataError(
            f"tune: each of {states.count('failed')} trials failed, so there is nothing to choose. "
            f"The last reason: {reasons[-1]} Mend that, narrow the space, or set trials=0."
        )
    best_accuracy = float(trials.study.best_value)
    chosen = {**start.model_dump(mode="json"), **trials.study.best_params}
    spent = cost.Part(
        step=cost.TUNE,
        machine="; ".join(dict.fromkeys(row["machine"] for row in rows if row["machine"])),
        seconds=sum(row["seconds"] or 0 for row in rows),
        trials=len(rows),
    )
    search_result.write(hyperparameters_path, development_path, tune, chosen, rows, spent)
    search_page.write(
        history_path,
        chosen,
        rows,
        search_space.parse(tune.space).dimensions,
        search_page.importance(trials.study),
        tune,
    )
    trials.remove()
    return {
        "trials_finished": float(states.count("complete")),
        "trials_pruned": float(states.count("pruned")),
        "trials_failed": float(states.count("failed")),
        "best_validation_accuracy": best_accuracy,
        "seconds": time.monotonic() - started,
    }


def open_trials(job: Job) -> Trials:
    """The trials of a search, with those that were done before."""
    space = search_space.parse(job.tune.space)
    return Trials(
        job.storage,
        space.distributions(),
        space.start(job.start, job.train),
        job.tune.trials,
        job.train.seed,
    )


def work(job: Job) -> None:
    """Run trials until enough are done; other processes may do the same at the same time."""
    from birdsong.features import FeatureSet

    if job.tune.workers > 1:
        _take_a_gpu(job.number)
    trials, features = open_trials(job), FeatureSet(job.development_path)
    progress.tell("search", len(trials.done()), job.tune.trials, "trials")
    try:
        while (trial := trials.claim()) is not None:
            trials.finish(trial, _run(trial, features, job))
            progress.tell("search", len(trials.done()), job.tune.trials, "trials")
    finally:
        trials.close()


def _run(
    trial: "optuna.Trial", features: "FeatureSet", job: Job
) -> "float | optuna.TrialPruned | str":
    """Train once: the best accuracy, that the trial was pruned, or why it failed."""
    import optuna

    from birdsong import devices
    from birdsong.tensorflow_setup import keras, tf
    from birdsong.training import fit
    from birdsong.training_state import Epoch

    best = 0.0

    def report(epoch: Epoch) -> None:
        nonlocal best
        best = max(best, epoch.validation_accuracy or 0.0)
        trial.report(best, epoch.epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    config = job.train.model_copy(update={"epochs": job.tune.epochs})
    # The graphs and variables of the trial before.
    keras.backend.clear_session()
    trial.set_user_attr(MACHINE, devices.described(config.devices))
    try:
        values, config = hyperparameters.override(trial.params, job.start, config)
        fit(features, values, config, f"trial-{trial.number}", report)
    except optuna.TrialPruned as pruned:
        return pruned
    except StorageError:
        raise  # of weights that cannot be had: no trial would do better
    except tf.errors.ResourceExhaustedError as error:
        reason = f"not enough memory of the device ({str(error).splitlines()[0]})."
    except MemoryError:
        reason = "not enough memory."
    except (ValueError, ArithmeticError, tf.errors.OpError) as error:
        # The first lines: TensorFlow appends the whole graph.
        reason = f"{type(error).__name__}: {str(error)[:500]}"
    else:
        return best
    print(f"trial-{trial.number} failed: {reason}", flush=True)
    return reason


def _take_a_gpu(number: int) -> None:
    """Show this process one GPU of several; must come before TensorFlow is imported."""
    # One that takes all of a GPU's memory would leave the others none.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = (
        [name for name in named.split(",") if name.strip()]
        if named is not None
        else [str(place) for place in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
    )
    if len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]


def _check(development_path: str | Path, tune: TuneConfig, train: TrainConfig) -> None:
    from birdsong.features import FeatureSet

    if tune.workers > 1 and train.devices > 1:
        raise ConfigError(
            f"tune: {tune.workers} trials side by side cannot each have {train.devices} devices. "
            "Set trial_workers=1 or devices=1."
        )
    if not FeatureSet(development_path).select("validation"):
        raise DataError(
            "tune: there are no validation recordings to choose hyperparameters by. Raise "
            "validation_fraction in split, or set trials=0."
        )


def _identity(
    development_path: str | Path, tune: TuneConfig, train: TrainConfig, start: Hyperparameters
) -> str:
    """Names a search by all that decides its trials; their number may grow."""
    parts = [
        artifacts.read_spec(development_path, "features").sha256,
        tune.epochs,
        search_space.parse(tune.space).model_dump(mode="json"),
        train.model_dump(mode="json", exclude={"epochs"}),
        start.model_dump(mode="json"),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
