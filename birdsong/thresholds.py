"""Decision thresholds that keep a false-positive rate, fitted on calibration windows alone.

The k-th highest of n windows without a species is exceeded by a new such window with probability
at most k / (n + 1), whatever the distribution of scores, as long as new windows are like the
calibration's (exchangeable). So for a rate r the threshold is the one of rank floor((n + 1) r), and
a species with too few such windows cannot be promised that rate: it shares the pooled threshold.

Source:
    Split-conformal prediction: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random
    World" (2005).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from birdsong.errors import DataError

UNIT = "window of up to 60 s"


def pick_thresholds(
    scores: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int8],
    codes: Sequence[str],
    target_fpr: float,
    min_positives: int,
) -> dict[str, Any]:
    """Choose a threshold for each species, and one over all of them.

    A species counts as heard where its score is above (not at) its threshold.

    Args:
        scores: Calibration windows' scores in [0, 1], shape (windows, species).
        labels: 1 present, -1 unknown (secondary, left out), 0 absent, the same shape.
        codes: Species in the order of the columns.
        target_fpr: Share of windows without a species that may still score above, in (0, 1).
        min_positives: Fewest positive windows for a threshold of one's own: below it nobody
            could say what the threshold costs in recall.

    Returns:
        What `thresholds.json` holds: for each species its threshold (None: it is never
        reported), how it was chosen (own, pooled, none), negatives and positives, the rate on
        calibration, and the smallest rate that its negatives could promise; pooled: the
        threshold over all species' negatives, which promises the rate on average over species.

    Raises:
        DataError: The shapes do not fit together.
    """
    if scores.shape != labels.shape or scores.shape[1:] != (len(codes),):
        raise DataError(
            f"pick_thresholds: got scores of shape {scores.shape} and labels of shape "
            f"{labels.shape} for {len(codes)} species; all need (windows, species)."
        )
    absent = labels == 0
    every = scores[absent]
    pooled = conformal_threshold(every, target_fpr)
    species = {
        code: _entry(
            scores[:, column],
            labels[:, column],
            pooled,
            target_fpr,
            min_positives,
        )
        for column, code in enumerate(codes)
    }
    own = sum(entry["how"] == "own" for entry in species.values())
    shared = sum(entry["how"] == "pooled" for entry in species.values())
    return {
        "target_fpr": target_fpr,
        "unit": UNIT,
        "rule": "heard where score > threshold",
        "windows": len(scores),
        "note": _note(len(scores), len(codes), own, shared, len(every), target_fpr),
        "pooled": {
            "threshold": pooled,
            "negatives": len(every),
            "positives": int((labels == 1).sum()),
            "calibration_fpr": _share_above(every, pooled),
        },
        "species": species,
    }


def conformal_threshold(negatives: npt.NDArray[np.float32], target_fpr: float) -> float | None:
    """The smallest threshold whose false-positive rate is promised to be at most `target_fpr`.

    Args:
        negatives: Scores of windows without the species, shape (windows,).
        target_fpr: In (0, 1).

    Returns:
        The score of rank floor((n + 1) * target_fpr) from the top; None where that is rank 0.
    """
    # The product may lie a rounding error below a whole number, as 100 * 0.29 does. Beyond n any
    # threshold keeps the rate; that of the lowest score is the smallest one that was seen.
    rank = min(math.floor((len(negatives) + 1) * target_fpr + 1e-9), len(negatives))
    if rank < 1:
        return None
    return float(-np.partition(-negatives, rank - 1)[rank - 1])


def as_array(thresholds: Mapping[str, Any], codes: Sequence[str]) -> npt.NDArray[np.float64]:
    """Thresholds in the order of `codes`; NaN where a species has none."""
    return np.array(
        [
            math.nan if (found := thresholds["species"][code]["threshold"]) is None else found
            for code in codes
        ],
        np.float64,
    )


def _entry(
    scores: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int8],
    pooled: float | None,
    target_fpr: float,
    min_positives: int,
) -> dict[str, Any]:
    negatives, positives = scores[labels == 0], scores[labels == 1]
    own = conformal_threshold(negatives, target_fpr)
    if own is None:
        needed = math.ceil(1 / target_fpr - 1e-9) - 1
        reason = f"{len(negatives)} windows without it, a promise needs {needed}"
    elif len(positives) < min_positives:
        reason = f"{len(positives)} windows with it, its own threshold needs {min_positives}"
    else:
        reason = ""
    threshold = own if not reason else pooled
    how = "own" if not reason else "pooled" if pooled is not None else "none"
    return {
        "threshold": threshold,
        "how": how,
        "reason": reason,
        "negatives": len(negatives),
        "positives": len(positives),
        "unknown": int((labels < 0).sum()),
        "calibration_fpr": _share_above(negatives, threshold),
        "calibration_recall": _share_above(positives, threshold),
        "smallest_rate": 1 / (len(negatives) + 1),
    }


def _share_above(scores: npt.NDArray[np.float32], threshold: float | None) -> float | None:
    if threshold is None or not len(scores):
        return None
    return float((scores > threshold).mean())


def _note(windows: int, species: int, own: int, shared: int, pairs: int, target: float) -> str:
    percent = f"{100 * target:g} %"
    if windows == 0:
        return (
            "There are no calibration windows, so no species has a threshold. Raise "
            "calibration_fraction, or give more recordings."
        )
    if own == 0 and shared == 0:
        return (
            f"{pairs} pairs of a window and a species that it does not hold are too few to "
            f"promise {percent}, so no species has a threshold. Raise calibration_fraction or "
            "target_fpr."
        )
    if own:
        told = (
            f"{own} of {species} species have a threshold of their own that promises {percent} "
            "for windows like those of calibration."
        )
    else:
        told = (
            f"No species has a threshold of its own: the {windows} calibration windows are too "
            f"few to promise {percent} for a single species."
        )
    if shared:
        told += (
            f" {shared} share the pooled threshold, which promises {percent} on average over "
            "species, not for each of them."
        )
    return told
