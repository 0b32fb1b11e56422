"""train as a SageMaker job: the same inputs, the same artifact, computed elsewhere."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from birdsong import artifacts, cost, hyperparameters
from birdsong.aws import bucket, job_step, jobs, training_request
from birdsong.aws.bucket import Bucket
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
    values, config = hyperparameters.read(hyperparameters_path, config)
    every = (config, values, runtime_config or RuntimeConfig())
    told = {name: value for one in every for name, value in one.model_dump(mode="json").items()}
    told.pop("registry", None)
    with job_step.begun(cost.TRAIN, config) as step:
        channels = {
            "development": step.send(development_path),
            "hyperparameters": step.store.put(hyperparameters_path),
        }
        request = training_request.definition(
            step.settings,
            channels,
            training_request.hyperparameters(told),
            step=step.step,
            run=step.run,
            max_runtime_hours=step.settings.max_runtime_hours,
        )
        step.keep_budget(request)
        job, ended = step.run_job(jobs.TRAINING, request)
        bill = step.bill(jobs.attempts_of(job))
        with fetched(step.store, ended, Path(model_path)) as folder:
            own = {one.step: one.machine for one in cost.read(folder / "model")}
            spent = step.part(bill, job, own.get(cost.TRAIN, ""))
            cost.note(folder / "model", *cost.read(hyperparameters_path), spent)
            metrics = take(folder, Path(model_path), Path(history_path))
        return metrics | bill.metrics()


@contextmanager
def fetched(store: Bucket, ended: dict[str, Any], beside: Path) -> Iterator[Path]:
    """What a job made, in a folder that is removed afterwards.

    Raises:
        DataError: It is not whole.
    """
    uri = ended["ModelArtifacts"]["S3ModelArtifacts"]
    with store.unpacked(uri, beside) as folder:
        for name in ("model", "history.html", "metrics.json"):
            if not (folder / name).exists():
                raise DataError(f"{uri} holds no {name}: it is not of the image train.")
        yield folder


def take(folder: Path, model: Path, history: Path) -> dict[str, float]:
    """Bring what a job made into the step's outputs; returns its metrics."""
    metrics: dict[str, float] = artifacts.read_json(folder / "metrics.json")
    history.parent.mkdir(parents=True, exist_ok=True)
    with artifacts.write_aside(history) as aside:
        shutil.copyfile(folder / "history.html", aside)
    bucket.place(folder / "model", model, "model")
    return metrics
