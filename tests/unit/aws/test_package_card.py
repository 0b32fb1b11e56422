"""SageMaker's own model card: what is sent fits its schema, whatever the model is like."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_bundles import write_stages
from made_costs import HERE, NO_SEARCH, billed
from sagemaker_server import package_card as theirs

from birdsong import artifacts, bundle
from birdsong.aws import package_card
from birdsong.cost import Part
from birdsong.versions import Made

SPENT = [billed("tune", 7200, 2400, 4), billed("train", 3600, 3600)]


def _made(folder: Path, spent: list[Part]) -> Made:
    stages = write_stages(folder / "run", spent=spent)
    sha256 = bundle.write_bundle(
        folder / "bundle", stages.model, stages.thresholds, stages.evaluation
    )
    return Made(folder / "bundle", sha256, "", spent)


def _card(made: Made, **changed: Any) -> dict[str, Any]:
    found = package_card.model_package_card(made, "s3://b/model.tar.gz", "s3://b/card.md")
    content = json.loads(found["ModelCardContent"])
    return {**found, "ModelCardContent": json.dumps({**content, **changed})}


@pytest.mark.parametrize("spent", [SPENT, [NO_SEARCH, HERE], []])
def test_a_card_is_one_that_sagemaker_takes(tmp_path: Path, spent: list[Part]) -> None:
    assert theirs.problem(_card(_made(tmp_path, spent))) == ""


def test_a_card_is_one_of_the_sdks_too_and_loses_nothing_in_it(tmp_path: Path) -> None:
    from sagemaker.core.shapes.model_card_shapes import ModelCardContent

    content = json.loads(_card(_made(tmp_path, SPENT))["ModelCardContent"])
    read = ModelCardContent.model_validate(content).model_dump(mode="json", exclude_none=True)
    assert read == content


def test_long_texts_many_settings_and_figures_without_a_value_still_fit(tmp_path: Path) -> None:
    made = _made(tmp_path, [SPENT[0].model_copy(update={"machine": "m" * 5000}), SPENT[1]])
    settings = {f"setting {n}" + "x" * 300: "y" * 300 for n in range(150)}
    model = artifacts.read_json(made.folder / "model/model.json")
    artifacts.write_json(
        made.folder / "model/model.json", {**model, "train": {**settings, "none": "", "no": None}}
    )
    figure = {"value": None, "low": None, "high": None}
    artifacts.write_json(
        made.folder / "metrics.json",
        {"network": {"cmap": figure, "map": {**figure, "value": 1}, "note": "text"}},
    )
    card = _card(made)
    assert theirs.problem(card) == ""
    content = json.loads(card["ModelCardContent"])
    details = content["training_details"]["training_job_details"]
    assert len(details["user_provided_hyper_parameters"]) == 100
    [group] = content["evaluation_details"][0]["metric_groups"]
    assert group["metric_data"] == [
        {"name": "map", "type": "number", "value": 1, "notes": "no interval"}
    ]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model_overview": {"model_name": "x"}}, "model_name"),
        ({"intended_uses": {"risk_rating": "None"}}, "risk_rating"),
        ({"evaluation_details": [{}]}, "'name' is a required property"),
        ({"additional_information": {"custom_details": {"n": 1}}}, "custom_details"),
        ({"training_details": {"training_observations": "x" * 1025}}, "too long"),
    ],
)
def test_the_server_for_tests_refuses_what_does_not_fit(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    assert told in theirs.problem(_card(_made(tmp_path, []), **changed))
