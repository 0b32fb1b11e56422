import json
from dataclasses import dataclass
from pathlib import Path

import made_bundles
import numpy as np
import pandas as pd
import pytest
import soundfile
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Metrics, Model
from made_bundles import CODES, TONES_HZ
from made_features import Take, exported_model, song, write_features, write_model

from birdsong import artifacts, audio, baseline, runtimes
from birdsong.config import FeatureConfig
from birdsong.errors import DataError
from birdsong.evaluation import pick_golden
from birdsong.features import FeatureSet
from birdsong.golden import read_golden
from birdsong.scoring import Scorer, score_windows
from components.evaluate_threshold import evaluate_threshold


@dataclass
class Places:
    """Inputs and outputs of one run of the stage."""

    model: Path
    calibration: Path
    test: Path
    out: Path

    def run(self, calibration: Path | None = None, test: Path | None = None, **settings: object):  # type: ignore[no-untyped-def]
        """Call the component as the runner does; gives its two metrics artifacts."""
        curves = ClassificationMetrics(uri=str(self.out / "curves"))
        figures = Metrics(uri=str(self.out / "metrics"))
        evaluate_threshold.python_func(
            model=Model(uri=str(self.model)),
            calibration=Dataset(uri=str(calibration or self.calibration)),
            test=Dataset(uri=str(test or self.test)),
            thresholds=Artifact(uri=str(self.out / "thresholds")),
            evaluation=Artifact(uri=str(self.out / "evaluation")),
            report=HTML(uri=str(self.out / "report.html")),
            curves=curves,
            metrics=figures,
            # 40 windows of 30 groups without a species promise 5 % on average, not for sure.
            **{"target_fpr": 0.05, "confidence": 0.0, "golden": 4, **settings},
        )
        return figures.metadata, curves.metadata


def _takes(count: int, seed: int, wrong: int = 0) -> list[Take]:
    """Tones of each species in turn; of the first `wrong` ones the label is the next species."""
    takes = []
    for number in range(count):
        species = number % 3
        label = CODES[(species + 1) % 3] if number < wrong else CODES[species]
        seconds = 0.5 + (number % 7)
        window = song(TONES_HZ[species], seconds, seed=seed + number, noise=0.3)
        takes.append(Take(label, [window], group=f"author {number // 2}"))
    return takes


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("inputs")
    learnt = write_features(place / "development", CODES, _takes(12, 0))
    plain = baseline.fit(learnt, range(12))
    write_model(place / "model", CODES, made_bundles._write_graph, plain)
    write_features(place / "calibration", CODES, _takes(60, 100))
    write_features(place / "test", CODES, _takes(24, 1000, wrong=3))
    return place


@pytest.fixture
def places(inputs: Path, tmp_path: Path) -> Places:
    return Places(inputs / "model", inputs / "calibration", inputs / "test", tmp_path)


def test_the_stage_writes_what_register_and_deploy_read(places: Places) -> None:
    figures, curves = places.run()
    thresholds = artifacts.verify(places.out / "thresholds")
    evaluation = artifacts.verify(places.out / "evaluation")
    assert (thresholds.kind, evaluation.kind) == ("thresholds", "evaluation")
    model = artifacts.read_spec(places.model).sha256
    assert thresholds.inputs["model"] == evaluation.inputs["model"] == model

    chosen = json.loads((places.out / "thresholds/thresholds.json").read_text())
    assert list(chosen["species"]) == CODES
    assert {entry["how"] for entry in chosen["species"].values()} == {"own"}
    assert json.loads((places.out / "thresholds/calibration.json").read_text())["temperature"] > 0

    told = json.loads((places.out / "evaluation/metrics.json").read_text())
    assert told["network"]["accuracy"]["value"] == pytest.approx(21 / 24)
    assert told["network"]["accuracy"]["low"] < 21 / 24 < told["network"]["accuracy"]["high"]
    assert told["counts"]["test_recordings"] == 24
    assert told["counts"]["test_groups"] == 12

    scores = pd.read_parquet(places.out / "evaluation/test_scores.parquet")
    assert {"id", "sha256", "group", "label", "secondary", "correct", "baseline_correct", "top"} < (
        set(scores.columns)
    )
    assert scores["correct"].mean() == told["network"]["accuracy"]["value"]
    assert np.stack(scores["scores"]).shape == (24, 3)
    assert len(pd.read_parquet(places.out / "evaluation/calibration_scores.parquet")) == 60

    assert all(np.isfinite(value) for value in figures.values())
    assert figures["accuracy"] == pytest.approx(21 / 24)
    assert json.dumps(curves, allow_nan=False)
    assert len(curves["confidenceMetrics"]) <= 200
    assert "Bird" in (places.out / "report.html").read_text()


