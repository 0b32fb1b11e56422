import json

import numpy as np
import pytest
from made_scores import World, simulate

from birdsong.errors import DataError
from birdsong.thresholds import (
    as_array,
    conformal_threshold,
    needed,
    one_of_each,
    pick_thresholds,
    safe_threshold,
    smallest_rate,
    tolerance_rank,
)


def _pick(
    scores: np.ndarray,
    labels: np.ndarray,
    target: float = 0.01,
    positives: int = 5,
    confidence: float = 0.95,
    groups: list[str] | None = None,
) -> dict[str, object]:
    codes = [f"s{column}" for column in range(scores.shape[1])]
    found = pick_thresholds(
        scores.astype(np.float32), labels, codes, target, positives, confidence, groups
    )
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
    found = _pick(rng.random((60, 6)), labels, confidence=0)
    assert {entry["how"] for entry in found["species"].values()} == {"pooled"}
    entry = found["species"]["s0"]
    assert entry["threshold"] == found["pooled"]["threshold"]
    assert entry["reason"] == (
        "1 % cannot be promised: 50 groups without it, a promise needs 99; the smallest rate that "
        "they allow is 2 %"
    )
    assert found["cannot_be_promised"] == [f"s{column}" for column in range(6)]
    assert (entry["negatives"], entry["positives"]) == (50, 10)
    assert entry["smallest_rate"] == 1 / 51
    assert found["pooled"]["negatives"] == 300
    assert "No species has a threshold of its own" in found["note"]


def test_too_few_positives_pool_even_with_enough_negatives() -> None:
    labels = np.zeros((200, 2), np.int8)
    labels[:100, 0], labels[:4, 1] = 1, 1
    found = _pick(np.random.default_rng(0).random((200, 2)), labels, confidence=0)
    assert found["cannot_be_promised"] == []
    assert found["species"]["s0"]["how"] == "own"
    assert found["species"]["s1"]["how"] == "pooled"
    assert found["species"]["s1"]["reason"].startswith("4 windows with it")


def test_secondary_labels_are_neither_negatives_nor_positives() -> None:
    labels = np.zeros((250, 2), np.int8)
    labels[:100, 0] = 1
    labels[100:150, 0] = -1
    scores = np.full((250, 2), 0.1)
    scores[100:150, 0] = 0.99
    entry = _pick(scores, labels, confidence=0)["species"]["s0"]
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


def test_299_windows_promise_one_percent_at_95_percent_and_298_do_not() -> None:
    negatives = np.linspace(0, 0.9, 299).astype(np.float32)
    assert safe_threshold(negatives, 0.01, 0.95) == pytest.approx(0.9)
    assert safe_threshold(negatives[:298], 0.01, 0.95) is None
    assert needed(0.01, 0.95) == 299
    assert needed(0.01, 0) == 99


