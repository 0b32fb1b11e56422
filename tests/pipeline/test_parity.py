"""Parity: the same bytes score the same in training's evaluation, on the server and in a batch.

In every format and for every runtime that was admitted for the trained demo model and runs here.
The evaluation is ingest, split and featurize of a folder of the files, and `score_windows` of what
they store.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import made_recordings
import numpy as np
import pytest
import soundfile
from made_demo import DemoRun
from made_servers import served
from typer.testing import CliRunner

from birdsong import demo_data, features, predict, recordings, runtimes, splits
from birdsong.bundle import GOLDEN, read_bundle
from birdsong.cli import main
from birdsong.config import FeatureConfig, IngestConfig, SplitConfig
from birdsong.features import FeatureSet
from birdsong.golden import read_golden
from birdsong.journal import Journal
from birdsong.runs import record
from birdsong.scoring import TOLERANCE, Scorer, load_scorer, score_windows

REAL = Path(__file__).parents[2] / "../shared/data/birds_real/train_short_audio"

INGESTED = ("wav", "flac", "ogg", "mp3")
"""Formats that ingest takes; browsers' formats come to the server and to batches alone."""

SAME = {
    "tensorflow": TOLERANCE,
    "onnx": TOLERANCE,
    "openvino-fp32": TOLERANCE,
    "openvino-bf16": runtimes.RUNTIMES["openvino-bf16"].tolerance,
    "openvino-int8": runtimes.RUNTIMES["openvino-int8"].tolerance,
}
"""Largest difference of a score between two ways, which make batches of other sizes: with 16 or 8
bits a last bit may tip over."""

SIX_DIGITS = 5.1e-7
"""What batch prediction's tables round to."""

Scores = dict[str, list[np.ndarray]]
"""Of each file by its name: each window's scores, in the model's order of species."""


@dataclass
class Sounds:
    """Files to score, and what featurize stored of those that it takes."""

    bundle: Path
    codes: list[str]
    files: dict[str, bytes]
    folder: Path
    stored: list[Path]


