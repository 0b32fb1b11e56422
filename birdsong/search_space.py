"""The space of a hyperparameter search, one description for Optuna here and for SageMaker."""

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, get_args, get_origin

from pydantic import model_validator

from birdsong.config import Hyperparameters, Settings, TrainConfig
from birdsong.errors import ConfigError
from birdsong.hyperparameters import FIXED, OVERRIDABLE, override

if TYPE_CHECKING:
    import optuna

Value = bool | int | float | str

HELP = (
    'such as {"dropout": [0, 0.5], "pos_weight": {"low": 1, "high": 9, "log": true}, '
    '"front_end": ["full", "small"], "reduce_db": null}'
)


class Range(Settings):
    """All numbers between two ends, both included.

    Attributes:
        low, high: The ends.
        log: Search the logarithm, for values whose order of magnitude is open.
        whole: Whole numbers only.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.low >= self.high:
            raise ValueError(
                f"low {self.low:g} must be below high {self.high:g}, or give null to leave it as "
                "it is set"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, got {self.low:g}")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"needs whole numbers, got {self.low:g} and {self.high:g}")
        return self

    def nearest(self, value: Any) -> Value:
        """The value itself, or the end that it lies beyond."""
        inside = min(max(float(value), self.low), self.high)
        return round(inside) if self.whole else inside


class Choices(Settings):
    """A few values without an order."""

    choices: tuple[Value, ...]

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if len(set(map(repr, self.choices))) != len(self.choices) or len(self.choices) < 2:
            raise ValueError("choices need two or more different values")
        return self

    def nearest(self, value: Any) -> Value:
        """The value itself, or the first choice."""
        return next((choice for choice in self.choices if choice == value), self.choices[0])


DEFAULTS: dict[str, Range | Choices] = {
    "learning_rate": Range(low=1e-5, high=1e-3, log=True),
    "time_mask": Range(low=0, high=290 / 299),
    "freq_mask": Range(low=0, high=290 / 299),
    "reduce_db": Range(low=0, high=0.9),
    "dropout": Range(low=0, high=0.7),
}
"""The reference's best values lie outside its own ranges, so these are wider."""


class SearchSpace(Settings):
    """What is searched, by name: hyperparameters, and fields of `TrainConfig`."""

    dimensions: dict[str, Range | Choices]

    def distributions(self) -> "dict[str, optuna.distributions.BaseDistribution]":
        """The space as Optuna's distributions."""
        from optuna import distributions

        found: dict[str, Any] = {}
        for name, one in self.dimensions.items():
            if isinstance(one, Choices):
                found[name] = distributions.CategoricalDistribution(one.choices)
            elif one.whole:
                found[name] = distributions.IntDistribution(int(one.low), int(one.high), one.log)
            else:
                found[name] = distributions.FloatDistribution(one.low, one.high, one.log)
        return found

    def parameter_ranges(self) -> dict[str, list[dict[str, Any]]]:
        """The space as `ParameterRanges` of SageMaker's CreateHyperParameterTuningJob.

        SageMaker hands values over as text, which `hyperparameters.override` reads.
        """
        ranges: dict[str, list[dict[str, Any]]] = {
            "ContinuousParameterRanges": [],
            "IntegerParameterRanges": [],
            "CategoricalParameterRanges": [],
        }
        for name, one in self.dimensions.items():
            if isinstance(one, Choices):
                texts = [
                    json.dumps(value) if not isinstance(value, str) else value
                    for value in one.choices
                ]
                ranges["CategoricalParameterRanges"].append({"Name": name, "Values": texts})
                continue
            kind = "IntegerParameterRanges" if one.whole else "ContinuousParameterRanges"
            ends = (int(one.low), int(one.high)) if one.whole else (one.low, one.high)
            ranges[kind].append(
                {
                    "Name": name,
                    "MinValue": str(ends[0]),
                    "MaxValue": str(ends[1]),
                    "ScalingType": "Logarithmic" if one.log else "Linear",
                }
            )
        return ranges

    def start(self, given: Hyperparameters, config: TrainConfig) -> dict[str, Value]:
        """The given values of what is searched, moved into the space where they lie outside."""
        values = {**config.model_dump(), **given.model_dump()}
        return {name: one.nearest(values[name]) for name, one in self.dimensions.items()}


