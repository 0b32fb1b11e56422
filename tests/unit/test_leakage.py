"""Training knows nothing of the recordings that thresholds and figures are made with."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from birdsong import baseline, features, recordings, splits, training
from birdsong.config import (
    FeatureConfig,
    Hyperparameters,
    IngestConfig,
    SplitConfig,
    TrainConfig,
)
from birdsong.features import FeatureSet

SETTINGS = TrainConfig(
    backbone="tiny", weights="none", front_end="small", epochs=1, batch_size=8, seed=3
)
VALUES = Hyperparameters(
    learning_rate=3e-3, time_mask=0.1, freq_mask=0.05, reduce_db=0.1, dropout=0.1
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages before training, with their artifacts beside each other."""
    root = tmp_path_factory.mktemp("whole")
    recordings.ingest(
        root / "recordings",
        root / "audit.html",
        IngestConfig(source="demo:?species=3&recordings=12&seed=2"),
    )
    splits.split(
        root / "recordings",
        root / "splits",
        root / "leaks.html",
        SplitConfig(validation_fraction=0.2, calibration_fraction=0.2, test_fraction=0.2),
    )
    features.featurize(
        root / "recordings",
        root / "splits",
        root / "development",
        root / "calibration",
        root / "test",
        root / "preview.html",
        FeatureConfig(seconds=5),
    )
    return root


def _learnt(root: Path) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Weights of the network and of the baseline that train keeps."""
    development = FeatureSet(root / "development")
    fitted = training.fit(development, VALUES, SETTINGS)
    plain = baseline.fit(development, development.select("train"))
    return fitted.network.get_weights(), {
        name: np.asarray(value) for name, value in vars(plain).items() if name != "codes"
    }


def test_the_weights_are_the_same_where_calibration_and_test_are_absent(
    whole: Path, tmp_path: Path
) -> None:
    parts = {name: FeatureSet(whole / name) for name in ("development", "calibration", "test")}
    assert all(len(part) for part in parts.values())
    seen = set(parts["development"].index["sha256"])
    assert set(parts["development"].index["part"]) == {"train", "validation"}
    for name in ("calibration", "test"):
        assert not seen & set(parts[name].index["sha256"])
    network, plain = _learnt(whole)

    shutil.copytree(whole / "development", tmp_path / "development")
    # Not even by the way back to the recordings.
    away = whole.rename(whole.with_name("away"))
    try:
        network_alone, plain_alone = _learnt(tmp_path)
    finally:
        away.rename(whole)
    assert sum(values.size for values in network) > 1000
    assert len(network) == len(network_alone)
    for ours, theirs in zip(network, network_alone, strict=True):
        assert np.array_equal(ours, theirs)
    assert plain
    for name, values in plain.items():
        assert np.array_equal(values, plain_alone[name]), name