def test_each_admitted_runtime_gets_thresholds_and_figures_from_its_own_scores(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("runtimes")
    development = write_features(place / "plain", CODES, _takes(12, 0))
    plain = baseline.fit(development, range(12))
    model = exported_model(place / "model", CODES, plain)
    refused = runtimes.table(model)
    refused["onnx"] |= {"admitted": False, "reason": "Its top species differs."}
    artifacts.write_json(model / runtimes.TABLE, {"runtimes": refused})
    write_features(place / "calibration", CODES, _takes(60, 100))
    write_features(place / "test", CODES, _takes(24, 1000))
    places = Places(model, place / "calibration", place / "test", place / "out")
    places.run()

    table = runtimes.table(places.out / "evaluation")
    usable = [name for name in runtimes.admitted(model) if not runtimes.lacking(name)]
    assert "openvino-fp32" in usable
    assert [name for name in table if table[name]["admitted"]] == ["tensorflow", *usable[:-1]]
    assert table["onnx"]["reason"] == "Its top species differs."
    assert not (places.out / "thresholds/runtimes/onnx").exists()
    for name in usable[:-1]:
        chosen, fitted = (
            artifacts.read_json(places.out / "thresholds/runtimes" / name / f"{file}.json")
            for file in ("thresholds", "calibration")
        )
        scorer = Scorer(model, name)
        scores = score_windows(scorer, FeatureSet(places.calibration))
        labels = scores.index["label"].to_numpy()
        # The threshold is one of the runtime's own scores, and keeps the rate on them.
        for column, code in enumerate(CODES):
            threshold = chosen["species"][code]["threshold"]
            assert np.abs(scores.scores[:, column] - threshold).min() < 1e-6
            without = scores.scores[labels != code, column]
            assert (without > threshold + 1e-6).mean() <= 0.05
        assert fitted["temperature"] > 0
        assert set(table[name]["test"]) == {"accuracy", "false_positive_rate", "recall", "ece"}
        assert table[name]["tolerance"] == runtimes.RUNTIMES[name].tolerance
        for one in read_golden(places.out / "evaluation/golden", CODES, name):
            (window,) = audio.windows(one.file, FeatureConfig())
            stored = [one.scores[code] for code in CODES]
            assert np.abs(scorer.window(window.samples) - stored).max() < 1e-5
    reference = artifacts.read_json(places.out / "evaluation/metrics.json")
    figures = table["tensorflow"]["test"]
    assert figures["accuracy"] == pytest.approx(reference["network"]["accuracy"]["value"])
    for name in ("false_positive_rate", "recall"):
        assert figures[name] == pytest.approx(reference["false_positives"][name]["value"])
    # In float32 nothing changes but the last bits.
    assert table["openvino-fp32"]["test"]["recall"] == pytest.approx(figures["recall"], abs=0.05)
    assert "openvino-fp32" in (places.out / "report.html").read_text()


def test_a_promise_that_the_recordings_cannot_keep_is_not_made(places: Places) -> None:
    figures, _ = places.run(confidence=0.95)
    chosen = json.loads((places.out / "thresholds/thresholds.json").read_text())
    assert chosen["cannot_be_promised"] == CODES
    assert figures["thresholds_pooled"] == 3
    entry = chosen["species"][CODES[0]]
    assert entry["threshold"] == chosen["pooled"]["threshold"]
    assert entry["smallest_rate"] == pytest.approx(1 - 0.05 ** (1 / entry["groups"]))
    report = (places.out / "report.html").read_text()
    assert "promises it for none of them" in report
    assert f"could promise {100 * entry['smallest_rate']:.1f} %" in report


def test_labelled_frames_are_measured_where_a_table_of_them_is_given(
    places: Places, tmp_path: Path
) -> None:
    places.run()
    told = json.loads((places.out / "evaluation/metrics.json").read_text())
    assert "per_frame" not in told
    tone = song(TONES_HZ[1], 10)
    soundfile.write(tmp_path / "9.flac", tone, FeatureConfig().sample_rate)
    (tmp_path / "labels.csv").write_text(
        f"row_id,site,audio_id,seconds,birds\n9_X_5,X,9,5,{CODES[1]}\n9_X_10,X,9,10,{CODES[0]}\n"
    )
    places.run(frame_labels=str(tmp_path / "labels.csv"))
    told = json.loads((places.out / "evaluation/metrics.json").read_text())
    assert told["per_frame"]["frames"] == 2
    assert told["per_frame"]["network"]["row_f1"]["value"] == pytest.approx(0.5)
    page = (places.out / "report.html").read_text()
    assert "Frame by frame" in page
    assert "2 labelled frames of 5 s in 1 soundscape" in page


def test_golden_recordings_decode_and_score_as_they_are_stored(places: Places) -> None:
    places.run()
    golden = read_golden(places.out / "evaluation/golden", CODES)
    assert len(golden) == 4
    assert {one.label for one in golden} == set(CODES)
    scorer = Scorer(places.model)
    for one in golden:
        (window,) = audio.windows(one.file, FeatureConfig())
        stored = [one.scores[code] for code in CODES]
        assert np.abs(scorer.window(window.samples) - stored).max() < 1e-6


def test_thresholds_do_not_depend_on_the_test_recordings(places: Places, tmp_path: Path) -> None:
    places.run()
    first = (places.out / "thresholds/thresholds.json").read_bytes()
    write_features(tmp_path / "other", CODES, _takes(9, 5000))
    places.run(test=tmp_path / "other")
    assert (places.out / "thresholds/thresholds.json").read_bytes() == first


def test_the_same_inputs_give_the_same_artifacts(places: Places) -> None:
    specs = []
    for _ in range(2):
        places.run()
        specs.append(artifacts.read_spec(places.out / "evaluation").sha256)
    assert specs[0] == specs[1]


def test_a_recording_that_is_in_calibration_and_in_test_stops_the_stage(places: Places) -> None:
    with pytest.raises(DataError, match="in calibration and in test"):
        places.run(test=places.calibration)
    assert not (places.out / "thresholds").exists()


def test_without_calibration_windows_nothing_is_promised_and_nothing_breaks(
    places: Places, tmp_path: Path
) -> None:
    write_features(tmp_path / "none", CODES, [])
    figures, _ = places.run(calibration=tmp_path / "none")
    assert figures["thresholds_none"] == 3
    assert "false_positive_rate" not in figures
    assert read_golden(places.out / "evaluation/golden", CODES) == []
    assert "no calibration windows" in (places.out / "report.html").read_text()


def test_without_test_recordings_there_are_thresholds_but_no_figures(
    places: Places, tmp_path: Path
) -> None:
    write_features(tmp_path / "none", CODES, [])
    figures, curves = places.run(test=tmp_path / "none")
    assert "accuracy" not in figures
    assert figures["thresholds_own"] == 3
    assert json.dumps(curves, allow_nan=False)
    assert "no test recordings" in (places.out / "report.html").read_text()


def test_golden_recordings_span_lengths_and_species() -> None:
    rng = np.random.default_rng(0)
    index = pd.DataFrame(
        {
            "id": [f"r{number:03d}" for number in range(200)],
            "window": 0,
            "label": ["common"] * 150 + [f"rare{number}" for number in range(50)],
            "samples": rng.permutation(200) * 1000 + 1,
        }
    )
    chosen = pick_golden(index, 8)
    assert chosen == pick_golden(index, 8)
    lengths = index["samples"].iloc[chosen].tolist()
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (1, 199_001)
    assert max(np.diff(lengths)) < 60_000
    assert index["label"].iloc[chosen].nunique() >= 7
    assert len(pick_golden(index.iloc[:3], 8)) == 3
    assert pick_golden(index.iloc[:0], 8) == []
    assert len(pick_golden(index.iloc[:5], 1)) == 1
