from pathlib import Path

import numpy as np
import pytest
from made_features import Take, song, write_features, write_untrained_model

from birdsong import audio
from birdsong.errors import DataError
from birdsong.scoring import BATCH_FRAMES, TOLERANCE, Scorer, score_features, score_windows

CODES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained_model(tmp_path_factory.mktemp("model") / "model", CODES)


@pytest.fixture(scope="module")
def scorer(model: Path) -> Scorer:
    return Scorer(model)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Quiet, loud, silent and noisy frames."""
    rng = np.random.default_rng(0)
    made = [
        audio.frames(song(500 + 400 * number, 5, seed=number), _config())[0] for number in range(5)
    ]
    made += [np.zeros(110_250, np.float32), made[0] * 1e-4]
    made += [rng.uniform(-1, 1, 110_250).astype(np.float32)]
    return np.stack(made)


def _config() -> audio.FeatureConfig:
    return audio.FeatureConfig()


def test_a_frame_scores_the_same_alone_and_in_any_batch(scorer: Scorer, frames: np.ndarray) -> None:
    """Defect 2 of the reference: a frame's features depended on its neighbours."""
    alone = np.concatenate([scorer.frames(frame[None]) for frame in frames])
    assert np.ptp(alone, axis=0).min() > 100 * TOLERANCE
    for order in (range(len(frames)), [7, 5, 6, 0], [6, 4], [5] * 3 + [1]):
        rows = list(order)
        assert np.abs(scorer.frames(frames[rows]) - alone[rows]).max() < TOLERANCE


def test_silence_scores_finitely_alone_and_beside_others(
    scorer: Scorer, frames: np.ndarray
) -> None:
    """Defect 3 of the reference: a silent frame gave NaN."""
    scores = scorer.frames(frames)
    assert np.isfinite(scores).all()
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_more_frames_than_a_batch_score_as_their_parts(scorer: Scorer, frames: np.ndarray) -> None:
    many = np.tile(frames, (1 + BATCH_FRAMES // len(frames), 1))
    assert np.abs(scorer.frames(many)[: len(frames)] - scorer.frames(frames)).max() < TOLERANCE
    assert scorer.frames(frames[:0]).shape == (0, len(CODES))


def test_a_window_scores_as_its_best_frame(scorer: Scorer) -> None:
    window = np.concatenate([song(800, 5), song(4000, 5), song(2000, 2)])
    every = scorer.window_frames(window)
    assert every.shape == (3, len(CODES))
    assert np.array_equal(scorer.window(window), every.max(axis=0))


def test_stored_windows_score_as_they_do_one_by_one(
    model: Path, scorer: Scorer, tmp_path: Path
) -> None:
    takes = [
        Take(CODES[number % 3], [song(600 + 300 * number, seconds, seed=number)])
        for number, seconds in enumerate([0.3, 60, 5, 5.01, 33, 60, 60, 12])
    ]
    features = write_features(tmp_path / "features", CODES, takes)
    found = score_features(model, tmp_path / "features")
    assert len(found.index) == len(takes)
    for row in range(len(takes)):
        every = scorer.window_frames(features.waveform(row))
        assert np.abs(found.scores[row] - every.max(axis=0)).max() < TOLERANCE
        best = every[found.best_frame[row], np.arange(len(CODES))]
        assert np.abs(best - every.max(axis=0)).max() < TOLERANCE


def test_chosen_rows_come_back_in_the_order_asked_for(
    model: Path, scorer: Scorer, tmp_path: Path
) -> None:
    takes = [Take("a", [song(600 + 500 * number, 4)]) for number in range(4)]
    features = write_features(tmp_path / "features", CODES, takes)
    every, some = score_windows(scorer, features), score_windows(scorer, features, [3, 1])
    assert np.abs(some.scores - every.scores[[3, 1]]).max() < TOLERANCE
    assert some.index["id"].tolist() == ["a/003.ogg", "a/001.ogg"]
    assert score_windows(scorer, features, []).scores.shape == (0, 3)


def test_frames_of_another_length_are_refused(scorer: Scorer) -> None:
    with pytest.raises(DataError, match=r"need \(frames, 110250\)"):
        scorer.frames(np.zeros((2, 16_000), np.float32))


def test_features_of_other_species_are_refused(scorer: Scorer, tmp_path: Path) -> None:
    features = write_features(tmp_path / "features", ["b", "a", "c"], [Take("a", [song(900, 1)])])
    with pytest.raises(DataError, match="order differs"):
        score_windows(scorer, features)


def test_a_model_without_its_graph_is_one_clear_error(model: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(model, tmp_path / "model")
    shutil.rmtree(tmp_path / "model/saved_model")
    with pytest.raises(DataError, match="holds no graph"):
        Scorer(tmp_path / "model")
