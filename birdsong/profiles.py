"""Profiles: values for parameters of the pipeline that fit together."""

from typing import Any

PROFILES: dict[str, dict[str, Any]] = {
    # The pipeline's own defaults: the reference recipe with its best values.
    "reference": {},
    # Small data on CPUs in minutes.
    "quick": {
        "backbone": "tiny",
        "weights": "none",
        "front_end": "small",
        "epochs": 60,
        "patience": 15,
        "batch_size": 16,
        "class_balance": 0.5,
        "learning_rate": 1e-3,
        "time_mask": 0.3,
        "freq_mask": 0.2,
        "reduce_db": 0.3,
        "dropout": 0.3,
        "validation_fraction": 0.12,
        "calibration_fraction": 0.15,
        "test_fraction": 0.2,
    },
    # Generated songs, a tiny network.
    "demo": {
        "source": "demo:",
        "backbone": "tiny",
        "weights": "none",
        "front_end": "small",
        "epochs": 20,
        "patience": 6,
        "batch_size": 16,
        "learning_rate": 2e-3,
        "time_mask": 0.2,
        "freq_mask": 0.1,
        "reduce_db": 0.2,
        "dropout": 0.2,
        "validation_fraction": 0.12,
        "calibration_fraction": 0.25,
        "test_fraction": 0.2,
    },
}
"""Values that a profile gives to parameters of the pipeline; the rest keeps the defaults."""
