import json
from pathlib import Path

import numpy as np
import pytest
from made_features import Take, song, write_features

from birdsong import baseline
from birdsong.errors import DataError


def _takes(*labels: str, seed: int = 0) -> list[Take]:
    pitch = {"a": 900.0, "b": 2500.0, "c": 5000.0}
    return [
        Take(label, [song(pitch[label], 3 + number // 3 % 3, seed=seed + number)])
        for number, label in enumerate(labels)
    ]


@pytest.mark.parametrize("recipe", sorted(baseline.RECIPES))
def test_the_baseline_tells_tones_apart_that_it_has_not_heard(tmp_path: Path, recipe: str) -> None:
    learnt = write_features(tmp_path / "learnt", ["c", "a", "b"], _takes(*"abcabcabcabc"))
    fresh = write_features(tmp_path / "fresh", ["c", "a", "b"], _takes(*"bcaacb", seed=100))
    fitted = baseline.fit(learnt, range(len(learnt)), recipe)
    said = fitted.scores(fresh).argmax(axis=1)
    assert [learnt.codes[best] for best in said] == list("bcaacb")


def test_a_window_scores_the_same_alone_and_among_others(tmp_path: Path) -> None:
    features = write_features(tmp_path / "features", ["a", "b", "c"], _takes(*"abcabcab"))
    fitted = baseline.fit(features, [0, 1, 2])
    together = fitted.scores(features)
    for row in range(len(features)):
        assert np.array_equal(fitted.window(features.waveform(row)), together[row])
    assert np.array_equal(fitted.scores(features, [5, 2]), together[[5, 2]])


def test_what_is_saved_scores_as_before_and_needs_no_pickle(tmp_path: Path) -> None:
    features = write_features(tmp_path / "features", ["a", "b"], _takes(*"abab"))
    fitted = baseline.fit(features, range(4))
    fitted.save(tmp_path)
    again = baseline.load(tmp_path)
    assert np.array_equal(again.scores(features), fitted.scores(features))
    with np.load(tmp_path / baseline.NPZ, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)


def test_two_fits_on_the_same_windows_are_the_same(tmp_path: Path) -> None:
    features = write_features(tmp_path / "features", ["a", "b"], _takes(*"abab"))
    one, two = (baseline.fit(features, range(4)) for _ in range(2))
    assert np.array_equal(one.coefficients, two.coefficients)


def test_a_single_species_scores_one(tmp_path: Path) -> None:
    features = write_features(tmp_path / "features", ["a"], _takes(*"aaa"))
    assert baseline.fit(features, range(3)).scores(features).tolist() == [[1.0]] * 3


def test_a_species_with_one_recording_is_learnt_and_one_with_none_never_said(
    tmp_path: Path,
) -> None:
    features = write_features(tmp_path / "features", ["a", "b", "c"], _takes(*"aaab"))
    scores = baseline.fit(features, range(4)).scores(features)
    assert scores.argmax(axis=1).tolist() == [0, 0, 0, 1]
    assert (scores[:, 2] == 0).all()
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-6)


def test_identical_windows_of_two_species_score_alike(tmp_path: Path) -> None:
    same = song(2000, 4)
    takes = [Take(label, [same]) for label in "abab"]
    features = write_features(tmp_path / "features", ["a", "b"], takes)
    scores = baseline.fit(features, range(4)).scores(features)
    assert np.allclose(scores, 0.5, atol=1e-3)


def test_a_recording_counts_once_however_many_windows_it_has(tmp_path: Path) -> None:
    short, long = song(900, 3), song(2500, 3, seed=1)
    once = [Take("a", [short]), Take("b", [long])]
    often = [Take("a", [short] * 5), Take("b", [long])]
    one = write_features(tmp_path / "one", ["a", "b"], once)
    many = write_features(tmp_path / "many", ["a", "b"], often)
    first = baseline.fit(one, range(2)).scores(one)
    second = baseline.fit(many, range(6)).scores(many)
    assert np.allclose(first[0], second[0], atol=1e-4)


@pytest.mark.parametrize("samples", [1, 2, 1023, 1024, 1025, 110_250])
def test_statistics_of_any_length_and_of_silence_are_finite(samples: int) -> None:
    for window in (np.zeros(samples, np.int16), np.full(samples, 32_767, np.int16)):
        found = baseline.statistics(window, 22_050, "rich")
        assert found.shape == (len(baseline.feature_names("rich")),)
        assert np.isfinite(found).all()


def test_nothing_to_learn_from_is_said_so(tmp_path: Path) -> None:
    features = write_features(tmp_path / "features", ["a"], _takes("a"))
    with pytest.raises(DataError, match="no windows to learn from"):
        baseline.fit(features, [])


def test_a_label_without_a_species_is_named(tmp_path: Path) -> None:
    features = write_features(tmp_path / "features", ["a"], _takes("a", "b"))
    with pytest.raises(DataError, match=r"classes\.json: b"):
        baseline.fit(features, [0, 1])


def test_a_broken_file_is_one_clear_error(tmp_path: Path) -> None:
    features = write_features(tmp_path / "features", ["a", "b"], _takes(*"ab"))
    baseline.fit(features, [0, 1]).save(tmp_path)
    (tmp_path / baseline.NPZ).write_bytes(b"not a zip")
    with pytest.raises(DataError, match="Train the model again"):
        baseline.load(tmp_path)


def test_a_baseline_of_another_definition_is_refused_instead_of_scoring_otherwise(
    tmp_path: Path,
) -> None:
    features = write_features(tmp_path / "features", ["a", "b"], _takes(*"ab"))
    baseline.fit(features, [0, 1]).save(tmp_path)
    about = json.loads((tmp_path / baseline.JSON).read_text())
    (tmp_path / baseline.JSON).write_text(json.dumps({**about, "definition": 1}))
    with pytest.raises(DataError, match="defines its features otherwise"):
        baseline.load(tmp_path)
