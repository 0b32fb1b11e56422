"""The bundle: whole, unchanged, and the same for the same model."""

import json
import shutil
from pathlib import Path

import pytest
from made_bundles import CODES, Stages, write_stages
from made_costs import HERE, NO_SEARCH, billed

from birdsong import artifacts
from birdsong.bundle import bundle_sha256, read_bundle, verify_bundle, write_bundle
from birdsong.errors import ConfigError, DataError
from birdsong.golden import read_golden


@pytest.fixture
def stages(tmp_path: Path) -> Stages:
    return write_stages(tmp_path / "run")


def _write(folder: Path, stages: Stages) -> str:
    return write_bundle(folder, stages.model, stages.thresholds, stages.evaluation)


def test_a_bundle_lists_every_file_and_the_data_behind_it(tmp_path: Path, stages: Stages) -> None:
    _write(tmp_path / "bundle", stages)
    manifest = json.loads((tmp_path / "bundle/bundle.json").read_text())
    there = {
        str(file.relative_to(tmp_path / "bundle"))
        for file in (tmp_path / "bundle").rglob("*")
        if file.is_file()
    }
    assert there == {*manifest["files"], "bundle.json"}
    assert {"model/model.json", "model/spec.json", "golden/0.flac", "test_scores.parquet"} <= there
    model = artifacts.read_spec(stages.model).sha256
    assert manifest["data"]["model"]["sha256"] == model
    assert manifest["data"]["evaluation"]["made_from"] == {"model": model}


def test_the_same_inputs_make_the_same_bundle_at_another_time_and_place(
    tmp_path: Path, stages: Stages
) -> None:
    first = _write(tmp_path / "a", stages)
    moved = Stages(*(tmp_path / "moved" / name for name in ("model", "thresholds", "evaluation")))
    shutil.copytree(stages.model.parent, tmp_path / "moved")
    assert _write(tmp_path / "deep/b", moved) == first


def test_another_model_or_another_name_is_another_bundle(tmp_path: Path, stages: Stages) -> None:
    first = _write(tmp_path / "a", stages)
    other = write_stages(tmp_path / "other", note="other weights")
    assert _write(tmp_path / "b", other) != first
    named = write_bundle(
        tmp_path / "c", stages.model, stages.thresholds, stages.evaluation, name="owls"
    )
    assert named != first


def test_a_bundle_gives_species_thresholds_and_settings(tmp_path: Path) -> None:
    stages = write_stages(tmp_path / "run", thresholds=[0.25, None, 0.5])
    _write(tmp_path / "bundle", stages)
    read = read_bundle(tmp_path / "bundle")
    assert read.codes == CODES
    assert [species.threshold for species in read.species] == [0.25, None, 0.5]
    assert read.species[2].common_name == "Zistensänger"
    assert read.calibration.temperature == 2.0
    assert read.sha256 == bundle_sha256(tmp_path / "bundle")


def test_each_admitted_runtime_has_its_own_thresholds_calibration_and_golden_scores(
    tmp_path: Path,
) -> None:
    stages = write_stages(tmp_path / "run", runtimes={"onnx": 0.4, "openvino-int8": 0.3})
    _write(tmp_path / "bundle", stages)
    verify_bundle(tmp_path / "bundle")
    read = {name: read_bundle(tmp_path / "bundle", name) for name in ("onnx", "openvino-int8")}
    assert read_bundle(tmp_path / "bundle").runtime == "tensorflow"
    assert read_bundle(tmp_path / "bundle").species[0].threshold == 0.5
    assert [species.threshold for species in read["onnx"].species] == [0.4] * 3
    assert [species.threshold for species in read["openvino-int8"].species] == [0.3] * 3
    assert [one.calibration.temperature for one in read.values()] == [3.0, 4.0]
    assert [one.runtime for one in read.values()] == list(read)
    assert len({one.sha256 for one in read.values()}) == 1
    golden = [
        read_golden(tmp_path / "bundle/golden", CODES, name)[0].scores
        for name in ("tensorflow", "onnx")
    ]
    assert golden[1] == {code: pytest.approx(0.9 * score) for code, score in golden[0].items()}
    card = (tmp_path / "bundle/model_card.md").read_text(encoding="utf-8")
    assert "| openvino-int8 | yes |" in card
    assert "The thresholds above are TensorFlow's" in card


def test_a_runtime_that_a_bundle_does_not_hold_is_refused(tmp_path: Path) -> None:
    stages = write_stages(tmp_path / "run", runtimes={"onnx": 0.4})
    _write(tmp_path / "bundle", stages)
    with pytest.raises(ConfigError, match=r"no thresholds for runtime openvino-bf16.*onnx, tens"):
        read_bundle(tmp_path / "bundle", "openvino-bf16")
    with pytest.raises(ConfigError, match="'fastest' is not known"):
        read_bundle(tmp_path / "bundle", "fastest")


