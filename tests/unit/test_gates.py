"""Gates: which models are refused, and that refusals say why."""

from pathlib import Path

import numpy as np
import pytest
from made_bundles import write_stages

from birdsong.bundle import write_bundle
from birdsong.errors import DataError
from birdsong.gates import judge, paired_interval


def _bundle(folder: Path, **varied: object) -> Path:
    stages = write_stages(folder / "run", **varied)  # type: ignore[arg-type]
    write_bundle(folder / "bundle", stages.model, stages.thresholds, stages.evaluation)
    return folder / "bundle"


def test_a_network_better_than_the_baseline_passes(tmp_path: Path) -> None:
    verdict = judge("baseline", _bundle(tmp_path), None, seed=0)
    assert verdict.accepted
    assert verdict.figures["accuracy_difference"] == pytest.approx(0.25)
    assert "0.750 against 0.500 of the baseline on 20 test recordings" in verdict.reason


def test_a_network_clearly_worse_than_the_baseline_is_refused(tmp_path: Path) -> None:
    bundle = _bundle(
        tmp_path, correct=[True] * 4 + [False] * 16, baseline_correct=[True] * 16 + [False] * 4
    )
    verdict = judge("baseline", bundle, None, seed=0)
    assert not verdict.accepted
    assert "Worse than the baseline beyond the interval" in verdict.reason
    assert verdict.figures["accuracy_difference_high"] < 0


def test_a_network_slightly_worse_than_the_baseline_passes(tmp_path: Path) -> None:
    bundle = _bundle(
        tmp_path,
        correct=[True] * 9 + [False] * 11,
        baseline_correct=[False] + [True] * 9 + [False] * 10,
    )
    assert judge("baseline", bundle, None, seed=0).accepted
    worse = _bundle(
        tmp_path / "w",
        correct=[True] * 9 + [False] * 11,
        baseline_correct=[True] * 10 + [False] * 10,
    )
    assert judge("baseline", worse, None, seed=0).accepted


def test_recordings_of_one_group_count_once_in_the_interval(tmp_path: Path) -> None:
    # 12 recordings got worse, but all of one morning: alone they would refuse the model.
    correct, baseline = [False] * 12 + [True] * 8, [True] * 20
    alone = _bundle(tmp_path / "a", correct=correct, baseline_correct=baseline)
    together = _bundle(
        tmp_path / "b",
        correct=correct,
        baseline_correct=baseline,
        groups=["one"] * 12 + [f"{i}" for i in range(8)],
    )
    assert not judge("baseline", alone, None, seed=0).accepted
    assert judge("baseline", together, None, seed=0).accepted


def test_a_model_without_any_threshold_is_refused_by_all_gates_but_none(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, thresholds=[None, None, None])
    for gate in ("baseline", "champion"):
        verdict = judge(gate, bundle, None, seed=0)  # type: ignore[arg-type]
        assert not verdict.accepted
        assert "No species has a threshold" in verdict.reason
    assert judge("none", bundle, None, seed=0).accepted


def test_a_model_without_golden_or_test_recordings_is_refused(tmp_path: Path) -> None:
    verdict = judge("baseline", _bundle(tmp_path / "a", golden=0), None, seed=0)
    assert not verdict.accepted
    assert "no golden recording" in verdict.reason
    empty = _bundle(tmp_path / "b", correct=[], baseline_correct=[], groups=[], sha256s=[])
    verdict = judge("baseline", empty, None, seed=0)
    assert not verdict.accepted
    assert "no test recordings" in verdict.reason


def test_golden_scores_that_are_not_numbers_refuse_the_model(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path)
    place = bundle / "golden/golden.json"
    place.write_text(place.read_text().replace("0.", "NaN, 0.", 1))
    verdict = judge("baseline", bundle, None, seed=0)
    assert not verdict.accepted
    assert "golden recordings cannot be used" in verdict.reason


