import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import precision_recall_curve as sklearn_curve

from birdsong import bootstrap, metrics
from birdsong.errors import DataError
from birdsong.metrics import Figures

CODES = ["a", "b", "c", "d"]


def _random(units: int, species: int, seed: int = 0, ties: bool = True) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    scores = rng.random((units, species)).astype(np.float32)
    if ties:
        scores = np.round(scores, 1)
    labels = np.zeros((units, species), np.int8)
    labels[rng.random((units, species)) < 0.1] = -1
    primary = rng.integers(0, species, units)
    labels[np.arange(units), primary] = 1
    scores[np.arange(units), primary] += 0.2 * rng.random(units).astype(np.float32)
    return np.clip(scores, 0, 1), labels


def _figures(scores: np.ndarray, labels: np.ndarray, threshold: float = 0.5) -> Figures:
    return Figures(scores, labels, np.full(scores.shape[1], threshold))


def _once(units: int) -> np.ndarray:
    return np.ones((1, units), np.float32)


def test_labels_are_one_for_primary_minus_one_for_secondary_and_zero_for_absent() -> None:
    labels = metrics.label_matrix(["a", "c"], [["b", "unheard", "a"], None], CODES)
    assert labels.tolist() == [[1, -1, 0, 0], [0, 0, 1, 0]]


def test_a_label_that_is_no_species_is_an_error() -> None:
    with pytest.raises(DataError, match="'x' is not among the 4 species"):
        metrics.label_matrix(["x"], [[]], CODES)


def test_a_top_species_that_is_primary_or_secondary_is_right() -> None:
    labels = metrics.label_matrix(["a", "a", "a"], [["b"]] * 3, CODES)
    scores = np.eye(4, dtype=np.float32)[[0, 1, 2]]
    assert metrics.correct(scores, labels).tolist() == [True, True, False]


def test_of_equal_scores_the_species_that_stands_first_counts() -> None:
    labels = metrics.label_matrix(["a", "b", "d"], [[]] * 3, CODES)
    level = np.full((3, 4), 0.5, np.float32)
    assert metrics.correct(level, labels).tolist() == [True, False, False]
    assert metrics.correct(level, labels, top=3).tolist() == [True, True, False]


def test_a_recording_scores_as_its_best_window_in_order_of_appearance() -> None:
    scores = np.array([[0.1, 0.9], [0.5, 0.2], [0.3, 0.1]], np.float32)
    firsts, best = metrics.by_recording(["z", "a", "z"], scores)
    assert firsts.tolist() == [0, 1]
    assert np.array_equal(best, np.array([[0.3, 0.9], [0.5, 0.2]], np.float32))


def test_auc_and_average_precision_agree_with_scikit_learn_without_secondary_labels() -> None:
    scores, labels = _random(300, 7)
    area, precision = _figures(scores, labels).per_species(_once(300))
    for column in range(7):
        known = labels[:, column] >= 0
        truth, score = labels[known, column], scores[known, column]
        assert area[0, column] == pytest.approx(roc_auc_score(truth, score), abs=1e-5)
        assert precision[0, column] == pytest.approx(
            average_precision_score(truth, score), abs=1e-5
        )


