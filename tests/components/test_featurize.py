"""The featurize stage as KFP calls it, on ingested and split recordings."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kfp.dsl import HTML, Dataset, Metrics

from birdsong import artifacts, audio, demo_data, recordings, splits
from birdsong.config import FeatureConfig, IngestConfig, SplitConfig
from birdsong.errors import ConfigError, DataError
from birdsong.features import FeatureSet
from components.featurize import featurize

SOURCE = "demo:?species=2&recordings=8&seed=3"
FRACTIONS = SplitConfig(validation_fraction=0.1, calibration_fraction=0.2, test_fraction=0.2)


@pytest.fixture(scope="module", params=["in place", "snapshot"])
def shared_out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("featurize")
    config = IngestConfig(source=SOURCE, snapshot=request.param == "snapshot")
    recordings.ingest(str(root / "recordings"), str(root / "audit.html"), config)
    splits.split(root / "recordings", root / "splits", root / "leaks.html", FRACTIONS)
    return root


def run(shared_out: Path, out: Path, **settings: object) -> Metrics:
    metrics = Metrics(uri=str(out / "metrics"))
    featurize.python_func(
        recordings=Dataset(uri=str(shared_out / "recordings")),
        splits=Dataset(uri=str(shared_out / "splits")),
        development=Dataset(uri=str(out / "development")),
        calibration=Dataset(uri=str(out / "calibration")),
        test=Dataset(uri=str(out / "test")),
        preview=HTML(uri=str(out / "preview.html")),
        metrics=metrics,
        **settings,
    )
    return metrics


def test_the_three_artifacts_hold_every_recording_once(shared_out, tmp_path):
    metrics = run(shared_out, tmp_path)
    sets = {name: FeatureSet(tmp_path / name) for name in ("development", "calibration", "test")}
    ids = [name for found in sets.values() for name in found.index["id"]]
    assert len(ids) == len(set(ids)) == 16
    assert metrics.metadata["quarantined"] == 0
    assert metrics.metadata["windows_test"] == len(sets["test"])
    assert metrics.metadata["megabytes"] > 1
    assert "audio/ogg" in (tmp_path / "preview.html").read_text()
    for name in sets:
        spec = artifacts.verify(tmp_path / name)
        assert set(spec.inputs) == {"recordings", "splits"}


def test_stored_windows_are_those_of_the_original_bytes(shared_out, tmp_path):
    run(shared_out, tmp_path, encoding="flac", seconds=10)
    found = FeatureSet(tmp_path / "test")
    for row, name in enumerate(found.index["id"]):
        original = demo_data.read(f"demo:{name}?species=2&seed=3")
        (window,) = audio.windows(original, FeatureConfig(seconds=10))
        assert np.array_equal(found.waveform(row), window.samples)
        assert len(window.samples) <= 10 * 22_050


def test_changed_recordings_are_refused(shared_out, tmp_path):
    other = IngestConfig(source="demo:?species=2&recordings=9&seed=3")
    recordings.ingest(str(tmp_path / "recordings"), str(tmp_path / "audit.html"), other)
    (tmp_path / "splits").symlink_to(shared_out / "splits")
    with pytest.raises(DataError, match="made from other recordings"):
        run(tmp_path, tmp_path)


def test_a_setting_out_of_range_is_refused(shared_out, tmp_path):
    with pytest.raises(ConfigError, match="encoding"):
        run(shared_out, tmp_path, encoding="mp3")


def test_every_output_is_described():
    outputs = featurize.component_spec.outputs
    assert set(outputs) == {"development", "calibration", "test", "preview", "metrics"}
    assert all(output.description for output in outputs.values())


def test_the_data_stages_load_no_tensorflow_kfp_or_cloud_library():
    code = (
        "import sys, birdsong.features, birdsong.splits, birdsong.leaks, birdsong.preview\n"
        "heavy = {'tensorflow', 'keras', 'kfp', 'boto3', 'google.cloud', 'scipy', 'pandas',\n"
        "         'matplotlib', 'mlflow', 'sagemaker'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