def test_without_a_champion_the_baseline_decides_and_the_reason_says_so(tmp_path: Path) -> None:
    verdict = judge("champion", _bundle(tmp_path), None, seed=0)
    assert verdict.accepted
    assert "No champion is registered yet" in verdict.reason
    assert "the baseline" in verdict.reason


def test_a_model_worse_than_the_champion_is_refused_though_it_beats_the_baseline(
    tmp_path: Path,
) -> None:
    champion = _bundle(tmp_path / "old", correct=[True] * 20, baseline_correct=[False] * 20)
    new = _bundle(
        tmp_path / "new", correct=[True] * 8 + [False] * 12, baseline_correct=[False] * 20
    )
    assert judge("baseline", new, champion, seed=0).accepted
    verdict = judge("champion", new, champion, seed=0)
    assert not verdict.accepted
    assert "Worse than the champion" in verdict.reason


def test_only_recordings_that_both_were_tested_on_count_matched_by_content(tmp_path: Path) -> None:
    # The champion fails on the ten that only it knows; on the common ten it is perfect.
    names = [f"{i:064x}" for i in range(30)]
    champion = _bundle(
        tmp_path / "old",
        correct=[False] * 10 + [True] * 10,
        baseline_correct=[False] * 20,
        sha256s=names[:20],
    )
    new = _bundle(
        tmp_path / "new",
        correct=[False] * 9 + [True] * 11,
        baseline_correct=[False] * 20,
        sha256s=names[10:],
    )
    verdict = judge("champion", new, champion, seed=0)
    assert verdict.figures["compared_recordings"] == 10
    assert verdict.figures["compared_accuracy"] == 1.0
    assert verdict.figures["accuracy"] == pytest.approx(0.1)
    assert not verdict.accepted


def test_too_few_common_recordings_refuse_and_say_what_to_do(tmp_path: Path) -> None:
    names = [f"{i:064x}" for i in range(31)]
    champion = _bundle(tmp_path / "old", sha256s=names[:20])
    new = _bundle(tmp_path / "new", sha256s=names[11:])
    verdict = judge("champion", new, champion, seed=0)
    assert not verdict.accepted
    assert "tested on 9 of this model's 20" in verdict.reason
    assert "gate baseline" in verdict.reason


def test_a_table_without_the_needed_columns_is_an_error_that_names_them(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path)
    import pandas as pd

    pd.DataFrame({"id": ["a"]}).to_parquet(bundle / "test_scores.parquet")
    with pytest.raises(DataError, match="baseline_correct"):
        judge("baseline", bundle, None, seed=0)


@pytest.mark.parametrize("better", [True, False])
def test_on_a_single_group_the_figures_alone_decide(tmp_path: Path, better: bool) -> None:
    bundle = _bundle(
        tmp_path,
        correct=[better] * 12,
        baseline_correct=[not better] * 12,
        groups=["one"] * 12,
        sha256s=[f"{i:064x}" for i in range(12)],
    )
    verdict = judge("baseline", bundle, None, seed=0)
    assert verdict.accepted == better
    assert "too few groups for an interval" in verdict.reason
    assert np.isfinite(list(verdict.figures.values())).all()


def test_the_interval_keeps_its_promise_on_repeated_draws() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        differences = rng.choice([-1.0, 0.0, 1.0], size=80, p=[0.2, 0.5, 0.3])
        groups = np.arange(80).astype(object)
        interval = paired_interval(differences, groups, seed=trial)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 0.1 <= interval.high
    assert 0.90 <= hits / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval_and_the_order_of_rows_does_not_matter() -> None:
    differences = np.array([1.0, 0.0, -1.0, 1.0, 0.0, 1.0])
    groups = np.array(list("aabbcc"), dtype=object)
    first = paired_interval(differences, groups, seed=3)
    assert paired_interval(differences, groups, seed=3) == first
    order = [5, 3, 1, 0, 2, 4]
    again = paired_interval(differences[order], groups[order], seed=3)
    assert (again.low, again.high) == pytest.approx((first.low, first.high))
