"""What a whole run leaves for the fast runtimes: the same scores as in its evaluation."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_demo import DemoRun

from birdsong import artifacts, audio, runtimes
from birdsong.bundle import read_bundle, verify_bundle
from birdsong.config import FrontEndConfig
from birdsong.features import FeatureSet
from birdsong.frontend import pictures
from birdsong.golden import read_golden
from birdsong.runs import record
from birdsong.runs.record import Run
from birdsong.scoring import load_scorer


@pytest.fixture(scope="module")
def run(demo_run: DemoRun) -> Run:
    assert demo_run.exit_code == 0, demo_run.output
    return record.find(demo_run.runs, "latest")


@pytest.fixture(scope="module")
def bundle(run: Run) -> Path:
    found = Path(run.steps["register"].outputs["version"]["path"]) / "bundle"
    verify_bundle(found)
    return found


def test_every_runtime_is_compared_and_those_in_float32_are_admitted(run: Run) -> None:
    model = Path(run.steps["train"].outputs["model"]["path"])
    table = runtimes.table(model)
    assert set(table) == set(runtimes.RUNTIMES) - {"tensorflow"}
    for name in ("onnx", "openvino-fp32"):
        assert table[name]["admitted"], table[name]
        assert table[name]["largest_difference"] < 1e-5
    for entry in table.values():
        # Not admitted only with a reason in words.
        assert entry["admitted"] or entry["reason"].endswith(".")
    page = (run.folder / "pages/train.history.html").read_text()
    assert all(name in page for name in table)


def test_each_admitted_runtime_scores_as_in_the_evaluation(run: Run, bundle: Path) -> None:
    features = FeatureSet(run.steps["featurize"].outputs["calibration"]["path"])
    stored = pd.read_parquet(
        Path(run.steps["evaluate-threshold"].outputs["evaluation"]["path"])
        / "calibration_scores.parquet"
    )
    rows = range(min(5, len(features)))
    reference = np.stack(stored["scores"].iloc[list(rows)])
    for name in runtimes.admitted(bundle):
        if runtimes.lacking(name):
            continue
        scorer = load_scorer(bundle, name)
        loaded = read_bundle(bundle, name)
        assert (loaded.runtime, loaded.codes) == (name, list(scorer.codes))
        for one in read_golden(bundle / "golden", loaded.codes, name):
            (window,) = audio.windows(one.file, loaded.features)
            kept = [one.scores[code] for code in loaded.codes]
            assert np.abs(scorer.window(window.samples) - kept).max() < 1e-4, name
        scores = np.stack([scorer.window(features.waveform(row)) for row in rows])
        known = runtimes.table(bundle)[name].get("largest_difference", 0.0)
        # Other recordings than those of the comparison may differ by more.
        assert np.abs(scores - reference).max() <= max(2 * known, 1e-4), name


def test_the_front_end_in_numpy_gives_the_pictures_of_the_graph_on_golden_recordings(
    bundle: Path,
) -> None:
    from birdsong.frontend_graph import FrontEnd

    settings = artifacts.read_json(bundle / "model/model.json")
    config = FrontEndConfig(**settings["front_end"])
    read = read_bundle(bundle)
    graph = FrontEnd(config)
    recordings = read_golden(bundle / "golden", read.codes)
    assert recordings
    for one in recordings:
        (window,) = audio.windows(one.file, read.features)
        frames = audio.frames(window.samples, read.features)
        np.testing.assert_allclose(
            pictures(frames, config), graph(frames).numpy(), rtol=0, atol=1e-5
        )


def test_deploy_checked_a_fast_runtime_by_its_own_golden_scores(run: Run) -> None:
    endpoint = artifacts.read_json(
        Path(run.steps["deploy"].outputs["endpoint"]["path"]) / "endpoint.json"
    )
    assert endpoint["state"] == "checked"
    assert endpoint["runtime"] in set(runtimes.RUNTIMES) - {"tensorflow"}
    assert endpoint["largest_difference"] < 1e-4