@pytest.mark.parametrize("confidence", [0, 0.5, 0.75, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("target", [0.001, 0.01, 0.05, 0.3, 0.5])
def test_the_needed_number_is_the_fewest_that_give_a_threshold(
    target: float, confidence: float
) -> None:
    count = needed(target, confidence)
    negatives = np.arange(count, dtype=np.float32)
    assert safe_threshold(negatives, target, confidence) is not None
    assert safe_threshold(negatives[1:], target, confidence) is None
    assert smallest_rate(count, confidence) <= target + 1e-12
    assert smallest_rate(count - 1, confidence) > target


def test_the_rank_is_the_largest_that_keeps_the_confidence() -> None:
    from scipy.stats import binom

    for count in (299, 472, 473, 1000, 5000):
        rank = tolerance_rank(count, 0.01, 0.95)
        # The rate is too high where fewer than `rank` of the windows lie above its quantile.
        assert binom.cdf(rank - 1, count, 0.01) <= 0.05 < binom.cdf(rank, count, 0.01)


def test_a_group_counts_once_however_many_windows_it_has() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((1200, 2), np.int8)
    labels[:300, 0] = labels[-6:, 1] = 1
    groups = [f"author {row // 4}" for row in range(1200)]
    found = _pick(rng.random((1200, 2)), labels, groups=groups)
    first, second = found["species"]["s0"], found["species"]["s1"]
    # 900 windows of 225 groups; and 1,194 windows of 299, the last group's half among them.
    assert (first["negatives"], first["groups"], first["how"]) == (900, 225, "pooled")
    assert (second["negatives"], second["groups"], second["how"]) == (1194, 299, "own")
    assert first["smallest_rate"] == pytest.approx(1 - 0.05 ** (1 / 225))
    assert found["cannot_be_promised"] == ["s0"]
    assert found["needed_groups"] == 299


def test_each_window_of_a_group_is_as_likely_to_stand_for_it() -> None:
    groups = np.repeat(["a", "b"], [4, 1])
    wanted = np.array([True, True, False, True, True])
    rng = np.random.default_rng(0)
    taken = [one_of_each(groups, wanted, rng.permutation(5)) for _ in range(3000)]
    times = np.bincount(np.concatenate(taken), minlength=5)
    assert times[2] == 0
    assert times[4] == 3000
    assert times[[0, 1, 3]] == pytest.approx([1000] * 3, abs=110)


def test_the_promise_is_told_as_what_it_is() -> None:
    labels = np.zeros((400, 1), np.int8)
    labels[:10] = 1
    scores = np.random.default_rng(0).random((400, 1))
    sure, average = _pick(scores, labels), _pick(scores, labels, confidence=0)
    assert sure["promise"].startswith("With 95 % confidence for each species")
    assert average["promise"].startswith("On average")
    assert "with 95 % confidence" in sure["note"]
    assert sure["species"]["s0"]["threshold"] > average["species"]["s0"]["threshold"]


def test_shapes_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(DataError, match=r"\(windows, species\)"):
        pick_thresholds(np.zeros((3, 2), np.float32), np.zeros((3, 2), np.int8), ["a"], 0.01, 5)
    with pytest.raises(DataError, match="2 groups for 3 windows"):
        _pick(np.zeros((3, 2)), np.zeros((3, 2), np.int8), groups=["a", "b"])


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


@pytest.mark.parametrize("windows", [1, 10], ids=["exchangeable", "grouped"])
def test_the_stated_confidence_is_kept_over_draws_of_known_distributions(windows: int) -> None:
    """The acceptance in small; tests/bench/bench_thresholds.py draws more."""
    world = World("", groups=124, windows=windows, shared=0.7)
    found = simulate(world, draws=400, species=5, target=0.05, confidence=0.95, seed=1)
    ours, by_window, average, _, pooled, reference = found.values()
    # 2,000 shares; the deviation of a coverage of 95 % is half a point.
    assert ours.coverage >= 0.935
    assert ours.rate < 0.05
    assert average.coverage < 0.8
    assert average.rate == pytest.approx(0.05, abs=0.004)
    assert ours.recall > average.recall - 0.15
    assert reference.worst < 0.5
    assert pooled.rate == pytest.approx(0.05, abs=0.004)
    assert pooled.worst < 0.5
    if windows > 1:
        assert by_window.coverage < 0.85


def test_where_new_windows_are_not_like_those_of_calibration_the_promise_does_not_hold() -> None:
    """Said in the README: no rule that sees calibration alone could keep it."""
    for world in (
        World("", groups=124, windows=1, shared=0, drift=0.5),
        World("", groups=124, windows=1, shared=0, spread=1.25),
    ):
        ours = next(iter(simulate(world, 200, 5, 0.05, 0.95, seed=1).values()))
        assert ours.coverage < 0.75


def test_below_the_needed_groups_only_the_pooled_threshold_is_there() -> None:
    world = World("", groups=30, windows=3, shared=0.7)
    found = simulate(world, draws=200, species=5, target=0.05, confidence=0.95, seed=1)
    ours, *_, pooled, _ = found.values()
    assert np.isnan(ours.coverage)
    assert pooled.rate == pytest.approx(0.05, abs=0.01)
