"""train and tune as jobs on the server that stands for SageMaker: inputs, settings, programs."""

import time
from pathlib import Path
from typing import Any

import pytest
from made_costs import NO_SEARCH
from made_features import Take, song, write_features
from sagemaker_server.server import BUCKET

from birdsong import artifacts, cost, hyperparameters
from birdsong.aws import jobs
from birdsong.aws.settings import JobSettings
from birdsong.config import Hyperparameters, TrainConfig, TuneConfig

RUN = "20260101-000000-abcd"
ROLE = "arn:aws:iam::123456789012:role/birdsong-job"
CONFIG = TrainConfig(backbone="tiny", weights="none", front_end="small", epochs=3)


def settings(**more: Any) -> JobSettings:
    """Settings of jobs, small ones."""
    values = {"role": ROLE, "place": f"s3://{BUCKET}/birds", "image": "train:test"}
    return JobSettings(**{**values, **more})


def write_inputs(folder: Path) -> dict[str, Path]:
    """A small development artifact, and one of tune."""
    takes = [
        Take(code, [song(hertz, 2, seed=n)], part="validation" if n == 2 else "train")
        for code, hertz in (("low", 700.0), ("high", 5000.0))
        for n in range(3)
    ]
    write_features(folder / "development", ["low", "high"], takes)
    with artifacts.create(folder / "tuned", "hyperparameters", {}) as made:
        artifacts.write_json(made.path / hyperparameters.FILE, Hyperparameters().model_dump())
        cost.note(made.path, NO_SEARCH)
    return {"development": folder / "development", "hyperparameters": folder / "tuned"}


def train(inputs: dict[str, Path], out: Path) -> dict[str, float]:
    """The step train in this process, as the environment says."""
    from birdsong.aws import train_step

    return train_step.train(
        inputs["development"],
        inputs["hyperparameters"],
        out / "model",
        out / "history.html",
        CONFIG,
    )


def tune(inputs: dict[str, Path], out: Path, trials: int = 4, space: str = "") -> dict[str, float]:
    """The step tune in this process, as the environment says."""
    from birdsong.aws import tune_step

    return tune_step.tune(
        inputs["development"],
        out / "hyperparameters",
        out / "trials.html",
        TuneConfig(trials=trials, epochs=2, workers=2, space=space),
        CONFIG,
        Hyperparameters(),
    )


class With:
    """A program with more in its environment."""

    def __init__(self, program: Any, more: dict[str, str]) -> None:
        self._program, self._more = program, more

    def start(self, image: str, root: Path, environment: Any) -> Any:
        return self._program.start(image, root, {**environment, **self._more})


def leave_at_work(step: Any) -> None:
    """Let a step start its job and be gone."""

    class GoneError(Exception):
        pass

    def gone(*_: Any) -> Any:
        raise GoneError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "wait", gone)
        with pytest.raises(GoneError):
            step()
    time.sleep(1.0)  # a search has its trials