def _by_hand(scores: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float]:
    """All headlines pair by pair in plain Python, as their definitions read."""
    units, species = scores.shape
    right: dict[int, list[bool]] = {1: [], 3: []}
    precisions_of_units = []
    for row in range(units):
        best = sorted(range(species), key=lambda column: (-scores[row, column], column))
        for top, told in right.items():
            told.append(any(labels[row, column] != 0 for column in best[:top]))
        there = [column for column in range(species) if labels[row, column] == 1]
        if there:
            mine = scores[row, there[0]]
            level = [c for c in range(species) if labels[row, c] >= 0 and scores[row, c] >= mine]
            precisions_of_units.append(1 / len(level))
    areas, precisions, f1s = [], [], []
    for column in range(species):
        known = [row for row in range(units) if labels[row, column] >= 0]
        yes = [row for row in known if labels[row, column] == 1]
        no = [row for row in known if labels[row, column] == 0]
        score = {row: float(scores[row, column]) for row in known}
        if yes and no:
            wins = [
                (score[one] > score[other]) + 0.5 * (score[one] == score[other])
                for one in yes
                for other in no
            ]
            areas.append(sum(wins) / len(wins))
        if yes:
            found = []
            for one in yes:
                above = [row for row in known if score[row] >= score[one]]
                found.append(sum(labels[row, column] == 1 for row in above) / len(above))
            precisions.append(sum(found) / len(found))
            said = [row for row in known if score[row] > threshold]
            hits = sum(labels[row, column] == 1 for row in said)
            f1s.append(2 * hits / (len(said) + len(yes)))
    return {
        "accuracy": float(np.mean(right[1])),
        "top3_accuracy": float(np.mean(right[3])),
        "macro_auc": float(np.mean(areas)),
        "cmap": float(np.mean(precisions)),
        "map": float(np.mean(precisions_of_units)),
        "macro_f1": float(np.mean(f1s)),
    }


@pytest.mark.parametrize("seed", range(4))
def test_all_headlines_agree_with_their_definitions_counted_by_hand(seed: int) -> None:
    """Ties, rows of which nothing is known, a species without positives, one never absent."""
    scores, labels = _random(60, 6, seed)
    labels[labels[:, 4] == 1, 4] = 0
    labels[:, 5] = np.where(labels[:, 5] == 0, -1, labels[:, 5])
    labels[:5] = -1
    scores[10:14] = 0.5
    found = _figures(scores, labels).weighted(_once(60))
    expected = _by_hand(scores, labels, 0.5)
    assert set(found) == set(metrics.HEADLINES) == set(expected)
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, abs=1e-5), name


def test_weights_count_a_unit_as_if_it_were_there_that_often() -> None:
    scores, labels = _random(60, 5)
    rng = np.random.default_rng(1)
    weights = rng.multinomial(60, np.full(60, 1 / 60), size=3)
    weighted = _figures(scores, labels).weighted(weights.astype(np.float32))
    for draw, times in enumerate(weights):
        repeated = np.repeat(np.arange(60), times)
        alone = _figures(scores[repeated], labels[repeated]).weighted(_once(60))
        for name in metrics.HEADLINES:
            assert weighted[name][draw] == pytest.approx(alone[name][0], abs=1e-5), name


def test_more_positives_than_fit_into_one_block_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores, labels = _random(200, 5)
    whole = _figures(scores, labels).per_species(_once(200))
    monkeypatch.setattr(metrics, "_POSITIVES_AT_A_TIME", 7)
    parts = _figures(scores, labels).per_species(_once(200))
    assert np.allclose(whole, parts, atol=1e-6)


def test_a_species_without_positives_or_without_negatives_is_left_out_of_the_mean() -> None:
    labels = metrics.label_matrix(["a", "a"], [["b"], []], ["a", "b"])
    scores = np.array([[0.9, 0.8], [0.8, 0.1]], np.float32)
    found = _figures(scores, labels).weighted(_once(2))
    assert np.isnan(found["macro_auc"][0])
    assert found["cmap"][0] == 1
    assert found["macro_f1"][0] == 1


def test_mean_precision_of_recordings_leaves_secondary_species_out_and_counts_ties_against() -> (
    None
):
    labels = metrics.label_matrix(["a", "a"], [["b"], []], CODES)
    scores = np.array([[0.5, 0.9, 0.7, 0.1], [0.5, 0.5, 0.1, 0.1]], np.float32)
    assert _figures(scores, labels).weighted(_once(2))["map"][0] == pytest.approx(0.5)


