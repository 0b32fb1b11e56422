"""Scores of labelled soundscapes: against counts in plain Python, on made and on real tables."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from made_bundles import CODES, RATE, TONES_HZ, write_stages
from typer.testing import CliRunner

from birdsong.bundle import write_bundle
from birdsong.cli.main import app
from birdsong.errors import BirdsongError, ConfigError
from birdsong.frame_metrics import FrameLabels, read_frame_labels
from birdsong.soundscape_score import best_threshold, curve, measure, ways

REAL = Path(__file__).parents[2] / "../shared/data/birdclef2021_train_soundscape_labels.csv"
HEAD = "row_id,site,audio_id,seconds,birds\n"
Rows = list[tuple[str, str, set[str]]]


def made(rng: np.random.Generator, recordings: int = 8, frames: int = 30) -> FrameLabels:
    """Labels of three known and one unknown species, many frames without any."""
    birds = [
        frozenset(code for code in [*CODES, "unheard"] if rng.random() < 0.15)
        for _ in range(recordings * frames)
    ]
    ids = [str(number // frames) for number in range(len(birds))]
    seconds = [5 * (number % frames + 1) for number in range(len(birds))]
    names = [f"{one}_X_{second}" for one, second in zip(ids, seconds, strict=True)]
    return FrameLabels(tuple(names), tuple(ids), tuple(seconds), tuple(birds))


def noisy(rng: np.random.Generator, labels: FrameLabels, codes: list[str]) -> np.ndarray:
    """Scores that know something of the labels; on a grid, so that many are equal."""
    truth = labels.matrix(codes)
    scores = np.clip(rng.random(truth.shape) * 0.7 + 0.3 * truth, 0, 1)
    return (np.round(scores * 40) / 40).astype(np.float32)


def plain_row_f1(labels: FrameLabels, said: list[set[str]]) -> float:
    """BirdCLEF 2021's measure, as one would write it down from its page."""
    total = 0.0
    for birds, mine in zip(labels.birds, said, strict=True):
        truth, guess = set(birds) or {"nocall"}, mine or {"nocall"}
        right, wrong, missed = len(truth & guess), len(guess - truth), len(truth - guess)
        total += 2 * right / (2 * right + wrong + missed)
    return total / len(said)


def plain_average_precision(there: list[bool], scores: list[float]) -> float:
    """The mean over the positives of the precision among all that score at least as high."""
    precisions = []
    for mine, score in zip(there, scores, strict=True):
        if mine:
            above = [t for t, other in zip(there, scores, strict=True) if other >= score]
            precisions.append(sum(above) / len(above))
    return sum(precisions) / len(precisions)


def said_by(scores: np.ndarray, codes: list[str], threshold: float) -> list[set[str]]:
    return [
        {code for code, score in zip(codes, row, strict=True) if float(score) > threshold}
        for row in scores
    ]


def test_figures_are_those_of_a_count_in_plain_python() -> None:
    rng = np.random.default_rng(0)
    labels = made(rng)
    scores = noisy(rng, labels, CODES)
    found = measure(labels, scores, CODES, np.array([0.51, np.nan, 0.61]), threshold=0.63)
    by_way = {way["way"]: way for way in found["ways"]}
    assert list(by_way) == ["given", "chosen", "windows", "silence", "best"]
    said = said_by(scores, CODES, 0.63)
    assert by_way["given"]["row_f1"]["value"] == pytest.approx(plain_row_f1(labels, said))
    windows = [
        {code for code, one, limit in zip(CODES, row, (0.51, 9, 0.61), strict=True) if one > limit}
        for row in scores
    ]
    assert by_way["windows"]["row_f1"]["value"] == pytest.approx(plain_row_f1(labels, windows))
    silent = [set[str]()] * len(scores)
    assert by_way["silence"]["row_f1"]["value"] == pytest.approx(plain_row_f1(labels, silent))
    # Nothing is said, so of what is said no share can be right.
    assert by_way["silence"]["precision"]["value"] is None
    assert by_way["silence"]["recall"]["value"] == 0
    right = sum(len(birds & mine) for birds, mine in zip(labels.birds, said, strict=True))
    assert by_way["given"]["precision"]["value"] == pytest.approx(right / sum(map(len, said)))
    assert by_way["given"]["recall"]["value"] == pytest.approx(right / sum(map(len, labels.birds)))
    precisions = [
        plain_average_precision([code in birds for birds in labels.birds], scores[:, column])
        for column, code in enumerate(CODES)
    ]
    assert [one["average_precision"] for one in found["species"]] == pytest.approx(precisions)
    assert found["cmap"]["value"] == pytest.approx(np.mean(precisions))
    assert found["frames"]["unknown_species"] == {
        "unheard": sum("unheard" in birds for birds in labels.birds)
    }


