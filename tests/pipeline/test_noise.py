"""What a user tries first with a new detector: noise and silence. It must stay silent."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdsong import audio, evaluation, features, recordings, search, splits, training
from birdsong.artifacts import read_json
from birdsong.config import (
    EvaluateConfig,
    FeatureConfig,
    Hyperparameters,
    IngestConfig,
    SplitConfig,
    TrainConfig,
    TuneConfig,
)
from birdsong.profiles import PROFILES
from birdsong.scoring import Scorer
from birdsong.thresholds import as_array


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stages up to the thresholds, on generated songs, with the settings of `demo`."""
    root = tmp_path_factory.mktemp("noise")
    demo = PROFILES["demo"]
    recordings.ingest(
        root / "recordings",
        root / "audit.html",
        IngestConfig(source="demo:?species=4&recordings=30&seed=1"),
    )
    splits.split(
        root / "recordings",
        root / "splits",
        root / "leaks.html",
        SplitConfig(validation_fraction=0.1, calibration_fraction=0.3, test_fraction=0.1),
    )
    features.featurize(
        root / "recordings",
        root / "splits",
        root / "development",
        root / "calibration",
        root / "test",
        root / "preview.html",
        FeatureConfig(),
    )
    settings = TrainConfig(
        backbone="tiny",
        weights="none",
        front_end="small",
        epochs=14,
        batch_size=demo["batch_size"],
    )
    given = Hyperparameters(
        **{name: demo[name] for name in Hyperparameters.model_fields if name in demo}
    )
    search.tune(
        root / "development",
        root / "hyperparameters",
        root / "trials.html",
        TuneConfig(trials=0),
        settings,
        given,
    )
    training.train(
        root / "development",
        root / "hyperparameters",
        root / "model",
        root / "history.html",
        settings,
    )
    evaluation.evaluate_threshold(
        root / "model",
        root / "calibration",
        root / "test",
        root / "thresholds",
        root / "evaluation",
        root / "report.html",
        EvaluateConfig(target_fpr=0.02),
    )
    return root


def _noise(slope: float, seconds: float, seed: int) -> bytes:
    """Noise whose power falls with frequency f as f ** -slope, as a FLAC file at full level."""
    random = np.random.default_rng(seed)
    spectrum = np.fft.rfft(random.standard_normal(round(32_000 * seconds)))
    spectrum *= np.arange(1, len(spectrum) + 1) ** (-slope / 2)
    samples = np.fft.irfft(spectrum)
    file = io.BytesIO()
    soundfile.write(file, samples / np.abs(samples).max(), 32_000, format="FLAC")
    return file.getvalue()


def _detections(trained: Path, data: bytes) -> int:
    scorer = Scorer(trained / "model")
    thresholds = as_array(read_json(trained / "thresholds/thresholds.json"), scorer.codes)
    windows = list(audio.windows(data, FeatureConfig()))
    assert windows
    return sum(int((scorer.window(window.samples) > thresholds).sum()) for window in windows)


def test_the_model_has_learnt_its_species(trained: Path) -> None:
    found = read_json(trained / "evaluation/metrics.json")
    assert found["network"]["accuracy"]["value"] > 0.6
    thresholds = read_json(trained / "thresholds/thresholds.json")
    assert all(entry["threshold"] is not None for entry in thresholds["species"].values())


@pytest.mark.parametrize("seconds", [5, 60])
@pytest.mark.parametrize(("name", "slope"), [("white", 0), ("pink", 1), ("brown", 2)])
def test_noise_stays_below_every_threshold(
    trained: Path, name: str, slope: float, seconds: int
) -> None:
    heard = [_detections(trained, _noise(slope, seconds, seed)) for seed in range(2)]
    assert heard == [0, 0], f"{name} noise of {seconds} s is taken for birds"


def test_silence_stays_below_every_threshold(trained: Path) -> None:
    scorer = Scorer(trained / "model")
    thresholds = as_array(read_json(trained / "thresholds/thresholds.json"), scorer.codes)
    scores = scorer.frames(np.zeros((12, 110_250), np.float32))
    assert (scores < thresholds).all()