def test_a_bundle_is_not_made_where_thresholds_of_an_admitted_runtime_are_missing(
    tmp_path: Path,
) -> None:
    stages = write_stages(tmp_path / "run", runtimes={"onnx": 0.4})
    shutil.rmtree(stages.thresholds / "runtimes")
    with pytest.raises(DataError, match=r"runtimes/onnx/.*missing"):
        _write(tmp_path / "bundle", stages)


@pytest.mark.parametrize(
    "name", ["model/weights.weights.h5", "golden/1.flac", "thresholds.json", "model_card.md"]
)
def test_a_changed_or_missing_file_is_found(tmp_path: Path, stages: Stages, name: str) -> None:
    _write(tmp_path / "bundle", stages)
    verify_bundle(tmp_path / "bundle")
    file = tmp_path / "bundle" / name
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(DataError, match=f"{name} was changed"):
        verify_bundle(tmp_path / "bundle")
    file.unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        verify_bundle(tmp_path / "bundle")


def test_an_artifact_that_was_changed_after_its_step_is_not_bundled(
    tmp_path: Path, stages: Stages
) -> None:
    (stages.model / "weights.weights.h5").write_bytes(b"tampered")
    with pytest.raises(DataError, match=r"weights\.weights\.h5 was changed"):
        _write(tmp_path / "bundle", stages)


def test_thresholds_of_another_model_are_refused(tmp_path: Path, stages: Stages) -> None:
    other = write_stages(tmp_path / "other", note="other weights")
    with pytest.raises(DataError, match="was made with another"):
        write_bundle(tmp_path / "bundle", stages.model, other.thresholds, stages.evaluation)
    assert not (tmp_path / "bundle").exists()


def test_a_folder_that_is_no_bundle_says_where_bundles_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not a bundle.*version/bundle"):
        read_bundle(tmp_path)
    with pytest.raises(DataError, match="not a bundle"):
        read_bundle(tmp_path / "absent")
    (tmp_path / "bundle.json").write_text('{"version": 99, "files": {}}')
    with pytest.raises(DataError, match="layout version 99"):
        read_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text('{"version": 1, "files": {}}')
    with pytest.raises(DataError, match=r"layout version 1, this birdsong reads 2\. Run the pipe"):
        read_bundle(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("calibration.json", {"temperature": 0}, "not above 0"),
        ("calibration.json", {}, "expected form"),
        ("calibration.json", [], "expected form"),
        (
            "calibration.json",
            {"temperature": 1, "knots": {"score": [0.1, 0.9], "probability": [0.8, 0.2]}},
            "knots do not rise",
        ),
        ("thresholds.json", {"species": {}}, "no threshold entry for aldfly"),
        ("thresholds.json", {"species": {c: {"threshold": "x"} for c in CODES}}, "not a number"),
        ("classes.json", [], "no species"),
        ("model/model.json", {}, "expected form"),
    ],
)
def test_parts_that_do_not_fit_together_are_named(
    tmp_path: Path, stages: Stages, file: str, content: object, told: str
) -> None:
    _write(tmp_path / "bundle", stages)
    (tmp_path / "bundle" / file).write_text(json.dumps(content))
    with pytest.raises(DataError, match=told):
        read_bundle(tmp_path / "bundle")


def test_what_training_cost_changes_neither_the_bundle_nor_its_card(tmp_path: Path) -> None:
    made = {
        _write(tmp_path / name, write_stages(tmp_path / f"run {name}", spent=spent))
        for name, spent in (
            ("dear", [billed("tune", 7200, 2400, 4), billed("train", 3600, 1200)]),
            ("cheap", [NO_SEARCH, HERE]),
            ("unknown", []),
        )
    }
    assert len(made) == 1
    assert not list((tmp_path / "dear").rglob("cost.json"))


def test_the_model_card_has_figures_thresholds_and_data_and_no_broken_table(
    tmp_path: Path,
) -> None:
    stages = write_stages(tmp_path / "run", thresholds=[0.25, None, 0.5])
    _write(tmp_path / "bundle", stages)
    card = (tmp_path / "bundle/model_card.md").read_text(encoding="utf-8")
    assert "0.75 (0.55 to 0.9)" in card
    assert "2 of 3 species have one" in card
    assert "1 % score above its threshold" in card
    assert "at most 1 %" not in card.replace("in at most 1 %", "")
    assert artifacts.read_spec(stages.model).sha256 in card
    # A | in a name from the metadata must not make a new column.
    rows = [line for line in card.splitlines() if line.startswith("| barswa")]
    assert len(rows) == 1
    assert rows[0].replace("\\|", "").count("|") == 7
