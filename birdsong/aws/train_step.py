"""train as a SageMaker job: the same inputs, the same artifact, computed elsewhere."""

import shutil
from pathlib import Path
from typing import Any

from birdsong import artifacts, hyperparameters
from birdsong.aws import bucket, jobs, money, prices, training_request
from birdsong.aws import settings as job_settings
from birdsong.aws.bucket import Bucket
from birdsong.aws.cancelling import Guard
from birdsong.aws.clients import Account
from birdsong.config import RuntimeConfig, TrainConfig
from birdsong.errors import DataError


def train(
    development_path: str | Path,
    hyperparameters_path: str | Path,
    model_path: str | Path,
    history_path: str | Path,
    config: TrainConfig,
    runtime_config: RuntimeConfig | None = None,
) -> dict[str, float]:
    """As `birdsong.training.train`, by a job that this step starts or finds.

    Raises:
        JobError: The job failed or was stopped.
        ConfigError: The settings do not fit.
        BirdsongError: AWS refuses, or cannot be reached.
    """
    settings = job_settings.of_step()
    run = job_settings.run_of_step()
    values, config = hyperparameters.read(hyperparameters_path, config)
    training_request.check(config)
    every = (config, values, runtime_config or RuntimeConfig())
    told = {name: value for one in every for name, value in one.model_dump(mode="json").items()}
    told.pop("registry", None)
    guard = Guard(settings.on_cancel)
    with guard.listening():
        account = Account(settings.region)
        store = Bucket(account, settings)
        store.check()
        data = store.put(development_path)
        print(training_request.describe_input(settings, data), flush=True)
        channels = {"development": data, "hyperparameters": store.put(hyperparameters_path)}
        request = training_request.definition(
            settings,
            channels,
            training_request.hyperparameters(told),
            step="train",
            run=run,
            max_runtime_hours=settings.max_runtime_hours,
        )
        table = prices.load(settings.prices)
        bound = money.estimate(
            table,
            account.region,
            settings.instance,
            request["StoppingCondition"]["MaxRuntimeInSeconds"],
            spot=settings.spot,
        )
        print(f"SageMaker: {bound}", flush=True)
        bound.check(settings.budget_usd)
        job, ended = jobs.run(account, jobs.TRAINING, run, request, settings.attempts, guard, _tell)
        metrics = fetch(store, ended, Path(model_path), Path(history_path))
        bill = money.bill(jobs.attempts_of(job), table, account.region)
        print(f"SageMaker: {bill}", flush=True)
        return metrics | bill.metrics()


def fetch(store: Bucket, ended: dict[str, Any], model: Path, history: Path) -> dict[str, float]:
    """Bring what a job made into the step's outputs; returns its metrics."""
    uri = ended["ModelArtifacts"]["S3ModelArtifacts"]
    with store.unpacked(uri, model) as folder:
        for name in ("model", "history.html", "metrics.json"):
            if not (folder / name).exists():
                raise DataError(f"{uri} holds no {name}: it is not of the image train.")
        metrics: dict[str, float] = artifacts.read_json(folder / "metrics.json")
        history.parent.mkdir(parents=True, exist_ok=True)
        with artifacts.write_aside(history) as aside:
            shutil.copyfile(folder / "history.html", aside)
        bucket.place(folder / "model", model, "model")
    return metrics


def _tell(line: str) -> None:
    print(line, flush=True)
