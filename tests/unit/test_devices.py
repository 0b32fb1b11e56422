"""Devices of one host share a step and learn what one device would."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_features import Take, song, write_features

from birdsong import devices
from birdsong.errors import ConfigError
from birdsong.tensorflow_setup import tf

ROOT = Path(__file__).resolve().parents[2]

TWO_DEVICES = """
import json, sys
from birdsong.tensorflow_setup import tf

processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
from birdsong.config import Hyperparameters, TrainConfig
from birdsong.features import FeatureSet
from birdsong.trainer import Trainer
from birdsong.training_data import TrainingWindows

features = FeatureSet(sys.argv[1])
values = Hyperparameters(learning_rate=1e-4, dropout=0.0)
found = {}
for precision, devices in (
    ("float32", 1), ("float32", 2), ("mixed_float16", 1), ("mixed_float16", 2)
):
    config = TrainConfig(
        backbone="tiny", weights="none", front_end="small", batch_size=7, seed=2,
        precision=precision, devices=devices,
        mixup=0.5, background=0.5, gain_db=6.0, label_smoothing=0.05, rating_weight=1.0,
    )
    trainer = Trainer(config, values, features.codes, 22_050, 20)
    windows = TrainingWindows(features, 110_250, 0.0, 1, config.background, 1.0)
    # Seven recordings and two frames without a bird: uneven shares.
    (batch, _) = windows.epoch(1, 7)
    shared = trainer.place(batch)
    losses = [float(trainer.step(shared, tf.constant(0)))]
    # A tenth of the first gradient of each weight.
    moments = [
        value for variable in trainer.optimizer.variables if variable.path.endswith("_momentum")
        for value in variable.numpy().ravel().tolist()
    ]
    losses += [float(trainer.step(shared, tf.constant(n))) for n in (1, 2)]
    moving = trainer.network.get_layer("tiny").get_layer("norm0").moving_mean.numpy().tolist()
    found[f"{precision} {devices}"] = [losses, moving, moments]
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("names", "count", "told"),
    [
        ([], 1, "no GPU"),
        (["NVIDIA A10G"], 1, "NVIDIA A10G"),
        (["NVIDIA A10G"] * 4, 2, "2 x NVIDIA A10G"),
        ([""], 1, "GPU"),
    ],
)
def test_the_machine_is_told_with_the_gpus_that_compute(
    monkeypatch: pytest.MonkeyPatch, names: list[str], count: int, told: str
) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: names)
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"device_name": gpu}
    )
    machine = devices.described(count)
    assert re.fullmatch(rf"\w+, \d+ cores?, {told}", machine), machine


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[float]]]:
    takes = [
        Take(code, [song(hertz, 3 + n % 4 * 3, seed=n)], part="train", rating=1.0 + n % 5)
        for code, hertz in (("low", 700.0), ("high", 5000.0))
        for n in range(7)
    ]
    takes.append(Take("", [song(150.0, 9, noise=1.0)], part="no_call"))
    place = tmp_path_factory.mktemp("made") / "development"
    write_features(place, ["low", "high"], takes)
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, str(place)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, list[list[float]]] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize(
    ("precision", "first", "later", "gradient"),
    [("float32", 2e-5, 1e-3, 1e-2), ("mixed_float16", 1e-3, 5e-3, 5e-2)],
)
def test_two_devices_have_the_losses_and_gradients_of_one(
    found: dict[str, list[list[float]]],
    precision: str,
    first: float,
    later: float,
    gradient: float,
) -> None:
    one, two = ([np.array(values) for values in found[f"{precision} {count}"]] for count in (1, 2))
    # The first step differs by the order of sums alone; Adam makes that more in each step.
    np.testing.assert_allclose(two[0][0], one[0][0], rtol=first)
    np.testing.assert_allclose(two[0], one[0], rtol=later)
    assert np.abs(one[1]).max() > 0
    np.testing.assert_allclose(two[1], one[1], atol=2 * later * np.abs(one[1]).max())
    assert np.linalg.norm(one[2]) > 0
    assert np.linalg.norm(two[2] - one[2]) < gradient * np.linalg.norm(one[2])


def test_more_devices_than_there_are_is_an_error_that_says_how_many() -> None:
    with pytest.raises(ConfigError, match="devices: got 64, this machine has 1 CPU"):
        devices.strategy(64)