def test_f1_needs_a_score_above_the_threshold_not_at_it() -> None:
    labels = metrics.label_matrix(["a", "b"], [[], []], ["a", "b"])
    scores = np.array([[0.5, 0.1], [0.1, 0.6]], np.float32)
    figures = Figures(scores, labels, np.array([0.5, 0.5]))
    assert figures.weighted(_once(2))["macro_f1"][0] == pytest.approx(0.5)


def test_a_species_without_a_threshold_is_never_heard() -> None:
    labels = metrics.label_matrix(["a", "b"], [[], []], ["a", "b"])
    figures = Figures(np.ones((2, 2), np.float32), labels, np.array([0.5, np.nan]))
    # a is found, but also where b sings: 2/3; b is never heard: 0.
    assert figures.weighted(_once(2))["macro_f1"][0] == pytest.approx(1 / 3)


def test_without_any_threshold_there_is_no_f1() -> None:
    labels = metrics.label_matrix(["a", "b"], [[], []], ["a", "b"])
    figures = Figures(np.ones((2, 2), np.float32), labels, np.array([np.nan, np.nan]))
    assert np.isnan(figures.weighted(_once(2))["macro_f1"][0])


def test_the_interval_of_groups_is_wider_than_that_of_recordings() -> None:
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(30) < 0.6, 10)
    labels = np.tile(np.array([[1, 0]], np.int8), (300, 1))
    scores = np.where(right[:, None], [[0.9, 0.1]], [[0.1, 0.9]]).astype(np.float32)
    figures = {"network": _figures(scores, labels), "baseline": _figures(scores, labels)}
    grouped = metrics.headlines(figures, list(np.repeat(np.arange(30), 10)), seed=0)[0]
    single = metrics.headlines(figures, list(range(300)), seed=0)[0]
    widths = [
        told["network"]["accuracy"].high - told["network"]["accuracy"].low
        for told in (grouped, single)
    ]
    assert widths[0] > 2 * widths[1]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        right = rng.random(80) < 0.7
        drawn = bootstrap.draw(
            lambda weights, right=right: {"x": weights @ right / weights.sum(axis=1)},
            list(range(80)),
            seed=trial,
            draws=400,
        )
        found = bootstrap.percentiles(float(right.mean()), drawn["x"], 80)
        covered += found.low <= 0.7 <= found.high
    assert 180 <= covered <= 198


def test_the_interval_of_few_groups_of_unequal_size_covers_as_often_as_that_of_many() -> None:
    """The plain percentiles of 8 such groups cover in 89 of 100 data sets."""
    rng = np.random.default_rng(0)
    covered = tried = 0
    for trial in range(300):
        chance, size = rng.beta(1.4, 0.6, 8), rng.geometric(1 / 3, 8)
        groups = np.repeat(np.arange(8), size)
        right = rng.random(len(groups)) < chance[groups]
        drawn = bootstrap.draw(
            lambda weights, right=right: {"x": weights @ right / weights.sum(axis=1)},
            groups.tolist(),
            seed=trial,
            draws=500,
        )
        found = bootstrap.share_of_units(float(right.mean()), drawn["x"], 8)
        covered += found.low <= 0.7 <= found.high
        tried += 1
    assert 0.92 <= covered / tried <= 0.98


def test_very_few_groups_get_the_binomial_interval_of_their_number_or_none() -> None:
    drawn = np.linspace(0.4, 0.6, 100)
    for groups in (2, 4):
        share = bootstrap.share_of_units(0.5, drawn, groups)
        exact = bootstrap.share(groups / 2, groups)
        assert (share.low, share.high) == (exact.low, exact.high)
        assert share.high - share.low > 0.8
        assert bootstrap.percentiles(0.5, drawn, groups).low is None
        assert bootstrap.centred(0.5, drawn, groups).low is None
    assert bootstrap.share_of_units(1.0, np.ones(9), 1).low is None
    five = bootstrap.share_of_units(0.5, drawn, 5)
    assert five.low == pytest.approx(0.4, abs=1e-3)


