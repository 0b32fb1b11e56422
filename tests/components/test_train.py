"""The train stage as KFP calls it."""

from pathlib import Path

import pytest
from kfp.dsl import HTML, Artifact, Dataset, Metrics, Model
from made_features import Take, song, write_features

from birdsong import artifacts, cost
from birdsong.config import Hyperparameters
from birdsong.errors import ConfigError
from components.train import train


def run(root: Path, **settings: object) -> Metrics:
    takes = [
        Take(code, [song(hertz, 2, seed=n)], part="validation" if n == 2 else "train")
        for code, hertz in (("low", 700.0), ("high", 5000.0))
        for n in range(3)
    ]
    write_features(root / "development", ["low", "high"], takes)
    with artifacts.create(root / "hyperparameters", "hyperparameters", {}) as folder:
        artifacts.write_json(
            folder.path / "hyperparameters.json", Hyperparameters().model_dump(mode="json")
        )
    metrics = Metrics(uri=str(root / "metrics"))
    train.python_func(
        development=Dataset(uri=str(root / "development")),
        hyperparameters=Artifact(uri=str(root / "hyperparameters")),
        model=Model(uri=str(root / "model")),
        history=HTML(uri=str(root / "history.html")),
        metrics=metrics,
        front_end="small",
        backbone="tiny",
        epochs=1,
        batch_size=4,
        **settings,
    )
    return metrics


def test_train_writes_a_model_its_curves_and_finite_metrics(tmp_path: Path) -> None:
    metrics = run(tmp_path, weights="none")
    spec = artifacts.verify(tmp_path / "model")
    assert spec.kind == "model"
    assert set(spec.inputs) == {"development", "hyperparameters"}
    assert [(one.step, one.usd) for one in cost.read(tmp_path / "model")] == [("train", None)]
    assert "cost.json" not in spec.files
    assert (tmp_path / "history.html").stat().st_size > 1000
    assert {"validation_accuracy", "baseline_validation_accuracy", "best_epoch", "seconds"} <= set(
        metrics.metadata
    )


def test_weights_that_do_not_exist_fail_before_training_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        run(tmp_path, weights=str(tmp_path / "absent.h5"))
    assert not (tmp_path / "model").exists()
