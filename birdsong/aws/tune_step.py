"""tune as a tuning job of SageMaker: the same space and outputs, the trials on machines of AWS."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from birdsong import cost, hyperparameters, search_page, search_result, search_space
from birdsong.aws import job_step, jobs, training_request
from birdsong.aws.settings import JobSettings
from birdsong.config import Hyperparameters, TrainConfig, TuneConfig
from birdsong.errors import ConfigError, JobError

OBJECTIVE = "validation_accuracy"

Json = dict[str, Any]


def tune(
    development_path: str | Path,
    hyperparameters_path: str | Path,
    history_path: str | Path,
    tune: TuneConfig,
    train: TrainConfig,
    start: Hyperparameters,
) -> dict[str, float]:
    """As `birdsong.search.tune`, by a tuning job that this step starts or finds.

    `tune.workers` trials run side by side, each on a machine of its own. One that fails does not
    fail the search. No trials start no job.

    Raises:
        JobError: The job failed or was stopped, or every trial failed.
        ConfigError: The settings do not fit.
        BirdsongError: AWS refuses, or cannot be reached.
    """
    if tune.trials == 0:
        return search_result.pass_on(
            hyperparameters_path, history_path, development_path, tune, start
        )
    began = time.monotonic()
    space = search_space.parse(tune.space)
    with job_step.begun(cost.TUNE, train) as step:
        data = step.send(development_path)
        told = {**train.model_dump(mode="json"), **start.model_dump(mode="json")}
        told = {name: value for name, value in told.items() if name not in space.dimensions}
        told.pop("registry", None)
        told["epochs"] = tune.epochs
        definition = training_request.definition(
            step.settings,
            {"development": data},
            training_request.hyperparameters(told),
            step=step.step,
            run=step.run,
            max_runtime_hours=step.settings.trial_max_runtime_hours,
        )
        step.keep_budget(definition, tune.trials)
        request = request_of(step.settings, tune, train, space, definition)
        job, _ended = step.run_job(jobs.TUNING, request)
        described = jobs.trials_of(job)
        # Also of the searches before it that failed: they were paid for too.
        earlier = [
            jobs.Job(step.account, jobs.TUNING, one["HyperParameterTuningJobName"])
            for one in jobs.attempts_of(job)
            if one["HyperParameterTuningJobName"] != job.name
        ]
        paid = [trial for one in earlier for trial in jobs.trials_of(one)] + described
        bill = step.bill(paid)
    rows = [row(number, one, start, train) for number, one in enumerate(described)]
    complete = [one for one in rows if one["state"] == "complete"]
    if not complete:
        reasons = [one["error"] for one in rows if one["error"]]
        raise JobError(
            f"tune: each of {len(rows)} trials failed, so there is nothing to choose. The last "
            f"reason: {reasons[-1] if reasons else 'AWS gives none'} {job.link}"
        )
    best = max(complete, key=lambda one: float(one["accuracy"]))
    chosen = {**start.model_dump(mode="json"), **best["values"]}
    spent = step.part(bill, job, trials=len(paid))
    search_result.write(hyperparameters_path, development_path, tune, chosen, rows, spent)
    search_page.write(
        history_path,
        chosen,
        rows,
        space.dimensions,
        importances(space, rows),
        tune,
        how=(
            f"SageMaker drew the values ({step.settings.strategy}, job {job.name}); "
            + "it may have ended poor trials early."
        ),
    )
    states = [one["state"] for one in rows]
    return {
        "trials_finished": float(states.count("complete")),
        "trials_pruned": float(states.count("pruned")),
        "trials_failed": float(states.count("failed")),
        "best_validation_accuracy": float(best["accuracy"]),
        "seconds": time.monotonic() - began,
        **bill.metrics(),
    }


def request_of(
    settings: JobSettings,
    tune: TuneConfig,
    train: TrainConfig,
    space: search_space.SearchSpace,
    definition: Json,
) -> Json:
    """What SageMaker is asked for a search, without its name.

    Raises:
        ConfigError: Bayesian search and Hyperband have limits that the settings exceed.
    """
    from sagemaker.core import shapes as s
    from sagemaker.core.utils.utils import serialize

    if tune.workers > 10 and settings.strategy == "Bayesian":
        raise ConfigError(
            f"trial_workers={tune.workers}: a Bayesian search of SageMaker runs at most 10 trials "
            "side by side. Set 10, or strategy: Random in the file of --sagemaker."
        )
    config = serialize(
        s.HyperParameterTuningJobConfig(
            strategy=settings.strategy,
            hyper_parameter_tuning_job_objective=s.HyperParameterTuningJobObjective(
                type="Maximize", metric_name=OBJECTIVE
            ),
            resource_limits=s.ResourceLimits(
                max_number_of_training_jobs=tune.trials,
                max_parallel_training_jobs=min(tune.workers, tune.trials),
            ),
            training_job_early_stopping_type="Auto" if settings.ends_trials_early else "Off",
        )
    )
    config["ParameterRanges"] = {k: v for k, v in space.parameter_ranges().items() if v}
    config["RandomSeed"] = train.seed % 2**31
    if settings.strategy == "Hyperband":
        resources = {"MinResource": 1, "MaxResource": tune.epochs}
        config["StrategyConfig"] = {"HyperbandStrategyConfig": resources}
    trial = dict(definition)
    trial["StaticHyperParameters"] = trial.pop("HyperParameters")
    found: Json = {"HyperParameterTuningJobConfig": config, "TrainingJobDefinition": trial}
    if settings.warm_start:
        found["WarmStartConfig"] = {
            "ParentHyperParameterTuningJobs": [
                {"HyperParameterTuningJobName": name} for name in settings.warm_start
            ],
            # The data or the space may have changed since.
            "WarmStartType": "TransferLearning",
        }
    return found


_STATES = {"Completed": "complete", "Stopped": "pruned"}


def row(
    number: int, trial: Mapping[str, Any], start: Hyperparameters, train: TrainConfig
) -> dict[str, Any]:
    """A trial as `trials.json` holds it."""
    texts = {name: _plain(text) for name, text in trial["TunedHyperParameters"].items()}
    values, config = hyperparameters.override(texts, start, train)
    typed = {**config.model_dump(mode="json"), **values.model_dump(mode="json")}
    objective = trial.get("FinalHyperParameterTuningJobObjectiveMetric") or {}
    accuracy = float(objective["Value"]) if "Value" in objective else None
    state = _STATES.get(trial["TrainingJobStatus"], "failed")
    if state == "complete" and accuracy is None:
        state = "failed"
    reason = str(trial.get("FailureReason") or "it told no accuracy") if state == "failed" else ""
    seconds = trial.get("TrainingTimeInSeconds")
    return {
        "number": number,
        "state": state,
        "error": reason,
        "accuracy": accuracy if state != "failed" else None,
        # SageMaker keeps the last value of a trial, not those of its epochs.
        "by_epoch": [accuracy] if accuracy is not None else [],
        "values": {name: typed[name] for name in texts},
        "seconds": None if seconds is None else float(seconds),
        "job": trial["TrainingJobName"],
    }


def _plain(text: str) -> str:
    """A value without the quotes that some of SageMaker's clients put around it."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        return str(json.loads(text))
    return text


def importances(
    space: search_space.SearchSpace, rows: Sequence[Mapping[str, Any]]
) -> dict[str, float] | None:
    """How much each searched value explains, as in a local search; None for too few trials."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    distributions = space.distributions()
    for one in rows:
        if one["state"] == "complete":
            study.add_trial(
                optuna.trial.create_trial(
                    params=one["values"], distributions=distributions, value=one["accuracy"]
                )
            )
    return search_page.importance(study)
