import json

import numpy as np
import pytest

from birdsong import calibration
from birdsong.errors import DataError


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


def _bent(windows: int = 3000) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Scores above 0.2 that all mean the same chance: no temperature can mend that."""
    rng = np.random.default_rng(0)
    scores = rng.random((windows, 2)).astype(np.float32)
    chance = np.where(scores > 0.2, 0.3, 0.02)
    labels = (rng.random(scores.shape) < chance).astype(np.int8)
    return scores, labels, [f"author {row // 3}" for row in range(windows)]


def test_a_curve_is_taken_where_no_temperature_can_mend_the_scores() -> None:
    scores, labels, groups = _bent()
    found = calibration.choose(scores[:2000], labels[:2000], groups[:2000], 0)
    assert found.method == "isotonic"
    assert found.losses["isotonic"] < found.losses["temperature"]
    assert found.losses["isotonic"] < found.losses["identity"]
    after = calibration.reliability(found.probabilities(scores[2000:]), labels[2000:])
    assert after.ece is not None
    assert after.ece < 0.03
    assert "Cross-validated log loss" in found.note


def test_a_temperature_is_taken_where_the_scores_are_only_too_sure() -> None:
    scores, labels = _drawn(3.0, 300)
    found = calibration.choose(scores, labels, range(300), 0)
    assert found.method == "temperature"
    assert found.temperature == pytest.approx(3, rel=0.2)


def test_scores_that_need_no_correction_keep_their_value() -> None:
    kept = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        scores = rng.random((100, 3)).astype(np.float32)
        labels = (rng.random(scores.shape) < scores).astype(np.int8)
        found = calibration.choose(scores, labels, range(100), 0)
        assert found.method != "isotonic"
        if found.method == "identity":
            kept += 1
            assert (found.probabilities(scores) == scores).all()
    assert kept >= 3


def test_windows_of_one_group_never_stand_on_both_sides_of_a_comparison() -> None:
    """Each group's windows are copies: a curve that may learn them by heart would win."""
    rng = np.random.default_rng(0)
    scores = np.repeat(rng.random((40, 1)), 50, axis=0).astype(np.float32)
    labels = np.repeat(rng.random((40, 1)) < 0.5, 50, axis=0).astype(np.int8)
    groups = [f"author {row // 50}" for row in range(2000)]
    by_group = calibration.choose(scores, labels, groups, 0)
    by_window = calibration.choose(scores, labels, range(2000), 0)
    assert by_window.method == "isotonic"
    assert by_group.losses["isotonic"] > by_window.losses["isotonic"] + 0.05


def test_one_group_alone_cannot_show_that_a_correction_helps() -> None:
    scores, labels = _drawn(3.0, 50)
    found = calibration.choose(scores, labels, ["one"] * 50, 0)
    assert found.method == "identity"
    assert "all calibration windows are of one group" in found.note


def test_a_curve_never_claims_more_than_so_many_pairs_can_tell() -> None:
    scores = np.array([[0.9, 0.1]] * 8, np.float32)
    labels = np.array([[1, 0]] * 8, np.int8)
    found = calibration.fit_isotonic(scores, labels)
    said = found.probabilities(np.array([0.0, 0.1, 0.5, 0.9, 1.0], np.float32))
    assert said == pytest.approx([0.1, 0.1, 0.5, 0.9, 0.9])


@pytest.mark.parametrize("method", ["identity", "temperature", "isotonic"])
def test_what_is_written_gives_the_same_probabilities_again(method: str) -> None:
    scores, labels, _ = _bent(500)
    found = {
        "identity": calibration.Calibration(1.0, ""),
        "temperature": calibration.fit_temperature(scores, labels),
        "isotonic": calibration.fit_isotonic(scores, labels),
    }[method]
    assert found.method == method
    again = calibration.from_json(json.loads(json.dumps(found.as_json())), "here")
    assert (again.probabilities(scores) == found.probabilities(scores)).all()
    assert again.probability(float(scores[0, 0])) == found.probabilities(scores)[0, 0]
    assert (np.diff(again.probabilities(np.linspace(0, 1, 999, dtype=np.float32))) >= 0).all()


@pytest.mark.parametrize(
    "knots",
    [
        {"score": [0.1, 0.9], "probability": [0.5]},
        {"score": [0.9, 0.1], "probability": [0.1, 0.5]},
        {"score": [0.1, 0.9], "probability": [0.1, 1.5]},
        {"score": [0.1, float("nan")], "probability": [0.1, 0.5]},
        {"score": [0.1]},
        {"score": ["low"], "probability": [0.1]},
    ],
)
def test_a_curve_that_does_not_rise_is_refused(knots: dict[str, list[float]]) -> None:
    with pytest.raises(DataError, match=r"^here"):
        calibration.from_json({"temperature": 1, "knots": knots}, "here")


def test_an_error_is_weighed_by_how_many_pairs_have_it() -> None:
    said = np.array([[0.05] * 9 + [0.95]], np.float32)
    labels = np.array([[0] * 10], np.int8)
    found = calibration.reliability(said, labels)
    assert found.pairs == [9, 1]
    assert found.ece == pytest.approx(0.9 * 0.05 + 0.1 * 0.95)
    assert calibration.reliability(said[:0], labels[:0]).ece is None
