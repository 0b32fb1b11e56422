"""The executable `train` on a tree of /opt/ml, without a container."""

import json
import os
from pathlib import Path

import pytest
from made_features import Take, song, write_features

from birdsong import artifacts
from birdsong.aws import training_container
from birdsong.errors import ConfigError

SMALL = {
    "backbone": "tiny",
    "weights": "none",
    "front_end": "small",
    "epochs": "1",
    "batch_size": "4",
    "learning_rate": "0.001",
    "_tuning_objective_metric": "validation_accuracy",
    "sagemaker_job_name": "job",
}


def tree(root: Path, values: dict[str, str]) -> Path:
    """What SageMaker lays out for a job: a small development artifact and the settings."""
    takes = [
        Take(code, [song(hertz, 2, seed=n)], part="validation" if n == 2 else "train")
        for code, hertz in (("low", 700.0), ("high", 5000.0))
        for n in range(3)
    ]
    for folder in ("input/config", "input/data", "model", "output", "checkpoints"):
        (root / folder).mkdir(parents=True)
    write_features(root / "input/data/development", ["low", "high"], takes)
    (root / "input/config/hyperparameters.json").write_text(json.dumps(values))
    return root


def test_settings_are_read_from_texts_and_those_of_sagemaker_are_passed_over() -> None:
    hyperparameters, config, _runtimes = training_container.settings(SMALL)
    assert hyperparameters.learning_rate == 0.001
    assert (config.epochs, config.batch_size, config.backbone) == (1, 4, "tiny")


@pytest.mark.parametrize(("name", "value"), [("epoch", "3"), ("epochs", "many"), ("epochs", "0")])
def test_a_setting_that_does_not_fit_is_told_by_its_name(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        training_container.settings({name: value})


def test_a_job_writes_its_model_and_its_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIRDSONG_CHECKPOINTS", "set again, and put back at the end")
    root = tree(tmp_path, SMALL)
    assert training_container.main(root) == 0
    assert artifacts.verify(root / "model" / "model").kind == "model"
    assert (root / "model" / "history.html").stat().st_size > 1000
    assert "metric validation_accuracy=" in capsys.readouterr().out
    assert not (root / "output" / "failure").exists()


@pytest.mark.parametrize("spoil", ["setting", "channel", "file"])
def test_a_failure_is_told_in_its_file(tmp_path: Path, spoil: str) -> None:
    root = tree(tmp_path, SMALL | ({"epoch": "x" * 3000} if spoil == "setting" else {}))
    if spoil == "channel":
        (root / "input/data/development").rename(root / "input/data/train")
    if spoil == "file":
        (root / "input/config/hyperparameters.json").write_text("{")
    assert training_container.main(root) == 1
    told = (root / "output" / "failure").read_text()
    word = {"setting": "epoch", "channel": "channel development", "file": "hyperparameters.json"}
    assert word[spoil] in told
    assert len(told) <= 1024
    assert not any((root / "model").iterdir())


def test_the_executable_of_the_image_starts_this_module() -> None:
    script = Path(__file__).parents[3] / "docker" / "bin" / "train"
    assert training_container.__name__ in script.read_text()
    assert os.access(script, os.X_OK)
