import json

import numpy as np
import pytest

from birdsong.errors import DataError
from birdsong.thresholds import as_array, conformal_threshold, pick_thresholds


def _pick(
    scores: np.ndarray, labels: np.ndarray, target: float = 0.01, positives: int = 5
) -> dict[str, object]:
    codes = [f"s{column}" for column in range(scores.shape[1])]
    found = pick_thresholds(scores.astype(np.float32), labels, codes, target, positives)
    json.dumps(found, allow_nan=False)
    return found


def test_ninety_nine_negatives_promise_one_percent_and_ninety_eight_do_not() -> None:
    negatives = np.linspace(0, 0.98, 99).astype(np.float32)
    assert conformal_threshold(negatives, 0.01) == pytest.approx(0.98)
    assert conformal_threshold(negatives[:98], 0.01) is None


@pytest.mark.parametrize(("target", "rank"), [(0.29, 29), (0.07, 7), (0.57, 57), (0.01, 1)])
def test_the_rank_does_not_fall_to_rounding(target: float, rank: int) -> None:
    negatives = np.arange(99, dtype=np.float32)
    assert conformal_threshold(negatives, target) == 99 - rank


def test_a_threshold_is_the_smallest_that_keeps_the_rate() -> None:
    negatives = np.random.default_rng(0).random(500).astype(np.float32)
    threshold = conformal_threshold(negatives, 0.05)
    assert threshold is not None
    assert (negatives > threshold).sum() == 24
    assert (negatives >= threshold).sum() == 25


def test_a_score_at_the_threshold_is_not_above_it() -> None:
    negatives = np.array([0.9] * 50 + [0.1] * 50, np.float32)
    threshold = conformal_threshold(negatives, 0.1)
    assert threshold is not None
    assert not (negatives > threshold).any()


def test_the_promise_holds_on_new_windows_whatever_the_distribution() -> None:
    rng = np.random.default_rng(0)
    for draw in (rng.random, rng.standard_normal, lambda n: np.round(rng.random(n), 1)):
        rates = []
        for _ in range(400):
            threshold = conformal_threshold(draw(149).astype(np.float32), 0.02)
            rates.append((draw(500).astype(np.float32) > threshold).mean())
        # The mean of 400 draws of a rate of 2 % is known to about 0.1 %.
        assert np.mean(rates) <= 0.0215


def test_species_below_the_needed_negatives_share_the_pooled_threshold_and_say_why() -> None:
    rng = np.random.default_rng(1)
    labels = np.zeros((60, 6), np.int8)
    labels[np.arange(60), np.arange(60) % 6] = 1
    found = _pick(rng.random((60, 6)), labels)
    assert {entry["how"] for entry in found["species"].values()} == {"pooled"}
    entry = found["species"]["s0"]
    assert entry["threshold"] == found["pooled"]["threshold"]
    assert entry["reason"] == "50 windows without it, a promise needs 99"
    assert (entry["negatives"], entry["positives"]) == (50, 10)
    assert entry["smallest_rate"] == 1 / 51
    assert found["pooled"]["negatives"] == 300
    assert "No species has a threshold of its own" in found["note"]


def test_too_few_positives_pool_even_with_enough_negatives() -> None:
    labels = np.zeros((200, 2), np.int8)
    labels[:100, 0], labels[:4, 1] = 1, 1
    found = _pick(np.random.default_rng(0).random((200, 2)), labels)
    assert found["species"]["s0"]["how"] == "own"
    assert found["species"]["s1"]["how"] == "pooled"
    assert found["species"]["s1"]["reason"].startswith("4 windows with it")


def test_secondary_labels_are_neither_negatives_nor_positives() -> None:
    labels = np.zeros((250, 2), np.int8)
    labels[:100, 0] = 1
    labels[100:150, 0] = -1
    scores = np.full((250, 2), 0.1)
    scores[100:150, 0] = 0.99
    entry = _pick(scores, labels)["species"]["s0"]
    assert (entry["negatives"], entry["positives"], entry["unknown"]) == (100, 100, 50)
    assert entry["threshold"] == pytest.approx(0.1)


def test_without_calibration_windows_no_species_has_a_threshold_and_the_note_says_so() -> None:
    found = _pick(np.zeros((0, 3)), np.zeros((0, 3), np.int8))
    assert [entry["how"] for entry in found["species"].values()] == ["none"] * 3
    assert found["note"].startswith("There are no calibration windows")
    assert np.isnan(as_array(found, ["s0", "s1", "s2"])).all()


def test_a_single_species_has_no_window_without_it_and_so_no_threshold() -> None:
    found = _pick(np.random.default_rng(0).random((300, 1)), np.ones((300, 1), np.int8))
    assert found["species"]["s0"]["threshold"] is None
    assert found["species"]["s0"]["calibration_fpr"] is None


def test_shapes_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(DataError, match=r"\(windows, species\)"):
        pick_thresholds(np.zeros((3, 2), np.float32), np.zeros((3, 2), np.int8), ["a"], 0.01, 5)


def test_each_species_keeps_its_rate_where_one_global_threshold_breaks_it() -> None:
    """Defect 6 of the reference: the median of the species' thresholds for all of them."""
    rng = np.random.default_rng(0)
    species, windows = 20, 2000
    # Some species' scores are higher throughout, as of loud or common birds.
    levels = rng.normal(0, 2, species)

    def draw() -> np.ndarray:
        return 1 / (1 + np.exp(-(levels + rng.standard_normal((windows, species)))))

    labels = np.zeros((windows, species), np.int8)
    labels[np.arange(windows), np.arange(windows) % species] = 1
    found = _pick(draw(), labels, target=0.01)
    own = as_array(found, [f"s{column}" for column in range(species)])
    fresh = draw().astype(np.float32)

    def rates(threshold: object) -> np.ndarray:
        return np.array(
            [
                (fresh > threshold)[labels[:, column] == 0, column].mean()
                for column in range(species)
            ]
        )

    # 1,900 windows of a rate of 1 %: 2 % is more than four deviations away.
    assert (rates(own) < 0.02).all()
    assert (rates(np.median(own)) > 0.02).sum() >= 5
