"""Hard audio through the whole scoring path: file, windows, frames, network, scores."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from made_features import Take, write_features, write_untrained_model

from birdsong import audio
from birdsong.config import FeatureConfig
from birdsong.scoring import TOLERANCE, Scorer, score_windows

CODES = ["a", "b", "c"]
LONG = FeatureConfig(seconds=3600)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return Scorer(write_untrained_model(tmp_path_factory.mktemp("model") / "model", CODES))


def _tone(rate: int = 22_050, seconds: float = 7.0, hertz: float = 2_000) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.4 * np.sin(2 * np.pi * hertz * time) + 0.01 * noise).astype(np.float32)


def _file(samples: np.ndarray, rate: int = 22_050, form: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=None)
    return buffer.getvalue()


def _scores(scorer: Scorer, data: bytes, config: FeatureConfig = LONG) -> list[np.ndarray]:
    return [scorer.window(window.samples) for window in audio.windows(data, config)]


HARD = {
    "one sample": _file(np.array([0.5], np.float32)),
    "one loud sample in silence": _file(np.eye(1, 200_000, 7, dtype=np.float32)[0]),
    "stereo": _file(np.stack([_tone(), _tone(hertz=3_000)], axis=1)),
    "8 kHz": _file(_tone(8_000), 8_000),
    "96 kHz": _file(_tone(96_000), 96_000),
    "clipped": _file(np.clip(_tone() * 50, -1, 1)),
    "constant": _file(np.full(100_000, 0.3, np.float32)),
    "faint": _file(_tone() * 1e-3),
    "FLAC": _file(_tone(), form="FLAC"),
    "OGG": _file(_tone(32_000), 32_000, "OGG"),
}


@pytest.mark.parametrize("name", sorted(HARD))
def test_hard_recordings_give_finite_scores(scorer: Scorer, name: str) -> None:
    found = _scores(scorer, HARD[name])
    assert found
    assert np.isfinite(found).all()
    assert np.min(found) >= 0
    assert np.max(found) <= 1


@pytest.mark.parametrize("seconds", [0.001, 5, 130])
def test_a_silent_recording_has_no_window_and_no_score(scorer: Scorer, seconds: float) -> None:
    """Defect 3 of the reference: a silent file crashed."""
    assert _scores(scorer, _file(np.zeros(max(1, round(seconds * 22_050)), np.float32))) == []


def test_ten_minutes_are_heard_to_their_end(scorer: Scorer) -> None:
    """Defect 4 of the reference: only the first 60 s counted."""
    rng = np.random.default_rng(0)
    noise = (0.01 * rng.standard_normal(600 * 22_050)).astype(np.float32)
    plain = _scores(scorer, _file(noise))
    late = noise.copy()
    late[590 * 22_050 :] += _tone(seconds=10)
    heard = _scores(scorer, _file(late))
    assert len(plain) == len(heard) == 10
    assert np.isfinite(heard).all()
    differences = [np.abs(a - b).max() for a, b in zip(plain, heard, strict=True)]
    assert max(differences[:9]) < TOLERANCE
    assert differences[9] > 100 * TOLERANCE


def test_a_quiet_copy_and_both_channels_alike_score_as_the_recording(scorer: Scorer) -> None:
    (plain,) = _scores(scorer, _file(_tone()))
    (stereo,) = _scores(scorer, _file(np.stack([_tone(), _tone()], axis=1)))
    (quiet,) = _scores(scorer, _file(_tone() * np.float32(0.25)))
    assert np.abs(stereo - plain).max() < TOLERANCE
    assert np.abs(quiet - plain).max() < 1e-3


def test_a_recording_scores_the_same_from_training_s_shards_and_from_its_served_file(
    scorer: Scorer, tmp_path: Path
) -> None:
    """Defect 5 of the reference: the training path and the serving path differed."""
    names = ["stereo", "8 kHz", "96 kHz", "clipped", "OGG"]
    windows = [next(audio.windows(HARD[name], LONG)).samples for name in names]
    features = write_features(tmp_path / "f", CODES, [Take("a", [window]) for window in windows])
    trained = score_windows(scorer, features).scores
    for row, window in enumerate(windows):
        # The golden recording: a FLAC of the stored window, decoded like any other file.
        (served,) = _scores(scorer, audio.encode_flac(window, 22_050))
        assert np.abs(served - trained[row]).max() < TOLERANCE
