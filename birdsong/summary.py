"""Everything that `metrics.json` tells about a model, from its scores on calibration and test."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from birdsong import bootstrap, calibration, data_effects, metrics, thresholds
from birdsong.bootstrap import Interval
from birdsong.config import EvaluateConfig
from birdsong.metrics import Figures

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Scored:
    """One part of the data with the scores of network and baseline.

    Attributes:
        index: One row per window.
        labels: int8, shape (windows, species).
        network, baseline: Scores in [0, 1], shape (windows, species).
        best_frame: Which frame gave the network's score, shape (windows, species).
    """

    index: "pd.DataFrame"
    labels: metrics.Labels
    network: metrics.Scores
    baseline: metrics.Scores
    best_frame: npt.NDArray[np.int16]

    @property
    def groups(self) -> list[str]:
        """Group of each window."""
        return [str(group) for group in self.index["group"]]


@dataclass(frozen=True)
class Recordings:
    """The test recordings: the highest scores of their windows.

    Attributes:
        index: The row of each recording's first window.
        labels: int8, shape (recordings, species).
        network, baseline: Scores in [0, 1], shape (recordings, species).
        windows: How many windows each has, shape (recordings,).
    """

    index: "pd.DataFrame"
    labels: metrics.Labels
    network: metrics.Scores
    baseline: metrics.Scores
    windows: npt.NDArray[np.int_]


def by_recording(part: Scored) -> Recordings:
    """Windows to recordings: the highest of their scores."""
    ids = [str(name) for name in part.index["id"]]
    firsts, network = metrics.by_recording(ids, part.network)
    _, plain = metrics.by_recording(ids, part.baseline)
    index = part.index.iloc[firsts].reset_index(drop=True)
    counts = part.index.groupby("id").size()
    return Recordings(
        index,
        part.labels[firsts],
        network,
        plain,
        np.array([counts[name] for name in index["id"]], int),
    )


def summarise(
    calibrated: Scored,
    tested: Scored,
    codes: Sequence[str],
    chosen: Mapping[str, Any],
    rival: Mapping[str, Any],
    corrected: calibration.Calibration,
    config: EvaluateConfig,
    training: Mapping[str, Mapping[str, float | None]],
) -> dict[str, Any]:
    """Measure network and baseline on the test recordings.

    Args:
        calibrated: Calibration windows.
        tested: Test windows.
        codes: Species in the order of the scores.
        chosen: Thresholds of the network.
        rival: Thresholds of the baseline, chosen by the same rule.
        corrected: From scores to probabilities.
        config: Target rate and seed.
        training: What the train part holds of each species, of `FeatureSet.training`.

    Returns:
        What `metrics.json` holds; each figure has a value and the ends of its interval, None
        where the data do not give them.
    """
    recordings = by_recording(tested)
    cuts = thresholds.as_array(chosen, codes)
    figures = {
        "network": Figures(recordings.network, recordings.labels, cuts),
        "baseline": Figures(
            recordings.baseline, recordings.labels, thresholds.as_array(rival, codes)
        ),
    }
    groups = [str(group) for group in recordings.index["group"]]
    told, differences = metrics.headlines(figures, groups, config.seed)
    by_window = {
        name: Figures(scores, tested.labels, one.thresholds)
        for (name, one), scores in zip(
            figures.items(), (tested.network, tested.baseline), strict=True
        )
    }
    species = _per_species(calibrated, recordings, tested, figures, codes, chosen, training)
    told_by_window, differences_by_window = metrics.headlines(by_window, tested.groups, config.seed)
    return {
        "unit": "recording: the highest score of its windows",
        "interval": "95 %, bootstrap of groups, wider where they are few, of cmAP and F1 less what "
        f"drawing a recording twice adds to them; of fewer than {bootstrap.FEWEST_GROUPS} groups "
        "none; of shares exact binomial by groups there and where all or none are right",
        "ties": "of equal scores the species that stands first in classes.json counts",
        "counts": _counts(calibrated, recordings, tested, codes, chosen),
        "network": _as_json(told["network"]),
        "baseline": _as_json(told["baseline"]),
        "difference": _as_json(differences),
        "per_window": {
            "unit": thresholds.UNIT + ": the highest score of its frames",
            "network": _as_json(told_by_window["network"]),
            "baseline": _as_json(told_by_window["baseline"]),
            "difference": _as_json(differences_by_window),
        },
        "false_positives": _realised(tested, cuts, config),
        "calibration": _calibration_on_test(corrected, tested),
        "per_species": species,
        "data_effects": data_effects.effects(species),
    }


def calibration_json(found: calibration.Calibration, part: Scored) -> dict[str, Any]:
    after = found.probabilities(part.network)
    return {
        **found.as_json(),
        "windows": len(part.index),
        "ece_before": calibration.reliability(part.network, part.labels).ece,
        "ece_after": calibration.reliability(after, part.labels).ece,
        "log_loss_before": calibration.log_loss(part.network, part.labels),
        "log_loss_after": calibration.log_loss(after, part.labels),
    }


def _calibration_on_test(found: calibration.Calibration, part: Scored) -> dict[str, Any]:
    after = found.probabilities(part.network)
    return {
        "method": found.method,
        "temperature": found.temperature,
        "note": found.note,
        "ece_before": calibration.reliability(part.network, part.labels).ece,
        "ece_after": calibration.reliability(after, part.labels).ece,
    }


def _counts(
    calibrated: Scored,
    recordings: Recordings,
    tested: Scored,
    codes: Sequence[str],
    chosen: Mapping[str, Any],
) -> dict[str, int]:
    how = [entry["how"] for entry in chosen["species"].values()]
    return {
        "test_recordings": len(recordings.index),
        "test_windows": len(tested.index),
        "test_groups": int(recordings.index["group"].astype(str).nunique()),
        "test_species": int(recordings.index["label"].nunique()),
        "calibration_recordings": int(calibrated.index["id"].nunique()),
        "calibration_windows": len(calibrated.index),
        "species": len(codes),
        "thresholds_own": how.count("own"),
        "thresholds_pooled": how.count("pooled"),
        "thresholds_none": how.count("none"),
    }


def _realised(
    tested: Scored, cuts: npt.NDArray[np.float64], config: EvaluateConfig
) -> dict[str, Any]:
    """False positives and recall on test windows, averaged over species, with intervals."""
    figures = Figures(tested.network, tested.labels, cuts)
    told = {"target": config.target_fpr, "unit": thresholds.UNIT}
    if not len(tested.index) or not np.isfinite(cuts).any():
        nothing = Interval(None, None, None).as_json()
        return {**told, "false_positive_rate": nothing, "recall": nothing}
    values = figures.rates(np.ones((1, len(tested.index)), np.float32))
    drawn = bootstrap.draw(figures.rates, tested.groups, config.seed)
    count = len(set(tested.groups))
    return {
        **told,
        **{
            name: bootstrap.share_of_units(float(values[name][0]), drawn[name], count).as_json()
            for name in values
        },
    }


def _per_species(
    calibrated: Scored,
    recordings: Recordings,
    tested: Scored,
    figures: Mapping[str, Figures],
    codes: Sequence[str],
    chosen: Mapping[str, Any],
    training: Mapping[str, Mapping[str, float | None]],
) -> dict[str, dict[str, Any]]:
    once = np.ones((1, len(recordings.index)), np.float32)
    areas = {name: one.per_species(once)[0][0] for name, one in figures.items()}
    right = {
        "network": metrics.correct(recordings.network, recordings.labels),
        "baseline": metrics.correct(recordings.baseline, recordings.labels),
    }
    groups = np.array(tested.groups, str)
    held_out = calibrated.index.drop_duplicates("id")["label"].value_counts()
    table: dict[str, dict[str, Any]] = {}
    for column, code in enumerate(codes):
        mine = recordings.labels[:, column] == 1
        threshold = chosen["species"][code]["threshold"]
        entry: dict[str, Any] = {
            "training": dict(training.get(code, {})),
            "test_recordings": int(mine.sum()),
            "calibration_recordings": int(held_out.get(code, 0)),
            "test_negatives": int((tested.labels[:, column] == 0).sum()),
            "test_positives": int((tested.labels[:, column] == 1).sum()),
            "false_positive_rate": _share_above(tested, groups, column, 0, threshold),
            "recall": _share_above(tested, groups, column, 1, threshold),
        }
        for name in figures:
            entry[f"{name}_accuracy"] = float(right[name][mine].mean()) if mine.any() else None
            entry[f"{name}_auc"] = _finite(areas[name][column])
        table[code] = entry
    return table


def _share_above(
    part: Scored,
    groups: npt.NDArray[np.str_],
    column: int,
    label: int,
    threshold: float | None,
) -> dict[str, float | None]:
    """Share of the windows with a label that score above; each group counts as one for its ends."""
    if threshold is None:
        return Interval(None, None, None).as_json()
    which = np.flatnonzero(part.labels[:, column] == label)
    if not len(which):
        return Interval(None, None, None).as_json()
    value = float((part.network[which, column] > threshold).mean())
    count = len(np.unique(groups[which]))
    exact = bootstrap.share(value * count, count)
    return Interval(value, exact.low, exact.high).as_json()


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _as_json(figures: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    return {name: interval.as_json() for name, interval in figures.items()}
