import inspect

import pytest

from birdsong import config
from birdsong.errors import ConfigError
from birdsong.profiles import PROFILES


def test_a_value_out_of_range_says_field_range_and_what_came() -> None:
    with pytest.raises(ConfigError, match=r"target_fpr: .*less than 1.*got 1\.5"):
        config.EvaluateConfig(target_fpr=1.5)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="epoch"):
        config.TrainConfig(epoch=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ConfigError):
        config.FeatureConfig(seconds=value)


def test_fractions_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing is left to train on"):
        config.SplitConfig(validation_fraction=0.5, calibration_fraction=0.3, test_fraction=0.2)


def test_the_full_front_end_makes_the_picture_of_the_recipe() -> None:
    assert config.FRONT_ENDS["full"].picture_shape == (299, 299, 3)


def test_the_defaults_are_the_best_values_of_the_reference() -> None:
    best = config.Hyperparameters()
    assert best.learning_rate == 3.819e-4
    # Its masks are columns and bands of 299; ours are shares, so that they fit every picture.
    assert round(best.time_mask * 299) == 199
    assert round(best.freq_mask * 299) == 87
    assert (best.reduce_db, best.dropout) == (0.461, 0.366)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_sets_known_parameters_of_the_pipeline(profile: str) -> None:
    import pipeline

    known = inspect.signature(pipeline.birdsong.pipeline_func).parameters
    assert set(PROFILES[profile]) <= set(known)


def test_defaults_of_the_pipeline_are_the_defaults_of_the_settings() -> None:
    import pipeline

    parameters = inspect.signature(pipeline.birdsong.pipeline_func).parameters
    for settings in (
        config.IngestConfig,
        config.SplitConfig,
        config.FeatureConfig,
        config.Hyperparameters,
        config.TrainConfig,
        config.RuntimeConfig,
        config.EvaluateConfig,
        config.RegisterConfig,
        config.DeployConfig,
    ):
        for name, field in settings.model_fields.items():
            if name in parameters:
                assert parameters[name].default == field.default, name
