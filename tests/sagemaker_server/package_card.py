"""What SageMaker takes as the model card of a model package.

Written after the "Model package model card schema" of the SageMaker Developer Guide (Update the
Details of a Model Version): fields, kinds and longest texts. It says "maxContains" of some lists
and puts "maxItems" of others at the wrong place; both are taken as what they must mean.
"""

import json
from typing import Any

import jsonschema

Json = dict[str, Any]

MOST = 100_000
STATES = ("Draft", "PendingReview", "Approved", "Archived")


def _object(required: tuple[str, ...] = (), **fields: Json) -> Json:
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


def _text(longest: int, shortest: int = 0) -> Json:
    return {"type": "string", "minLength": shortest, "maxLength": longest}


def _list(item: Json, most: int | None = None, fewest: int = 0) -> Json:
    found: Json = {"type": "array", "items": item, "minItems": fewest}
    return found if most is None else {**found, "maxItems": most}


def _named(longest: int) -> Json:
    return {"type": "object", "additionalProperties": _text(longest)}


_NUMBER: Json = {"type": "number"}
_PLAIN = {"anyOf": [_NUMBER, _text(63), {"type": "boolean"}]}
_TRAINING_METRIC = _object(("name", "value"), name=_text(255, 1), notes=_text(1024), value=_NUMBER)
_HYPERPARAMETER = _object(("name", "value"), name=_text(255, 1), value=_text(255, 1))


def _metric(kinds: tuple[str, ...], value: Json, x: Json, y: Json) -> Json:
    return _object(
        ("name", "type", "value"),
        name=_text(255, 1),
        notes=_text(1024),
        type={"enum": list(kinds)},
        value=value,
        x_axis_name=x,
        y_axis_name=y,
    )


_AXIS, _AXES = _text(63), _list(_text(63))
_METRICS = {
    "anyOf": [
        _metric(("number", "string", "boolean"), _PLAIN, _AXIS, _AXIS),
        _metric(("linear_graph",), _list(_list(_NUMBER, 2, 2), fewest=1), _AXIS, _AXIS),
        _metric(("bar_chart",), _list(_NUMBER, fewest=1), _AXES, _AXIS),
        _metric(("matrix",), _list(_list(_NUMBER, 20, 1), 20, 1), _AXES, _AXES),
    ]
}

SCHEMA = _object(
    model_overview=_object(model_creator=_text(1024), model_artifact=_list(_text(1024), 15)),
    intended_uses=_object(
        purpose_of_model=_text(2048),
        intended_uses=_text(2048),
        factors_affecting_model_efficiency=_text(2048),
        risk_rating={"enum": ["High", "Medium", "Low", "Unknown"]},
        explanations_for_risk_rating=_text(2048),
    ),
    business_details=_object(
        business_problem=_text(2048),
        business_stakeholders=_text(2048),
        line_of_business=_text(2048),
    ),
    training_details=_object(
        objective_function={"type": "object"},
        training_observations=_text(1024),
        training_job_details=_object(
            training_arn=_text(1024),
            training_datasets=_list(_text(1024), 15),
            training_environment=_object(container_image=_list(_text(1024), 15)),
            training_metrics=_list(_TRAINING_METRIC, 50),
            user_provided_training_metrics=_list(_TRAINING_METRIC, 50),
            hyper_parameters=_list(_HYPERPARAMETER, 100),
            user_provided_hyper_parameters=_list(_HYPERPARAMETER, 100),
        ),
    ),
    evaluation_details=_list(
        _object(
            ("name",),
            name=_text(63, 1),
            evaluation_observation=_text(2096),
            evaluation_job_arn=_text(256),
            datasets=_list(_text(1024), 10),
            metadata=_named(1024),
            metric_groups=_list(
                _object(("name", "metric_data"), name=_text(63, 1), metric_data=_list(_METRICS))
            ),
        )
    ),
    additional_information=_object(
        ethical_considerations=_text(2048),
        caveats_and_recommendations=_text(2048),
        custom_details=_named(1024),
    ),
)


def problem(card: Json) -> str:
    """What SageMaker would refuse in a ModelCard; empty for nothing."""
    text = card.get("ModelCardContent", "")
    if card.get("ModelCardStatus") not in STATES:
        return f"ModelCardStatus {card.get('ModelCardStatus')!r} is not one of {STATES}"
    if len(text) > MOST or "\n" in text:
        return "ModelCardContent is too long, or has a line break"
    try:
        jsonschema.validate(json.loads(text), SCHEMA)
    except ValueError as error:
        return f"ModelCardContent is not JSON: {error}"
    except jsonschema.ValidationError as error:
        return f"ModelCardContent{error.json_path[1:]}: {error.message}"
    return ""
