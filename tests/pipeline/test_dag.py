"""The compiled DAG: steps, edges, types, defaults and what people read about them."""

import ast
from pathlib import Path
from typing import Any

import pytest

from birdsong import config
from birdsong.profiles import PROFILES
from birdsong.runs import arguments, graph
from pipeline import birdsong

IR = graph.as_ir(birdsong)
TASKS = IR["root"]["dag"]["tasks"]
PARAMETERS = IR["root"]["inputDefinitions"]["parameters"]

EDGES = {
    ("ingest", "recordings", "split", "recordings"),
    ("ingest", "recordings", "featurize", "recordings"),
    ("split", "splits", "featurize", "splits"),
    ("featurize", "development", "tune", "development"),
    ("featurize", "development", "train", "development"),
    ("featurize", "calibration", "evaluate-threshold", "calibration"),
    ("featurize", "test", "evaluate-threshold", "test"),
    ("tune", "hyperparameters", "train", "hyperparameters"),
    ("train", "model", "evaluate-threshold", "model"),
    ("train", "model", "register", "model"),
    ("evaluate-threshold", "thresholds", "register", "thresholds"),
    ("evaluate-threshold", "evaluation", "register", "evaluation"),
    ("register", "version", "deploy", "version"),
}

OUTPUTS = {
    "ingest": {"recordings": "Dataset", "audit": "HTML", "metrics": "Metrics"},
    "split": {"splits": "Dataset", "leaks": "HTML", "metrics": "Metrics"},
    "featurize": {
        "development": "Dataset",
        "calibration": "Dataset",
        "test": "Dataset",
        "preview": "HTML",
        "metrics": "Metrics",
    },
    "tune": {"hyperparameters": "Artifact", "history": "HTML", "metrics": "Metrics"},
    "train": {"model": "Model", "history": "HTML", "metrics": "Metrics"},
    "evaluate-threshold": {
        "thresholds": "Artifact",
        "evaluation": "Artifact",
        "report": "HTML",
        "curves": "ClassificationMetrics",
        "metrics": "Metrics",
    },
    "register": {"version": "Artifact", "metrics": "Metrics"},
    "deploy": {"endpoint": "Artifact", "metrics": "Metrics"},
}


def component(step: str) -> dict[str, Any]:
    found: dict[str, Any] = IR["components"][f"comp-{step}"]
    return found


def test_the_eight_stages_are_there_in_an_order_in_which_they_can_run() -> None:
    assert list(graph.steps(IR)) == [
        *("ingest", "split", "featurize", "tune", "train"),
        *("evaluate-threshold", "register", "deploy"),
    ]


def test_artifacts_go_where_they_belong_and_nowhere_else() -> None:
    found = {
        (
            value["taskOutputArtifact"]["producerTask"],
            value["taskOutputArtifact"]["outputArtifactKey"],
            task,
            name,
        )
        for task, spec in TASKS.items()
        for name, value in spec["inputs"].get("artifacts", {}).items()
    }
    assert found == EDGES


def test_training_never_sees_calibration_or_test() -> None:
    for step in ("tune", "train"):
        sources = {
            value["taskOutputArtifact"]["outputArtifactKey"]
            for value in TASKS[step]["inputs"]["artifacts"].values()
        }
        assert not sources & {"calibration", "test"}


@pytest.mark.parametrize("step", OUTPUTS)
def test_outputs_have_their_types_and_a_description(step: str) -> None:
    artifacts = component(step)["outputDefinitions"]["artifacts"]
    types = {
        name: spec["artifactType"]["schemaTitle"].removeprefix("system.")
        for name, spec in artifacts.items()
    }
    assert types == OUTPUTS[step]
    for name, spec in artifacts.items():
        assert spec.get("description"), f"{step}.{name} is not described"


@pytest.mark.parametrize("step", OUTPUTS)
def test_inputs_have_a_description(step: str) -> None:
    inputs = component(step)["inputDefinitions"]
    for kind in ("parameters", "artifacts"):
        for name, spec in inputs.get(kind, {}).items():
            assert spec.get("description"), f"{step}.{name} is not described"


def test_parameters_of_the_pipeline_are_described_and_plain() -> None:
    for name, spec in PARAMETERS.items():
        assert spec.get("description"), name
        assert spec["parameterType"] in {"STRING", "NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN"}
        assert "defaultValue" in spec


def test_every_parameter_reaches_a_step() -> None:
    used = {
        value["componentInputParameter"]
        for spec in TASKS.values()
        for value in spec["inputs"].get("parameters", {}).values()
    }
    assert used == set(PARAMETERS)


def test_every_parameter_of_a_step_can_be_set_from_outside() -> None:
    for step, spec in TASKS.items():
        declared = component(step)["inputDefinitions"].get("parameters", {})
        assert set(declared) == set(spec["inputs"].get("parameters", {})), step


def test_defaults_of_the_pipeline_and_of_its_components_agree() -> None:
    for step, spec in TASKS.items():
        declared = component(step)["inputDefinitions"].get("parameters", {})
        for name, value in spec["inputs"].get("parameters", {}).items():
            outer = PARAMETERS[value["componentInputParameter"]]
            assert declared[name]["defaultValue"] == outer["defaultValue"], (step, name)


def test_defaults_of_the_pipeline_are_those_of_the_settings() -> None:
    defaults = graph.defaults(IR)
    named: dict[type[config.Settings], dict[str, str]] = {
        config.IngestConfig: {},
        config.SplitConfig: {},
        config.FeatureConfig: {},
        config.Hyperparameters: {},
        config.TrainConfig: {},
        config.RuntimeConfig: {},
        config.TuneConfig: {"epochs": "trial_epochs", "workers": "trial_workers"},
        config.EvaluateConfig: {},
        config.RegisterConfig: {},
        config.DeployConfig: {},
    }
    for settings, renamed in named.items():
        for field, value in settings().model_dump().items():
            name = renamed.get(field, field)
            if name in defaults:
                assert defaults[name] == value, (settings.__name__, name)


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_name_parameters_and_pass_the_checks(profile: str) -> None:
    values = arguments.resolve(IR, source="demo:", profile=profile)
    assert set(values) == set(PARAMETERS)


def test_no_step_installs_anything_when_it_runs() -> None:
    for executor in IR["deploymentSpec"]["executors"].values():
        assert "pip install" not in " ".join(executor["container"]["command"])
        assert "python" in executor["container"]["image"]


def test_the_parameters_are_told_in_the_order_of_the_function() -> None:
    source = Path(__file__).resolve().parents[2] / "pipeline.py"
    functions = [n for n in ast.parse(source.read_text()).body if isinstance(n, ast.FunctionDef)]
    assert list(PARAMETERS) == [argument.arg for argument in functions[0].args.args]
