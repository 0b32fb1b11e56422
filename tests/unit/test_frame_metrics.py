"""Figures per labelled frame, on made tables and on BirdCLEF's own."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from birdsong.errors import DataError
from birdsong.frame_metrics import FrameLabels, frame_figures, read_frame_labels

REAL = Path(__file__).parents[2] / "../shared/data/birdclef2021_train_soundscape_labels.csv"
HEAD = "row_id,site,audio_id,seconds,birds\n"
CODES = ["a", "b", "c"]


def _labels(*birds: str) -> FrameLabels:
    return FrameLabels(
        tuple(f"{number}_X_5" for number in range(len(birds))),
        tuple(f"{number // 2}" for number in range(len(birds))),
        (5,) * len(birds),
        tuple(frozenset(one.split()) - {"nocall"} for one in birds),
    )


def _values(labels: FrameLabels, scores: list[list[float]]) -> dict[str, float | None]:
    found = frame_figures(labels, np.array(scores, np.float32), CODES, np.full(3, 0.5))
    return {name: interval.value for name, interval in found.items()}


def test_each_frame_counts_by_what_it_shares_with_what_is_said() -> None:
    labels = _labels("a b", "nocall", "nocall", "c")
    found = _values(labels, [[0.9, 0.1, 0.1], [0.1] * 3, [0.1, 0.1, 0.8], [0.1] * 3])
    # 2 of 3; nocall right; nocall missed; c taken for nocall.
    assert found["row_f1"] == pytest.approx((2 / 3 + 1 + 0 + 0) / 4)
    # One hit, a; said a, c; labelled a, b, c.
    assert found["f1"] == pytest.approx(2 * 1 / (2 + 3))


def test_a_species_that_the_network_does_not_know_is_missed_and_no_frame_without_birds() -> None:
    found = _values(_labels("x", "a x"), [[0.1] * 3, [0.9, 0.1, 0.1]])
    assert found["row_f1"] == pytest.approx((0 + 2 / 3) / 2)
    assert found["f1"] == pytest.approx(2 / (1 + 3))


def test_a_score_at_the_threshold_and_a_species_without_one_are_not_said() -> None:
    scores = np.array([[0.5, 0.9, 0.1]], np.float32)
    cuts = np.array([0.5, np.nan, 0.5])
    found = frame_figures(_labels("nocall"), scores, CODES, cuts)
    assert found["row_f1"].value == 1
    assert found["row_f1"].low is None


def test_figures_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((300, 3)) < [0.3, 0.1, 0.02]
    labels = _labels(*(" ".join(np.array(CODES)[row]) if row.any() else "nocall" for row in truth))
    scores = np.clip(rng.random((300, 3)) * 0.8 + 0.2 * truth, 0, 1).astype(np.float32)
    found = frame_figures(labels, scores, CODES, np.full(3, 0.5))
    said = scores > 0.5
    silent = [~rows.any(axis=1, keepdims=True) for rows in (truth, said)]
    theirs = f1_score(
        np.hstack([truth, silent[0]]), np.hstack([said, silent[1]]), average="samples"
    )
    assert found["row_f1"].value == pytest.approx(theirs)
    assert found["f1"].value == pytest.approx(f1_score(truth, said, average="micro"))
    precision = np.mean([average_precision_score(truth[:, c], scores[:, c]) for c in range(3)])
    assert found["cmap"].value == pytest.approx(precision, abs=1e-5)
    for interval in found.values():
        assert interval.low is not None
        assert interval.high is not None
        assert interval.value is not None
        assert interval.low < interval.value < interval.high


def test_without_frames_there_are_no_figures() -> None:
    found = frame_figures(_labels(), np.zeros((0, 3), np.float32), CODES, np.full(3, 0.5))
    assert all(interval.value is None for interval in found.values())


def test_scores_of_other_frames_are_refused() -> None:
    with pytest.raises(DataError, match=r"2 frames and 3 species"):
        frame_figures(_labels("a", "b"), np.zeros((3, 3), np.float32), CODES, np.full(3, 0.5))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("row_id,birds\n", "no column site, audio_id, seconds"),
        (HEAD + "1_X_5,X,1,5,a\n1_X_5,X,1,5,b\n", "line 3: '1_X_5' stands in line 2 too"),
        (HEAD + "1_X_5,X,1,5,\n", "line 2: '1_X_5' has no label"),
        (HEAD + "1_X_5,X,1,5,nocall a\n", "nocall and a species at once"),
        (HEAD + "1_X_5,X,1,five,a\n", "'five' is not a whole number"),
        ("", "cannot be read"),
    ],
    ids=["columns", "twice", "empty", "both", "seconds", "nothing"],
)
def test_a_table_that_is_wrong_names_the_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=told):
        read_frame_labels(tmp_path / "labels.csv")


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.csv"):
        read_frame_labels(tmp_path / "absent.csv")


@pytest.mark.real
@pytest.mark.skipif(not REAL.exists(), reason="BirdCLEF's frame labels are not beside this tree")
def test_the_frames_of_birdclef_2021_are_read_and_silence_scores_as_many_as_are_nocall() -> None:
    labels = read_frame_labels(REAL)
    assert len(labels.birds) == 2400
    assert len(set(labels.recordings)) == 20
    codes = sorted(set().union(*labels.birds))
    truth = labels.matrix(codes)
    nocall = (truth.sum(axis=1) == 0).mean()
    assert nocall == pytest.approx(1529 / 2400)
    cuts = np.full(len(codes), 0.5)
    silent = frame_figures(labels, np.zeros(truth.shape, np.float32), codes, cuts)
    assert silent["row_f1"].value == pytest.approx(nocall)
    assert silent["f1"].value == 0
    perfect = frame_figures(labels, truth.astype(np.float32), codes, cuts)
    assert [one.value for one in perfect.values()] == pytest.approx([1, 1, 1])