def test_a_model_against_itself_differs_by_nothing_in_every_draw() -> None:
    scores, labels = _random(50, 4)
    figures = {"network": _figures(scores, labels), "baseline": _figures(scores, labels)}
    _, differences = metrics.headlines(figures, list(range(50)), seed=0)
    for found in differences.values():
        assert (found.value, found.low, found.high) == (0, 0, 0)


def test_all_right_is_not_certain() -> None:
    labels = np.tile(np.array([[1, 0]], np.int8), (10, 1))
    scores = np.tile(np.array([[0.9, 0.1]], np.float32), (10, 1))
    figures = {"network": _figures(scores, labels), "baseline": _figures(scores, labels)}
    found = metrics.headlines(figures, list(range(10)), seed=0)[0]["network"]["accuracy"]
    assert found.value == 1
    assert found.low == pytest.approx(0.6915, abs=1e-3)
    assert found.high == 1


def test_a_perfect_mean_over_species_claims_no_certainty() -> None:
    labels = np.tile(np.eye(2, dtype=np.int8), (10, 1))
    scores = np.where(labels == 1, 0.9, 0.1).astype(np.float32)
    figures = {"network": _figures(scores, labels), "baseline": _figures(scores, labels)}
    found = metrics.headlines(figures, list(range(20)), seed=0)[0]["network"]
    for name in ("macro_auc", "cmap", "macro_f1"):
        assert (found[name].value, found[name].low, found[name].high) == (1, None, None)
    assert found["map"].low == pytest.approx(bootstrap.share(20, 20).low)


def test_one_group_gives_a_figure_without_an_interval_and_none_gives_nothing() -> None:
    scores, labels = _random(5, 4)
    figures = {"network": _figures(scores, labels), "baseline": _figures(scores, labels)}
    found = metrics.headlines(figures, ["same"] * 5, seed=0)[0]["network"]["cmap"]
    assert found.value is not None
    assert found.low is None
    empty = {name: _figures(scores[:0], labels[:0]) for name in figures}
    nothing, differences = metrics.headlines(empty, [], seed=0)
    assert nothing["network"]["accuracy"].value is differences["map"].value is None


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    scores, labels = _random(50, 4)
    figures = {"network": _figures(scores, labels), "baseline": _figures(scores[:, ::-1], labels)}
    one, same, other = (metrics.headlines(figures, list(range(50)), seed) for seed in (1, 1, 2))
    assert one == same != other


def test_a_share_has_its_exact_interval() -> None:
    found = bootstrap.share(0, 99)
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(0.0366, abs=1e-4)
    assert bootstrap.share(3, 3).low == pytest.approx(0.2924, abs=1e-4)
    assert bootstrap.share(0, 0).value is None


def test_the_roc_is_finite_short_and_keeps_its_area() -> None:
    scores, labels = _random(400, 20, ties=False)
    fpr, tpr, cut = metrics.roc_curve(scores, labels)
    known = labels >= 0
    assert len(fpr) == len(tpr) == len(cut) <= 200
    assert np.isfinite([fpr, tpr, cut]).all()
    assert min(cut) >= 0
    assert max(cut) <= 1
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()
    assert (np.diff(cut) <= 0).all()
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    area = roc_auc_score(labels[known] == 1, scores[known])
    assert np.trapezoid(tpr, fpr) == pytest.approx(area, abs=2e-3)


@pytest.mark.parametrize("labels", [np.ones((3, 1), np.int8), np.zeros((0, 2), np.int8)])
def test_a_roc_without_positives_or_negatives_is_the_diagonal(labels: np.ndarray) -> None:
    found = metrics.roc_curve(np.full(labels.shape, 0.5, np.float32), labels)
    assert found == ([0.0, 1.0], [0.0, 1.0], [1.0, 0.0])


