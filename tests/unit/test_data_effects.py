"""What training had of each species, and whether it went with the scores."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from birdsong.data_effects import FEWEST_SPECIES, count_training, effects, sentences


def _row(name: str, label: str, part: str, group: str, rating: float | None) -> dict[str, object]:
    return {
        "id": name,
        "label": label,
        "part": part,
        "group": group,
        "rating": rating,
        "samples": 22_050 * 30,
    }


def _species(auc: list[float], recordings: list[float]) -> dict[str, dict[str, object]]:
    return {
        f"s{number}": {
            "network_auc": area,
            "training": {"recordings": count, "minutes": 1.0, "groups": count, "rating": None},
        }
        for number, (area, count) in enumerate(zip(auc, recordings, strict=True))
    }


def test_recordings_minutes_groups_and_ratings_of_the_train_part_are_counted() -> None:
    rows = [
        _row("a1", "a", "train", "x", 4.0),
        _row("a1", "a", "train", "x", 4.0),
        _row("a2", "a", "train", "x", 0.0),
        _row("a3", "a", "train", "y", 5.0),
        _row("a4", "a", "validation", "z", 1.0),
        _row("b1", "b", "train", "x", float("nan")),
    ]
    found = count_training(rows, ["a", "b", "c"], 22_050)
    # 0 stands for not rated, and a recording of two windows counts once.
    assert found["a"] == {"recordings": 3, "minutes": 2.0, "groups": 2, "rating": 4.5}
    assert found["b"] == {"recordings": 1, "minutes": 0.5, "groups": 1, "rating": None}
    assert found["c"] == {"recordings": 0, "minutes": 0.0, "groups": 0, "rating": None}


def test_the_correlation_is_spearman_s_with_ties_and_has_an_interval() -> None:
    rng = np.random.default_rng(0)
    recordings = rng.integers(1, 6, 40).astype(float)
    auc = np.clip(0.6 + 0.06 * recordings + 0.05 * rng.standard_normal(40), 0, 1)
    found = effects(_species(auc.tolist(), recordings.tolist()))
    assert found["recordings"]["value"] == pytest.approx(spearmanr(recordings, auc).statistic)
    assert 0 < found["recordings"]["low"] < found["recordings"]["value"]
    assert found["recordings"]["value"] < found["recordings"]["high"] < 1
    assert found["recordings"]["species"] == 40
    # All alike, and none known.
    assert found["minutes"]["value"] is None
    assert found["rating"] == {"value": None, "low": None, "high": None, "species": 0}
    told = " ".join(sentences(_species(auc.tolist(), recordings.tolist())))
    assert "more training recordings are told apart better" in told


def test_no_relation_is_told_as_none_and_few_species_as_too_few() -> None:
    rng = np.random.default_rng(1)
    auc, recordings = rng.random(30).tolist(), rng.integers(2, 9, 30).tolist()
    assert "no clear relation" in " ".join(sentences(_species(auc, recordings)))
    few = _species(auc[: FEWEST_SPECIES - 1], recordings[: FEWEST_SPECIES - 1])
    assert effects(few)["recordings"]["value"] is None
    assert len(sentences(few)) == 1
    assert "nothing can be said" in sentences(few)[0]


def test_the_interval_covers_no_relation_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        found = effects(_species(rng.random(20).tolist(), rng.random(20).tolist()))["recordings"]
        covered += found["low"] <= 0 <= found["high"]
    assert covered >= 276