def test_the_threshold_of_a_part_is_the_best_of_the_others_and_never_its_own() -> None:
    rng = np.random.default_rng(1)
    labels = made(rng, recordings=5)
    scores = noisy(rng, labels, CODES)
    chosen = next(way for way in ways(labels, scores, CODES, np.ones(3)) if way.name == "chosen")
    recordings = np.array(labels.recordings)
    seen = set()
    for name in sorted(set(recordings)):
        inside, others = recordings == name, np.flatnonzero(recordings != name)
        rest = FrameLabels(
            tuple(labels.row_ids[row] for row in others),
            tuple(labels.recordings[row] for row in others),
            tuple(labels.seconds[row] for row in others),
            tuple(labels.birds[row] for row in others),
        )
        threshold = best_threshold(rest, scores[others], CODES)
        assert (chosen.said[inside] == (scores[inside] > threshold)).all()
        seen.add(threshold)
    assert set(chosen.thresholds) == seen
    # With its own scores turned upside down a part is still decided by the others.
    turned = scores.copy()
    turned[recordings == "0"] = 1 - turned[recordings == "0"]
    again = next(way for way in ways(labels, turned, CODES, np.ones(3)) if way.name == "chosen")
    mine = recordings == "0"
    (threshold,) = {
        one for one in chosen.thresholds if (chosen.said[mine] == (scores[mine] > one)).all()
    } & {one for one in again.thresholds if (again.said[mine] == (turned[mine] > one)).all()}
    assert 0 <= threshold <= 1


def test_the_curve_is_the_measure_at_each_threshold() -> None:
    rng = np.random.default_rng(2)
    labels = made(rng, recordings=3)
    scores = noisy(rng, labels, CODES)
    scores[0] = 0
    points = curve(labels, scores, CODES)
    assert points[0][0] == scores.max()
    assert points[-1][0] == 0
    assert [point[0] for point in points] == sorted({point[0] for point in points}, reverse=True)
    for threshold, value in points:
        expected = plain_row_f1(labels, said_by(scores, CODES, threshold))
        assert value == pytest.approx(expected)
    # Whatever is between two of them decides as the lower one.
    best = max(value for _, value in points)
    for threshold in np.linspace(0, 1, 333):
        assert plain_row_f1(labels, said_by(scores, CODES, float(threshold))) <= best + 1e-9
    chosen = best_threshold(labels, scores, CODES)
    assert plain_row_f1(labels, said_by(scores, CODES, chosen)) == pytest.approx(best)
    shown = measure(labels, scores, CODES, np.ones(3))["curve"]
    for threshold, value in shown:
        expected = plain_row_f1(labels, said_by(scores, CODES, threshold))
        assert value == pytest.approx(expected)
    assert (shown[0][0], shown[-1][0]) == (0, 1)


def test_of_equally_good_thresholds_the_one_that_reports_least_is_taken() -> None:
    labels = FrameLabels(("1_X_5",), ("1",), (5,), (frozenset(),))
    assert best_threshold(labels, np.array([[0.2, 0.4]], np.float32), ["a", "b"]) == 1.0


def test_a_chosen_threshold_is_as_far_from_both_sides_as_it_can_be() -> None:
    labels = FrameLabels(("1_X_5", "1_X_10"), ("1", "1"), (5, 10), (frozenset({"a"}), frozenset()))
    scores = np.array([[0.9], [0.1]], np.float32)
    assert best_threshold(labels, scores, ["a"]) == pytest.approx(0.5)
    # Between neighbours among numbers there is nothing.
    scores[1] = np.nextafter(np.float32(0.9), np.float32(0))
    assert (scores > best_threshold(labels, scores, ["a"])).ravel().tolist() == [True, False]


def test_one_recording_alone_has_no_others_to_choose_on() -> None:
    labels = FrameLabels(("1_X_5", "1_X_10"), ("1", "1"), (5, 10), (frozenset({"a"}), frozenset()))
    found = measure(labels, np.array([[0.9], [0.1]], np.float32), ["a"], np.array([0.5]))
    assert [way["way"] for way in found["ways"]] == ["windows", "silence", "best"]
    assert found["ways"][0]["row_f1"] == {"value": 1.0, "low": None, "high": None}


def test_species_without_a_labelled_frame_have_no_average_precision() -> None:
    labels = FrameLabels(("1_X_5",), ("1",), (5,), (frozenset({"a"}),))
    found = measure(labels, np.array([[0.9, 0.8]], np.float32), ["a", "b"], np.full(2, 0.5), 0.5)
    a, b = found["species"]
    assert (a["average_precision"], a["recall"], a["precision"]) == (1, 1, 1)
    assert (b["average_precision"], b["recall"], b["precision"]) == (None, None, 0)
    assert (found["cmap"]["species"], found["cmap"]["species_without_positives"]) == (1, 1)


def test_a_threshold_beyond_scores_is_refused() -> None:
    labels = made(np.random.default_rng(0), 2, 2)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        ways(labels, np.zeros((4, 3), np.float32), CODES, np.ones(3), threshold=1.5)