def test_equal_scores_are_one_point_of_the_roc() -> None:
    labels = np.array([[1, 0], [0, 1]], np.int8)
    fpr, tpr, _ = metrics.roc_curve(np.full((2, 2), 0.3, np.float32), labels)
    assert (fpr, tpr) == ([0.0, 1.0], [0.0, 1.0])


def test_precision_and_recall_agree_with_scikit_learn() -> None:
    scores, labels = _random(30, 4)
    known = labels >= 0
    recall, precision = metrics.precision_recall_curve(scores, labels)
    theirs = sklearn_curve(labels[known] == 1, scores[known], drop_intermediate=False)
    # Theirs starts at the lowest threshold and ends with a point without any.
    assert recall == pytest.approx(theirs[1][-2::-1].tolist())
    assert precision == pytest.approx(theirs[0][-2::-1].tolist())


def test_a_long_curve_of_precision_and_recall_is_thinned_and_keeps_its_ends() -> None:
    scores, labels = _random(900, 20, ties=False)
    recall, precision = metrics.precision_recall_curve(scores, labels)
    assert len(recall) == len(precision) <= 200
    assert len(recall) > 150
    assert (np.diff(recall) > 0).all()
    assert recall[-1] == 1
    assert precision[0] in (0, 1)


def test_without_a_positive_there_is_no_precision_and_no_recall() -> None:
    nothing = np.zeros((3, 2), np.int8)
    assert metrics.precision_recall_curve(np.ones((3, 2), np.float32), nothing) == ([], [])


def test_units_that_are_drawn_twice_do_not_lift_the_interval_of_average_precision() -> None:
    scores, labels = _random(60, 4, ties=False)
    figures = _figures(scores, labels)
    drawn = bootstrap.draw(figures.weighted, range(60), 0)["cmap"]
    value = float(figures.weighted(_once(60))["cmap"][0])
    assert drawn.mean() > value + 0.01
    plain, right = (how(value, drawn, 60) for how in (bootstrap.percentiles, bootstrap.centred))
    assert right.low is not None
    assert plain.low is not None
    assert right.low == pytest.approx(plain.low - (drawn.mean() - value))
    told, _ = metrics.headlines({"a": figures, "b": figures}, range(60), 0)
    assert told["a"]["cmap"].low == pytest.approx(right.low)
    assert told["a"]["cmap"].high == pytest.approx(right.high)


def test_an_interval_that_is_set_right_stays_between_its_ends() -> None:
    drawn = np.linspace(0.9, 1.0, 100)
    found = bootstrap.centred(1.0, drawn, 500)
    assert found.high == 1.0
    assert found.low == pytest.approx(0.9525, abs=1e-3)
    assert bootstrap.centred(1.0, drawn, 1).low is None


def test_confusion_counts_a_secondary_species_as_right() -> None:
    labels = metrics.label_matrix(["a", "a", "b"], [["b"], [], []], ["a", "b"])
    scores = np.array([[0.1, 0.9], [0.1, 0.9], [0.1, 0.9]], np.float32)
    assert metrics.confusion(scores, labels, ["a", "b"]) == (["a", "b"], [[1, 1], [0, 1]])


def test_confusion_of_many_species_keeps_the_most_confused_and_every_recording() -> None:
    scores, labels = _random(500, 60)
    codes = [f"s{number}" for number in range(60)]
    names, counts = metrics.confusion(scores, labels, codes)
    assert len(names) == len(counts) == 31
    assert names[-1] == "other"
    assert np.sum(counts) == 500
    assert metrics.confusion(scores[:0], labels[:0], codes[:2])[1] == [[0, 0], [0, 0]]


def test_intervals_of_a_thousand_recordings_and_all_species_take_seconds() -> None:
    scores, labels = _random(1000, 397)
    figures = {"network": _figures(scores, labels), "baseline": _figures(scores, labels)}
    started = time.monotonic()
    metrics.headlines(figures, list(range(1000)), seed=0)
    assert time.monotonic() - started < 20
