import json

import numpy as np
import pytest

from birdsong import calibration
from birdsong.serving.answers import probability


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-values))).astype(np.float32)


def _drawn(factor: float, windows: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose logits are `factor` times too large, and labels."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 1.5, (windows, 3))
    labels = (rng.random(logits.shape) < _sigmoid(logits)).astype(np.int8)
    return _sigmoid(factor * logits), labels


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(factor: float) -> None:
    scores, labels = _drawn(factor)
    assert calibration.fit_temperature(scores, labels).temperature == pytest.approx(factor, rel=0.1)


def test_probabilities_on_new_windows_are_closer_to_the_truth_than_scores() -> None:
    scores, labels = _drawn(3.0)
    found = calibration.fit_temperature(scores[:1000], labels[:1000])
    before = calibration.reliability(scores[1000:], labels[1000:])
    after = calibration.reliability(found.probabilities(scores[1000:]), labels[1000:])
    assert after.ece < before.ece / 3
    assert sum(before.pairs) == 3000


def test_secondary_labels_do_not_move_the_temperature() -> None:
    scores, labels = _drawn(2.0)
    more_scores = np.concatenate([scores, np.full((500, 3), 0.999, np.float32)])
    more_labels = np.concatenate([labels, np.full((500, 3), -1, np.int8)])
    one = calibration.fit_temperature(scores, labels)
    two = calibration.fit_temperature(more_scores, more_labels)
    assert one.temperature == two.temperature


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        (np.zeros((0, 2)), np.zeros((0, 2))),
        (np.full((5, 1), 0.7), np.ones((5, 1))),
        (np.full((5, 2), 0.7), -np.ones((5, 2))),
        (np.tile([0.9, 0.1], (50, 1)), np.tile([1, 0], (50, 1))),
    ],
    ids=["nothing", "no negatives", "all unknown", "no errors"],
)
def test_where_no_temperature_can_be_fitted_scores_stay_and_the_reason_is_given(
    scores: np.ndarray, labels: np.ndarray
) -> None:
    found = calibration.fit_temperature(scores.astype(np.float32), labels.astype(np.int8))
    assert found.temperature == 1
    assert found.note.startswith("Not fitted")
    json.dumps(found.as_json(), allow_nan=False)


def test_scores_of_exactly_zero_and_one_give_finite_figures() -> None:
    scores = np.array([[0.0, 1.0], [1.0, 0.0], [0.3, 0.2]], np.float32)
    labels = np.array([[1, 0], [1, 0], [0, 1]], np.int8)
    found = calibration.fit_temperature(scores, labels)
    assert np.isfinite(found.temperature)
    assert found.probabilities(scores)[0].tolist() == [0.0, 1.0]
    assert np.isfinite(calibration.log_loss(scores, labels))


def test_the_order_of_species_stays_what_it_was() -> None:
    scores = np.sort(np.random.default_rng(0).random(100)).astype(np.float32)
    assert (np.diff(calibration.Calibration(3.0, "").probabilities(scores)) >= 0).all()


def test_the_server_gives_the_same_probability() -> None:
    scores = np.array([0, 1e-6, 0.2, 0.5, 0.9, 1], np.float32)
    ours = calibration.Calibration(1.7, "").probabilities(scores)
    assert ours == pytest.approx([probability(float(score), 1.7) for score in scores], abs=1e-6)


def test_an_error_is_weighed_by_how_many_pairs_have_it() -> None:
    said = np.array([[0.05] * 9 + [0.95]], np.float32)
    labels = np.array([[0] * 10], np.int8)
    found = calibration.reliability(said, labels)
    assert found.pairs == [9, 1]
    assert found.ece == pytest.approx(0.9 * 0.05 + 0.1 * 0.95)
    assert calibration.reliability(said[:0], labels[:0]).ece is None