@pytest.mark.real
@pytest.mark.skipif(not REAL.exists(), reason="BirdCLEF's frame labels are not beside this tree")
def test_on_birdclefs_own_table_the_figures_are_those_of_another_count() -> None:
    with REAL.open(newline="") as file:
        rows = [(row["row_id"], row["birds"].split()) for row in csv.DictReader(file)]
    labels = read_frame_labels(REAL)
    assert [name for name, _ in rows] == list(labels.row_ids)
    codes = sorted({bird for _, birds in rows for bird in birds} - {"nocall"})
    rng = np.random.default_rng(0)
    truth = labels.matrix(codes)
    scores = np.clip(0.5 * rng.random(truth.shape) ** 3 + 0.4 * truth * rng.random(), 0, 1)
    scores = scores.astype(np.float32)
    found = measure(labels, scores, codes, np.full(len(codes), 0.5), threshold=0.45)
    total, said = 0.0, said_by(scores, codes, 0.45)
    for (_, birds), mine in zip(rows, said, strict=True):
        guess = mine or {"nocall"}
        total += 2 * len(guess & set(birds)) / (len(guess) + len(set(birds)))
    assert found["ways"][0]["row_f1"]["value"] == pytest.approx(total / len(rows))
    assert found["frames"]["recordings"] == 20
    from sklearn.metrics import average_precision_score

    theirs = [average_precision_score(truth[:, c], scores[:, c]) for c in range(len(codes))]
    assert found["cmap"]["value"] == pytest.approx(np.mean(theirs), abs=1e-5)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    stages = write_stages(folder / "run", saved_model=True)
    write_bundle(folder / "bundle", stages.model, stages.thresholds, stages.evaluation)
    return folder / "bundle"


def soundscapes(folder: Path, recordings: int = 2) -> Path:
    """Soundscapes of tones and noise with the table of their labels."""
    rng = np.random.default_rng(0)
    time = np.arange(5 * RATE) / RATE
    lines = []
    (folder / "sounds").mkdir()
    for number in range(recordings):
        heard = [int(one) for one in rng.integers(-1, 3, 14)]
        parts = [
            0.02 * rng.standard_normal(len(time))
            + (0 if one < 0 else 0.4 * np.sin(2 * np.pi * TONES_HZ[one] * time))
            for one in heard
        ]
        soundfile.write(folder / "sounds" / f"{number}_XYZ.ogg", np.concatenate(parts), RATE)
        lines += [
            f"{number}_XYZ_{5 * i + 5},XYZ,{number},{5 * i + 5},"
            f"{'nocall' if one < 0 else CODES[one]}\n"
            for i, one in enumerate(heard)
        ]
    (folder / "labels.csv").write_text(HEAD + "".join(lines))
    return folder / "labels.csv"


def score(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["score", *map(str, arguments)], standalone_mode=False)


def test_one_command_scores_soundscapes_and_writes_table_json_and_page(
    bundle: Path, tmp_path: Path
) -> None:
    table = soundscapes(tmp_path)
    shutil.move(tmp_path / "sounds", tmp_path / "elsewhere")
    out, page = tmp_path / "made" / "score.json", tmp_path / "made" / "score.html"
    done = score(
        *(table, "--audio", tmp_path / "elsewhere", "--bundle", bundle),
        *("--out", out, "--html", page),
    )
    assert done.exception is None
    found = json.loads(out.read_text())
    # Tones are all that there is: every frame is right, whichever threshold is chosen.
    assert found["ways"][0]["way"] == "chosen"
    assert found["ways"][0]["row_f1"]["value"] == 1
    assert found["cmap"]["value"] == 1
    assert found["frames"]["count"] == 28
    assert {one["code"]: one["name"] for one in found["species"]}["aldfly"] == "Alder Flycatcher"
    assert "cmAP 1.000" in done.output
    assert "28 labelled frames of 5 s in 2 recordings" in done.output
    assert "promise a rate for windows of up to 60 s, nothing for frames" in done.output
    text = page.read_text()
    assert "Alder Flycatcher" in text
    assert "Barn | Swallow" in text
    assert "<svg" in text
    again = score(table, "--audio", tmp_path / "elsewhere", "--bundle", bundle, "--out", out)
    assert isinstance(again.exception, ConfigError)
    assert "is there already" in str(again.exception)


def test_a_dry_run_looks_for_the_recordings_and_listens_to_nothing(tmp_path: Path) -> None:
    table = soundscapes(tmp_path, 1)
    done = score(table, "--bundle", tmp_path / "absent", "--dry-run")
    assert done.exception is None
    assert "14 labelled windows in 1 recording" in done.output
    (tmp_path / "sounds" / "0_XYZ.ogg").unlink()
    done = score(table, "--bundle", tmp_path / "absent", "--dry-run")
    assert isinstance(done.exception, BirdsongError)
    assert "'0' needs one sound file" in str(done.exception)
