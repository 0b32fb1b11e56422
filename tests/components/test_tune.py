"""The tune stage as KFP calls it."""

import json
from pathlib import Path

from kfp.dsl import HTML, Artifact, Dataset, Metrics
from made_features import Take, song, write_features

from birdsong.config import Hyperparameters
from components.tune import tune


def test_tune_passes_the_given_values_on_as_train_takes_them(tmp_path: Path) -> None:
    write_features(tmp_path / "development", ["low"], [Take("low", [song(700, 2)], part="train")])
    metrics = Metrics(uri=str(tmp_path / "metrics"))
    tune.python_func(
        development=Dataset(uri=str(tmp_path / "development")),
        hyperparameters=Artifact(uri=str(tmp_path / "hyperparameters")),
        history=HTML(uri=str(tmp_path / "trials.html")),
        metrics=metrics,
        learning_rate=1e-4,
        dropout=0.5,
        backbone="tiny",
        weights="none",
        front_end="small",
    )
    values = json.loads((tmp_path / "hyperparameters" / "hyperparameters.json").read_text())
    assert values == Hyperparameters(learning_rate=1e-4, dropout=0.5).model_dump()
    assert metrics.metadata["trials_finished"] == 0
