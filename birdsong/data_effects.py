"""What training had of each species, and how that goes with how well the species is told apart."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from birdsong.bootstrap import Interval

FACTORS = {
    "recordings": "training recordings",
    "minutes": "minutes of training audio",
    "groups": "groups (authors, days, places) in training",
    "rating": "mean rating of the training recordings",
}
"""What is looked at, and its words."""

FEWEST_SPECIES = 10
"""Of fewer species a correlation says nothing."""


def count_training(
    rows: Iterable[Mapping[str, Any]], codes: Iterable[str], sample_rate: int
) -> dict[str, dict[str, float | None]]:
    """What the train part holds of each species.

    Args:
        rows: Windows: id, label, part, group, rating (None where unknown) and samples.
        codes: All species.
        sample_rate: Samples per second.

    Returns:
        For each species its recordings, minutes, groups and mean rating.
    """
    found: dict[str, dict[str, Any]] = {
        code: {"ratings": {}, "samples": 0, "groups": set()} for code in codes
    }
    for row in rows:
        if row["part"] == "train" and row["label"] in found:
            mine = found[row["label"]]
            mine["ratings"][row["id"]] = row["rating"]
            mine["samples"] += int(row["samples"])
            mine["groups"].add(row["group"])
    told: dict[str, dict[str, float | None]] = {}
    for code, mine in found.items():
        # In BirdCLEF 0 stands for "not rated"; NaN is not above it either.
        ratings = [one for one in mine["ratings"].values() if one is not None and one > 0]
        told[code] = {
            "recordings": len(mine["ratings"]),
            "minutes": round(mine["samples"] / sample_rate / 60, 3),
            "groups": len(mine["groups"]),
            "rating": round(float(np.mean(ratings)), 3) if ratings else None,
        }
    return told


def effects(per_species: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """How each factor goes with the network's ROC-AUC of a species.

    Args:
        per_species: As in `metrics.json`: `training` and `network_auc` of each species.

    Returns:
        For each factor Spearman's rank correlation over the species with test recordings, its
        95 % interval, and how many species; no value where they are fewer than `FEWEST_SPECIES`,
        or all alike.

    Source:
        The interval: Bonett and Wright, "Sample size requirements for estimating Pearson, Kendall
        and Spearman correlations" (2000).
    """
    told: dict[str, dict[str, float | None]] = {}
    for factor in FACTORS:
        pairs = points(per_species, factor)
        value = _spearman(pairs) if len(pairs) >= FEWEST_SPECIES else math.nan
        if math.isfinite(value):
            wide = 1.96 * math.sqrt((1 + value**2 / 2) / (len(pairs) - 3))
            middle = math.atanh(min(max(value, -0.999), 0.999))
            found = Interval(value, math.tanh(middle - wide), math.tanh(middle + wide))
        else:
            found = Interval(None, None, None)
        told[factor] = {**found.as_json(), "species": len(pairs)}
    return told


def points(per_species: Mapping[str, Mapping[str, Any]], factor: str) -> npt.NDArray[np.float64]:
    """A factor and the network's ROC-AUC of each species that has both, shape (species, 2)."""
    found = [
        (float(one["training"][factor]), float(one["network_auc"]))
        for one in per_species.values()
        if one["training"].get(factor) is not None and one["network_auc"] is not None
    ]
    return np.array(found, np.float64).reshape(-1, 2)


def sentences(per_species: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the correlations say, for people."""
    found = effects(per_species)
    known = {factor: one for factor, one in found.items() if one["value"] is not None}
    if not known:
        return [
            f"With test recordings of fewer than {FEWEST_SPECIES} species, or all alike, nothing "
            "can be said about what the training data did to the scores."
        ]
    said = []
    for factor, one in known.items():
        value, low, high = (float(one[end] or 0.0) for end in ("value", "low", "high"))
        told = f"rank correlation {value:+.2f}, {low:+.2f} to {high:+.2f}"
        if low > 0:
            said.append(f"Species with more {FACTORS[factor]} are told apart better ({told}).")
        elif high < 0:
            said.append(f"Species with more {FACTORS[factor]} are told apart worse ({told}).")
        else:
            said.append(f"{FACTORS[factor].capitalize()}: no clear relation ({told}).")
    pairs = points(per_species, "recordings")
    cuts = np.quantile(pairs[:, 0], [1 / 3, 2 / 3])
    few, many = pairs[pairs[:, 0] <= cuts[0]], pairs[pairs[:, 0] > cuts[1]]
    if len(few) and len(many):
        said.append(
            f"The {len(few)} species with at most {cuts[0]:.0f} training recordings have a mean "
            f"ROC-AUC of {few[:, 1].mean():.3f}, the {len(many)} with more than {cuts[1]:.0f} one "
            f"of {many[:, 1].mean():.3f}."
        )
    said.append(
        "Species differ in more than their data, and most have few test recordings, so read this "
        "as a hint about where more recordings could help."
    )
    return said


def _spearman(pairs: npt.NDArray[np.float64]) -> float:
    from scipy.stats import rankdata

    ranks = [rankdata(column) for column in pairs.T]
    if any(np.ptp(one) == 0 for one in ranks):
        return math.nan
    return float(np.corrcoef(ranks)[0, 1])