def parse(text: str) -> SearchSpace:
    """Read a space: the five hyperparameters with their ranges, changed by what the text says.

    Args:
        text: A JSON object of name to [low, high], {"low", "high", "log"}, {"choices"}, a list
            of choices where the setting is no number, or null for not to be searched; empty
            for the five alone. A range without `log` keeps that of the default.

    Raises:
        ConfigError: It is no such object, a name is unknown, or a value is out of its range.
    """
    dimensions = dict(DEFAULTS)
    for name, told in _read(text).items():
        if name in FIXED:
            raise ConfigError(f"{name} says how a training is run, it cannot be searched")
        if name not in Hyperparameters.model_fields and name not in OVERRIDABLE:
            known = [*Hyperparameters.model_fields, *OVERRIDABLE]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            guess = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"no setting {name!r} can be searched.{guess} Known: {', '.join(known)}"
            )
        if told is None:
            dimensions.pop(name, None)
            continue
        try:
            dimensions[name] = _dimension(name, told)
        except ConfigError as error:
            told = str(error)
            for prefix in (f"{name}: ", "Range: ", "Choices: "):
                told = told.removeprefix(prefix)
            # `run` lists findings one a line and splits them at semicolons.
            raise ConfigError(f"{name}: {told}".replace("; ", ", ")) from None
    if not dimensions:
        raise ConfigError("nothing is left to be searched, set trials=0 instead")
    return SearchSpace(dimensions=dimensions)


def _read(text: str) -> dict[str, Any]:
    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"{twice} stands there twice")
        return dict(pairs)

    if not text.strip():
        return {}
    try:
        found = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ConfigError(f"needs a JSON object, {HELP} ({error})") from None
    if not isinstance(found, dict):
        raise ConfigError(f"needs a JSON object, {HELP} (got {text.strip()[:40]!r})")
    return found


def _dimension(name: str, told: Any) -> Range | Choices:
    fields = (
        Hyperparameters.model_fields
        if name in Hyperparameters.model_fields
        else TrainConfig.model_fields
    )
    kind = fields[name].annotation
    numeric = kind in (int, float)
    if isinstance(told, list):
        told = _from_list(name, told, numeric)
    if not isinstance(told, Mapping):
        raise ConfigError(f"needs {_forms(numeric)}, got {json.dumps(told)}")
    one: Range | Choices
    if "choices" in told:
        one = Choices(**told)
        ends: Sequence[Value] = one.choices
    elif not numeric:
        raise ConfigError(f"is no number, it needs {_forms(numeric)}")
    else:
        if not (_is_number(told.get("low")) and _is_number(told.get("high"))):
            raise ConfigError(f"needs two finite numbers low and high, got {json.dumps(told)}")
        one = Range(**{**told, "whole": kind is int})
        ends = (round(one.low), round(one.high)) if one.whole else (one.low, one.high)
    for value in ends:
        if kind is bool and not isinstance(value, bool):
            raise ConfigError(f"needs true or false, got {json.dumps(value)}")
        if get_origin(kind) is Literal and value not in get_args(kind):
            known = ", ".join(map(str, get_args(kind)))
            raise ConfigError(f"knows {known}, not {json.dumps(value)}")
        override({name: value}, Hyperparameters(), TrainConfig())
    return one


def _from_list(name: str, told: list[Any], numeric: bool) -> dict[str, Any]:
    if not numeric:
        return {"choices": told}
    if len(told) != 2:
        raise ConfigError(f"needs {_forms(numeric)}, got {json.dumps(told)}")
    default = DEFAULTS.get(name)
    log = isinstance(default, Range) and default.log
    return {"low": told[0], "high": told[1], "log": log}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _forms(numeric: bool) -> str:
    if numeric:
        return '[low, high], {"low": .., "high": .., "log": true} or {"choices": [..]}'
    return "a list of choices"
