"""A training that was ended at any moment goes on as if it had not been."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_features import Take, song, write_features

from birdsong import artifacts, checkpoints, cost, training
from birdsong.config import Hyperparameters, TrainConfig
from birdsong.features import FeatureSet

CODES = ["low", "high"]
CONFIG = TrainConfig(
    backbone="tiny",
    weights="none",
    front_end="small",
    epochs=4,
    batch_size=4,
    seed=2,
    # All that draws anew in each step.
    mixup=0.5,
    background=0.5,
    gain_db=6.0,
)
VALUES = Hyperparameters(learning_rate=3e-3, dropout=0.4)
ROOT = Path(__file__).resolve().parents[2]

UNTIL_A_SIGNAL = """
import os, sys
from pathlib import Path
from birdsong import training
from birdsong.config import Hyperparameters, TrainConfig
from birdsong.features import FeatureSet
from birdsong.trainer import Trainer

features, folder, config, values, last, sent = sys.argv[1:]


class Watched(Trainer):
    def __init__(self, *given):
        super().__init__(*given)
        real = self.step

        def step(batch, number):
            if int(number) == int(last):
                os.kill(os.getpid(), int(sent))
            return real(batch, number)

        self.step = step


training.Trainer = Watched
training.fit(
    FeatureSet(features),
    Hyperparameters.model_validate_json(values),
    TrainConfig.model_validate_json(config),
    checkpoints=Path(folder),
)
"""


@pytest.fixture(scope="module")
def development(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    takes = [
        Take(code, [song(hertz, 2 + 2 * n, seed=n)], part="validation" if n > 3 else "train")
        for code, hertz in (("low", 700.0), ("high", 5000.0))
        for n in range(6)
    ]
    takes.append(Take("", [song(150.0, 9, noise=1.0)], part="no_call"))
    return write_features(tmp_path_factory.mktemp("made") / "development", CODES, takes)


@pytest.fixture(scope="module")
def whole(development: FeatureSet) -> training.Fit:
    """The training that nothing interrupts."""
    return training.fit(development, VALUES, CONFIG)


class EndedError(Exception):
    """Ends a training between two epochs."""


def train_until(development: FeatureSet, folder: Path, last: int) -> None:
    def end(epoch: training.Epoch) -> None:
        if epoch.epoch == last:
            raise EndedError

    with pytest.raises(EndedError):
        training.fit(development, VALUES, CONFIG, after_epoch=end, checkpoints=folder)


def assert_same(one: training.Fit, other: training.Fit) -> None:
    """Bit for bit: weights, history and choice."""
    for mine, its in zip(one.network.get_weights(), other.network.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, its)
    assert (one.best_epoch, one.accuracy) == (other.best_epoch, other.accuracy)
    for a, b in zip(one.epochs, other.epochs, strict=True):
        assert {**a.__dict__, "seconds": 0} == {**b.__dict__, "seconds": 0}


def test_kills_in_the_middle_of_epochs_do_not_change_the_weights_in_the_end(
    development: FeatureSet,
    whole: training.Fit,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # An epoch has two steps: numbers 3 and 5 are the second ones of epochs 2 and 3.
    for step, sent in ((3, signal.SIGKILL), (5, signal.SIGTERM)):
        command = [sys.executable, "-c", UNTIL_A_SIGNAL, str(development.path), str(tmp_path)]
        command += [CONFIG.model_dump_json(), VALUES.model_dump_json(), str(step), str(int(sent))]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == -sent, ended.stderr
    assert "resumed after epoch 1" in ended.stdout
    resumed = training.fit(development, VALUES, CONFIG, checkpoints=tmp_path)
    assert "resumed after epoch 2" in capsys.readouterr().out
    assert_same(resumed, whole)


def test_a_damaged_checkpoint_is_told_and_the_older_one_goes_on(
    development: FeatureSet,
    whole: training.Fit,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train_until(development, tmp_path, 3)
    files = sorted(tmp_path.glob("*/*"))
    assert [file.name for file in files] == sorted(checkpoints.FILES)
    newest = max(files, key=lambda file: file.stat().st_mtime_ns)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    resumed = training.fit(development, VALUES, CONFIG, checkpoints=tmp_path)
    printed = capsys.readouterr().out
    assert "is damaged" in printed
    assert "resumed after epoch 2" in printed
    assert_same(resumed, whole)


def test_other_settings_never_go_on_from_a_checkpoint(
    development: FeatureSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def epoch(trainer: object, windows: object, validation: object, n: int, steps: int) -> object:
        return training.Epoch(n, 1.0, 1.0, 0.5, 1e-3, 0.1)

    monkeypatch.setattr(training, "_run_epoch", epoch)
    longer = CONFIG.model_copy(update={"epochs": 5})
    more_dropout = VALUES.model_copy(update={"dropout": 0.5})
    for config, values in ((CONFIG, VALUES), (longer, VALUES), (CONFIG, more_dropout)):
        training.fit(development, values, config, checkpoints=tmp_path)
    assert "resumed" not in capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == 3


def test_patience_and_history_count_the_epochs_before_a_kill(
    development: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = [0.5, 0.8, 0.7, 0.7, 0.9]

    def epoch(trainer: object, windows: object, validation: object, n: int, steps: int) -> object:
        return training.Epoch(n, 1.0, 1.0, figures[n - 1], 1e-3, 0.1)

    monkeypatch.setattr(training, "_run_epoch", epoch)
    config = CONFIG.model_copy(update={"epochs": 5, "patience": 2})

    def fit(last: int) -> training.Fit:
        def end(epoch: training.Epoch) -> None:
            if epoch.epoch == last:
                raise EndedError

        return training.fit(development, VALUES, config, "train", end, tmp_path)

    for last in (3, 4):
        with pytest.raises(EndedError):
            fit(last)
    # Ended after its last epoch, before it was exported: nothing is trained again.
    resumed = fit(0)
    assert resumed.stopped_early
    assert [one.epoch for one in resumed.epochs] == [1, 2, 3, 4]
    assert (resumed.best_epoch, resumed.accuracy) == (2, 0.8)


def test_the_stage_goes_on_and_removes_its_checkpoints_when_it_is_finished(
    development: FeatureSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = tmp_path / "kept"
    monkeypatch.setenv(checkpoints.FOLDER_VARIABLE, str(kept))
    train_until(development, kept, 4)
    with artifacts.create(tmp_path / "values", "hyperparameters", {}) as folder:
        artifacts.write_json(folder.path / "hyperparameters.json", VALUES.model_dump())
    summary = training.train(
        development.path, tmp_path / "values", tmp_path / "model", tmp_path / "page.html", CONFIG
    )
    assert summary["epochs"] == 4
    assert "resumed after epoch 4" in capsys.readouterr().out
    [spent] = cost.read(tmp_path / "model")
    before = artifacts.read_json(tmp_path / "model/history.json")["epochs"]
    # All four epochs were trained by the process before this one.
    assert spent.seconds > sum(epoch["seconds"] for epoch in before)
    assert not kept.exists()
    monkeypatch.delenv(checkpoints.FOLDER_VARIABLE)
    assert checkpoints.folder_beside(tmp_path / "model") == tmp_path / ".model.checkpoints"


def test_a_disk_that_takes_no_checkpoint_does_not_end_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    kept = checkpoints.Checkpoints(tmp_path / "taken")
    kept.save(1, {}, [[np.zeros(3)]])
    assert "epoch 1 is not written" in capsys.readouterr().out
    assert kept.load(1) is None
