"""What a search chose, as train takes it: `hyperparameters.json`, one flat object.

It holds the five hyperparameters, and whatever else was searched under the name of a field of
`TrainConfig`, which it overrides.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from birdsong import artifacts
from birdsong.config import Hyperparameters, TrainConfig
from birdsong.errors import ConfigError, DataError

FILE = "hyperparameters.json"

FIXED = frozenset(
    {"epochs", "patience", "weights", "weights_sha256", "registry", "devices", "seed"}
)
"""Fields of `TrainConfig` that say how a training is run, not how it learns: never searched."""

OVERRIDABLE = tuple(name for name in TrainConfig.model_fields if name not in FIXED)
"""Fields of `TrainConfig` that a search may choose."""


def override(
    values: Mapping[str, Any], given: Hyperparameters, config: TrainConfig
) -> tuple[Hyperparameters, TrainConfig]:
    """Settings with some of their fields replaced.

    Args:
        values: Name of a field to its value; also as text, as SageMaker hands them over.
        given: Hyperparameters whose fields stay where `values` has none.
        config: Settings of the training, likewise.

    Raises:
        ConfigError: A name is unknown or a value out of its range.
    """
    unknown = sorted(set(values) - set(Hyperparameters.model_fields) - set(OVERRIDABLE))
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)}: not a setting that a search can choose. Known: "
            f"{', '.join([*Hyperparameters.model_fields, *OVERRIDABLE])}."
        )
    mine = {name: value for name, value in values.items() if name in Hyperparameters.model_fields}
    other = {name: value for name, value in values.items() if name not in mine}
    return (
        Hyperparameters(**{**given.model_dump(), **mine}),
        TrainConfig(**{**config.model_dump(), **other}),
    )


def read(path: str | Path, config: TrainConfig) -> tuple[Hyperparameters, TrainConfig]:
    """Read what tune wrote: the hyperparameters, and the settings with what was searched of them.

    Args:
        path: Artifact of tune.
        config: Settings of the training as given.

    Raises:
        DataError: The folder is no such artifact, or a value does not fit.
    """
    artifacts.read_spec(path, "hyperparameters")
    place = Path(path) / FILE
    values = artifacts.read_json(place)
    if not isinstance(values, dict):
        raise DataError(f"{place} holds no JSON object. Run tune again.")
    try:
        return override(values, Hyperparameters(), config)
    except ConfigError as error:
        raise DataError(f"{place}: {error} Run tune again.") from error
