"""The search space: the recipe's ranges, what a user changes, and its two translations."""

import json

import optuna
import pytest
from botocore.session import get_session
from botocore.validate import ParamValidator

from birdsong import search_space
from birdsong.config import Hyperparameters, TrainConfig, TuneConfig
from birdsong.errors import ConfigError
from birdsong.hyperparameters import FIXED, OVERRIDABLE, override
from birdsong.search_space import Choices, Range, parse

WIDE = json.dumps(
    {
        "dropout": [0.1, 0.5],
        "pos_weight": {"low": 1, "high": 9, "log": True},
        "batch_size": {"low": 4, "high": 64, "log": True},
        "class_balance": {"choices": [0, 0.5, 1]},
        "front_end": ["full", "small"],
        "reduce_db": None,
    }
)


def test_without_a_text_the_space_is_the_recipe_s() -> None:
    space = parse("")
    assert list(space.dimensions) == list(Hyperparameters.model_fields)
    rate = space.dimensions["learning_rate"]
    assert (rate.low, rate.high, rate.log) == (1e-5, 1e-3, True)
    for mask in ("time_mask", "freq_mask"):
        assert space.dimensions[mask].high == pytest.approx(290 / 299)
    assert space.dimensions["reduce_db"].high == 0.9
    assert space.dimensions["dropout"].high == 0.7


def test_ranges_are_changed_settings_added_and_dimensions_taken_away() -> None:
    space = parse(WIDE).dimensions
    assert space["dropout"] == Range(low=0.1, high=0.5)
    assert space["pos_weight"] == Range(low=1, high=9, log=True)
    assert space["batch_size"] == Range(low=4, high=64, log=True, whole=True)
    assert space["class_balance"] == Choices(choices=(0, 0.5, 1))
    assert space["front_end"] == Choices(choices=("full", "small"))
    assert "reduce_db" not in space
    assert space["time_mask"] == search_space.DEFAULTS["time_mask"]


def test_new_ends_of_the_learning_rate_are_still_searched_by_its_logarithm() -> None:
    assert parse('{"learning_rate": [1e-4, 1e-2]}').dimensions["learning_rate"] == Range(
        low=1e-4, high=1e-2, log=True
    )


def test_every_setting_of_training_can_be_searched_or_is_named_as_fixed() -> None:
    assert set(OVERRIDABLE) | FIXED == set(TrainConfig.model_fields)
    for name in ("pos_weight", "class_balance", "batch_size", "backbone"):
        assert name in OVERRIDABLE