@pytest.fixture(scope="module")
def sounds(demo_run: DemoRun, tmp_path_factory: pytest.TempPathFactory) -> Sounds:
    assert demo_run.exit_code == 0, demo_run.output
    found = record.find(demo_run.runs, "latest")
    bundle = Path(found.steps["register"].outputs["version"]["path"]) / "bundle"
    codes = read_bundle(bundle).codes
    root = tmp_path_factory.mktemp("parity")
    files: dict[str, bytes] = {}
    waves: dict[str, tuple[np.ndarray, int]] = {}
    # Of another seed than the recordings that the model was trained on.
    for row in demo_data.catalogue(f"demo:?species={len(codes)}&recordings=1&seed=7"):
        sound = io.BytesIO(demo_data.read(row["uri"]))
        waves[f"{row['primary_label']}/demo"] = soundfile.read(sound, dtype="float32")
    for golden in read_golden(bundle / GOLDEN, codes):
        files[f"{golden.label}/golden_{golden.file.stem}.flac"] = golden.file.read_bytes()
    real = sorted(REAL.glob("*/*"))[:: max(1, len(list(REAL.glob("*/*"))) // 3)]
    for number, file in enumerate(real):
        files[f"{codes[number % len(codes)]}/real_{file.name}"] = file.read_bytes()
    for number, (name, (wave, rate)) in enumerate(waves.items()):
        for form in (*INGESTED, "opus", *made_recordings.BROWSER) if number == 0 else INGESTED:
            at = 48_000 if form == "opus" else rate
            files[f"{name}.{form}"] = made_recordings.encoded(wave, at, form)
    for name, data in files.items():
        (root / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "files" / name).write_bytes(data)
    ingested = root / "ingested"
    for name, data in files.items():
        if name.rpartition(".")[2] in INGESTED:
            (ingested / name).parent.mkdir(parents=True, exist_ok=True)
            (ingested / name).write_bytes(data)
    config = IngestConfig(source=str(ingested), max_bad_share=0)
    recordings.ingest(str(root / "recordings"), str(root / "audit.html"), config)
    splits.split(root / "recordings", root / "splits", root / "leaks.html", SplitConfig())
    stored = [root / part for part in ("development", "calibration", "test")]
    features.featurize(
        root / "recordings",
        root / "splits",
        *stored,
        root / "preview.html",
        FeatureConfig(),
    )
    return Sounds(bundle, codes, files, root / "files", stored)


@pytest.fixture(scope="module", params=list(runtimes.RUNTIMES))
def scorer(request: pytest.FixtureRequest, sounds: Sounds) -> Scorer:
    if request.param not in runtimes.admitted(sounds.bundle):
        pytest.skip("not admitted for the demo model")
    if lacks := runtimes.lacking(request.param):
        pytest.skip(lacks)
    return load_scorer(sounds.bundle, request.param)


@pytest.fixture(scope="module")
def evaluated(sounds: Sounds, scorer: Scorer) -> Scores:
    """As the evaluation scores what featurize stored."""
    found: Scores = {}
    for place in sounds.stored:
        scored = score_windows(scorer, FeatureSet(place))
        for name, scores in zip(scored.index["id"], scored.scores, strict=True):
            found.setdefault(str(name), []).append(scores)
    return found


@pytest.fixture(scope="module")
def answered(sounds: Sounds, scorer: Scorer) -> Scores:
    """As the server answers the bytes."""
    found: Scores = {}
    with served(sounds.bundle, scorer) as client:
        for name, data in sounds.files.items():
            response = client.post("/invocations?scores=all", content=data)
            assert response.status_code == 200, response.text
            found[name] = [
                np.array([window["scores"][code] for code in sounds.codes])
                for window in response.json()["windows"]
            ]
    return found


@pytest.fixture(scope="module")
def predicted(sounds: Sounds, scorer: Scorer, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """As batch prediction writes them, every species from probability 0 on."""
    out = tmp_path_factory.mktemp("batch") / "found.csv"
    bundle = read_bundle(sounds.bundle, scorer.runtime)
    rule = predict.Rule(least_probability=0.0)
    outcome = predict.predict([str(sounds.folder)], out, bundle, lambda: scorer, rule)
    assert outcome.problems == []
    windows: dict[str, dict[float, dict[str, float]]] = {}
    with out.open(newline="") as file:
        for row in csv.DictReader(file):
            name = row["file"].removeprefix(f"{sounds.folder}/")
            window = windows.setdefault(name, {}).setdefault(float(row["window_start_seconds"]), {})
            window[row["code"]] = float(row["score"])
    return {
        name: [
            np.array([scores[code] for code in sounds.codes]) for _, scores in sorted(mine.items())
        ]
        for name, mine in windows.items()
    }


def test_a_batch_that_was_killed_goes_on_with_its_runtime_whatever_is_the_fastest_now(
    sounds: Sounds, scorer: Scorer, tmp_path: Path
) -> None:
    out, rule = tmp_path / "found.csv", predict.Rule()
    bundle = read_bundle(sounds.bundle, scorer.runtime)
    killed = predict._journal_of(out, bundle.sha256, scorer.runtime, rule)
    [(first, file), *_] = predict.find([str(sounds.folder)])
    with Journal(killed) as journal:
        journal.add(first, file, {"rows": [], "seconds": 1.0})
    command = ["predict", str(sounds.folder), "--out", str(out), "--bundle", str(sounds.bundle)]
    done = CliRunner().invoke(main.app, command)
    assert done.exit_code == 0, done.output
    assert "1 recordings were done by an earlier try." in done.output
    assert not killed.exists()


def largest(one: Scores, other: Scores, names: list[str]) -> float:
    found = 0.0
    for name in names:
        assert len(one[name]) == len(other[name]), name
        for mine, theirs in zip(one[name], other[name], strict=True):
            found = max(found, float(np.abs(mine - theirs).max()))
    return found


def test_server_and_batch_score_every_format_the_same(
    sounds: Sounds, scorer: Scorer, answered: Scores, predicted: Scores
) -> None:
    assert set(answered) == set(predicted) == set(sounds.files)
    difference = largest(answered, predicted, list(sounds.files))
    print(f"{scorer.runtime}: server and batch differ by at most {difference:.1e}")
    assert difference <= SAME[scorer.runtime] + SIX_DIGITS


def test_evaluation_and_server_score_what_can_be_ingested_the_same(
    sounds: Sounds, scorer: Scorer, evaluated: Scores, answered: Scores
) -> None:
    names = [name for name in sounds.files if name.rpartition(".")[2] in INGESTED]
    assert {name.rpartition(".")[2] for name in names} >= set(INGESTED)
    assert set(evaluated) == set(names)
    # Features keep a minute by default, the server hears all.
    heard = {name: answered[name][: len(evaluated[name])] for name in names}
    difference = largest(evaluated, heard, names)
    print(f"{scorer.runtime}: evaluation and server differ by at most {difference:.1e}")
    assert difference <= SAME[scorer.runtime]


def test_golden_recordings_score_as_stored(
    sounds: Sounds, scorer: Scorer, answered: Scores, predicted: Scores
) -> None:
    kept = read_golden(sounds.bundle / GOLDEN, sounds.codes, scorer.runtime)
    assert kept
    for golden in kept:
        name = f"{golden.label}/golden_{golden.file.stem}.flac"
        stored = np.array([golden.scores[code] for code in sounds.codes])
        for scores in (answered[name], predicted[name]):
            assert np.abs(scores[0] - stored).max() <= SAME[scorer.runtime] + SIX_DIGITS


def test_what_is_the_same_sound_in_two_formats_scores_the_same(
    sounds: Sounds, scorer: Scorer, answered: Scores
) -> None:
    """WAV and FLAC hold the same 16 bits, so not even the last bit may differ."""
    for code in sounds.codes:
        (wav,), (flac,) = answered[f"{code}/demo.wav"], answered[f"{code}/demo.flac"]
        assert np.abs(wav - flac).max() <= SAME[scorer.runtime]


def test_the_model_hears_something_in_these_sounds(answered: Scores, scorer: Scorer) -> None:
    """Else all scores alike would pass for parity."""
    scores = np.concatenate([window for windows in answered.values() for window in windows])
    assert scores.max() - scores.min() > 0.1
