"""SageMaker's own model card of a model package, which Studio shows: the bundle in its schema.

Source: "Model package model card schema" in the SageMaker Developer Guide, Update the Details of a
Model Version: no other fields than its own, and texts of at most so many characters.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from birdsong import artifacts, bundle, cost, model_card
from birdsong.versions import Made

STATUS = "PendingReview"
"""Of the card, not of the model: no person has read it yet, whatever the gate said."""

LONG, SHORT, NAME = 2048, 1024, 255
"""Characters of a text, a shorter one, and a name or a hyperparameter."""

Json = dict[str, Any]


def model_package_card(made: Made, artifact: str, card: str) -> dict[str, str]:
    """What CreateModelPackage takes as ModelCard.

    Args:
        made: The bundle and its cost.
        artifact: URI of model.tar.gz.
        card: URI of the whole card in Markdown.
    """
    return {
        "ModelCardContent": json.dumps(content(made, artifact, card), allow_nan=False),
        "ModelCardStatus": STATUS,
    }


def content(made: Made, artifact: str, card: str) -> Json:
    """The card, as `model_package_card`."""
    model = artifacts.read_json(made.folder / bundle.MODEL / "model.json")
    classes = artifacts.read_json(made.folder / bundle.CLASSES)
    metrics = artifacts.read_json(made.folder / bundle.METRICS)
    data = artifacts.read_json(made.folder / bundle.BUNDLE)["data"]
    hashes = {
        f"{name}_sha256": value
        for kind, spec in data.items()
        for name, value in ((kind, spec["sha256"]), *spec["made_from"].items())
    }
    return {
        "model_overview": {"model_creator": "birdsong", "model_artifact": [artifact[:SHORT]]},
        "intended_uses": {
            "purpose_of_model": model_card.purpose(model, classes)[:LONG],
            "intended_uses": "Listing which of its species are heard in recordings, to be checked "
            "by listening where a single detection matters.",
            "factors_affecting_model_efficiency": model_card.LIMITS[1][:LONG],
            "risk_rating": "Unknown",
            "explanations_for_risk_rating": "Nobody has rated it.",
        },
        "training_details": {
            "training_observations": " ".join(cost.sentences(made.spent))[:SHORT],
            "training_job_details": {
                "training_datasets": _datasets(hashes, "development"),
                "user_provided_training_metrics": [
                    {"name": name, "value": value}
                    for name, value in cost.figures(made.spent).items()
                ],
                "user_provided_hyper_parameters": _hyperparameters(model),
            },
        },
        "evaluation_details": [
            {
                "name": "Test recordings",
                "evaluation_observation": "Neither training nor thresholds saw them. Intervals "
                "are 95 %. The baseline is a logistic regression on log-mel statistics.",
                "datasets": _datasets(hashes, "test"),
                "metric_groups": [
                    {"name": side, "metric_data": found}
                    for side in ("network", "baseline")
                    if (found := list(_metrics(metrics.get(side))))
                ],
            }
        ],
        "additional_information": {
            "caveats_and_recommendations": " ".join(model_card.LIMITS)[:LONG],
            "custom_details": {
                name: str(value)[:SHORT]
                for name, value in (
                    ("bundle_sha256", made.sha256),
                    ("model_card", card),
                    *hashes.items(),
                    *_jobs(made),
                )
            },
        },
    }


def _datasets(hashes: Mapping[str, str], kind: str) -> list[str]:
    found = hashes.get(f"{kind}_sha256")
    return [f"features of {kind}, sha256 {found}"] if found else []


def _hyperparameters(model: Mapping[str, Any]) -> list[Json]:
    told = {**(model.get("train") or {}), **(model.get("hyperparameters") or {})}
    return [
        {"name": name[:NAME], "value": str(value)[:NAME]}
        for name, value in told.items()
        # The schema takes no empty value; a registry's address is no hyperparameter.
        if str(value) and name != "registry"
    ][:100]


def _metrics(figures: object) -> Iterator[Json]:
    if not isinstance(figures, Mapping):
        return
    for name, figure in figures.items():
        if not isinstance(figure, Mapping) or not isinstance(figure.get("value"), int | float):
            continue
        low, high = figure.get("low"), figure.get("high")
        known = isinstance(low, int | float) and isinstance(high, int | float)
        yield {
            "name": name[:NAME],
            "type": "number",
            "value": figure["value"],
            "notes": f"95 % interval {low:.4g} to {high:.4g}" if known else "no interval",
        }


def _jobs(made: Made) -> Iterator[tuple[str, str]]:
    for part in made.spent:
        if part.billed is not None:
            yield f"{part.step}_job", f"{part.billed.job} in {part.billed.region}"
        yield f"{part.step}_cost", _in_words(part)


def _in_words(part: cost.Part) -> str:
    if part.trials == 0:
        return "no search was asked for"
    usd = cost.UNKNOWN if part.usd is None else f"{cost.dollars(part.usd)} USD"
    billed = "" if part.billed is None else f", {part.billed.seconds:,} s billed"
    return f"{part.seconds:,.0f} s trained{billed}; {usd}; on {part.machine or 'unknown'}"