@pytest.mark.parametrize(
    "name", ["mixup", "background", "gain_db", "label_smoothing", "rating_weight"]
)
def test_switches_of_the_training_beyond_the_recipe_can_be_searched(name: str) -> None:
    space = parse(json.dumps({name: [0, 0.25]}))
    assert space.dimensions[name] == Range(low=0, high=0.25)
    _, config = override({name: 0.125}, Hyperparameters(), TrainConfig())
    assert getattr(config, name) == 0.125


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dropout", "needs a JSON object, such as"),
        ("[0, 1]", "needs a JSON object, such as"),
        ('{"dropuot": [0, 1]}', r"no setting 'dropuot' can be searched\. Did you mean dropout\?"),
        ('{"epochs": [1, 5]}', "epochs says how a training is run"),
        ('{"dropout": [0.5, 0.1]}', "dropout: low 0.5 must be below high 0.1"),
        ('{"dropout": [0.5, 0.5]}', "dropout: low 0.5 must be below"),
        ('{"dropout": [0, 1.5]}', r"^dropout: Input .*less than 1 \(got 1.5\)"),
        ('{"dropout": [0, NaN]}', "dropout: needs two finite numbers"),
        ('{"dropout": ["a", "b"]}', "dropout: needs two finite numbers"),
        ('{"dropout": [0]}', r"dropout: needs \[low, high\]"),
        ('{"dropout": 0.3}', r"dropout: needs \[low, high\]"),
        ('{"dropout": {"low": 0, "high": 0.5, "log": true}}', "log needs a low above 0, got 0"),
        ('{"dropout": {"low": 0, "high": 0.5, "step": 1}}', "step: Extra inputs"),
        ('{"dropout": {"choices": [0.1]}}', "two or more different values"),
        ('{"dropout": {"choices": [0.1, 0.1]}}', "two or more different values"),
        ('{"dropout": [0, 0.1], "dropout": [0, 0.2]}', "dropout stands there twice"),
        ('{"batch_size": [4.5, 8]}', "needs whole numbers, got 4.5"),
        ('{"front_end": [0, 1]}', "front_end: knows full, small, not 0"),
        ('{"front_end": {"low": 0, "high": 1}}', "front_end: is no number"),
        (json.dumps(dict.fromkeys(Hyperparameters.model_fields)), "nothing is left"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_before_anything_starts(
    text: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told) as first:
        parse(text)
    # `run` lists findings one a line, and splits them here.
    assert "; " not in str(first.value)
    with pytest.raises(ConfigError, match=r"^space: "):
        TuneConfig(space=text)


def test_optuna_draws_what_training_takes() -> None:
    space = parse(WIDE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(50):
        values = study.ask(space.distributions()).params
        given, config = override(values, Hyperparameters(reduce_db=0.123), TrainConfig())
        assert given.reduce_db == 0.123
        assert 0.1 <= given.dropout <= 0.5
        assert 1 <= config.pos_weight <= 9
        assert 4 <= config.batch_size <= 64
        seen.add((config.front_end, config.class_balance))
    assert len(seen) == 6


def test_sagemaker_takes_the_same_space_and_its_texts_come_back_as_values() -> None:
    ranges = parse(WIDE).parameter_ranges()
    shape = get_session().get_service_model("sagemaker").shape_for("ParameterRanges")
    report = ParamValidator().validate(ranges, shape)
    assert not report.has_errors(), report.generate_report()
    by_name = {one["Name"]: one for kind in ranges.values() for one in kind}
    assert set(by_name) == set(parse(WIDE).dimensions)
    assert by_name["learning_rate"]["ScalingType"] == "Logarithmic"
    assert float(by_name["learning_rate"]["MinValue"]) == 1e-5
    assert by_name["dropout"]["ScalingType"] == "Linear"
    assert by_name["batch_size"] == {
        "Name": "batch_size",
        "MinValue": "4",
        "MaxValue": "64",
        "ScalingType": "Logarithmic",
    }
    texts = {
        name: one["Values"][0] if "Values" in one else one["MinValue"]
        for name, one in by_name.items()
    }
    given, config = override(texts, Hyperparameters(), TrainConfig())
    assert given.learning_rate == 1e-5
    assert (config.batch_size, config.class_balance, config.front_end) == (4, 0, "full")


def test_the_first_trial_is_what_was_given_moved_into_the_space() -> None:
    config = TrainConfig(pos_weight=20, batch_size=2, front_end="full", class_balance=0.7)
    start = parse(WIDE).start(Hyperparameters(dropout=0.3, learning_rate=0.5), config)
    assert start["dropout"] == 0.3
    assert start["learning_rate"] == 1e-3
    assert (start["pos_weight"], start["batch_size"]) == (9, 4)
    assert (start["class_balance"], start["front_end"]) == (0, "full")
    assert "reduce_db" not in start


def test_a_value_that_training_would_refuse_is_refused_here() -> None:
    with pytest.raises(ConfigError, match="learning_rat: not a setting"):
        override({"learning_rat": 1e-3}, Hyperparameters(), TrainConfig())
    with pytest.raises(ConfigError, match="epochs: not a setting"):
        override({"epochs": 3}, Hyperparameters(), TrainConfig())
    with pytest.raises(ConfigError, match="pos_weight"):
        override({"pos_weight": -1}, Hyperparameters(), TrainConfig())
