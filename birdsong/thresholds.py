"""Decision thresholds that keep a false-positive rate, fitted on calibration windows alone.

A rate can be promised in two ways, both whatever the distribution of scores, as long as new
windows are like the calibration's (exchangeable):

- With confidence (the default): of n windows without a species, the true rate above the k-th
  highest is at most Beta(k, n - k + 1) distributed, so a k is taken for which that is below the
  wanted rate with, say, 95 %. A rate of 1 % needs 299 windows.
- On average (confidence 0): a new window exceeds the k-th highest with probability at most
  k / (n + 1). A rate of 1 % needs 99 windows, but the threshold of any one calibration set misses
  it about as often as not.

Windows of one group (such as an author's recordings of one day and place) are alike: a hundred of
them tell little more than one. So each group counts once, by one of its windows that is drawn by
chance. A species with too few groups cannot be promised the rate: it shares the pooled threshold.

Source:
    Tolerance limits: Wilks, "Determination of sample sizes for setting tolerance limits" (1941).
    Split-conformal prediction: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random
    World" (2005).
"""

import math
from bisect import bisect_left
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
    confidence: float = 0.95,
    groups: Sequence[object] | None = None,
    seed: int = 0,
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
        confidence: How sure a species' own threshold keeps the rate, in [0, 1); 0: on average.
        groups: Group of each window, shape (windows,); None: each is a group of its own.
        seed: Seed of the draw of one window of each group.

    Returns:
        What `thresholds.json` holds: for each species its threshold (None: it is never
        reported), how it was chosen (own, pooled, none), groups, negatives and positives, the
        rate on calibration, and the smallest rate that its groups could promise; pooled: the
        threshold over all species' negatives, which aims at the rate on average over species.

    Raises:
        DataError: The shapes do not fit together.
    """
    if scores.shape != labels.shape or scores.shape[1:] != (len(codes),):
        raise DataError(
            f"pick_thresholds: got scores of shape {scores.shape} and labels of shape "
            f"{labels.shape} for {len(codes)} species; all need (windows, species)."
        )
    if groups is not None and len(groups) != len(scores):
        raise DataError(
            f"pick_thresholds: got {len(groups)} groups for {len(scores)} windows; each window "
            "needs one."
        )
    names = np.arange(len(scores)) if groups is None else np.asarray(groups, str)
    order = np.random.default_rng(seed).permutation(len(scores))
    every = scores[labels == 0]
    pooled = conformal_threshold(every, target_fpr)
    species = {
        code: _entry(
            scores[:, column],
            labels[:, column],
            one_of_each(names, labels[:, column] == 0, order),
            pooled,
            target_fpr,
            confidence,
            min_positives,
        )
        for column, code in enumerate(codes)
    }
    own = sum(entry["how"] == "own" for entry in species.values())
    shared = sum(entry["how"] == "pooled" for entry in species.values())
    return {
        "target_fpr": target_fpr,
        "confidence": confidence,
        "unit": UNIT,
        "rule": "heard where score > threshold",
        "promise": _promise(target_fpr, confidence),
        "needed_groups": needed(target_fpr, confidence),
        "windows": len(scores),
        "groups": len(np.unique(names)),
        "note": _note(len(scores), len(codes), own, shared, len(every), target_fpr, confidence),
        "cannot_be_promised": [
            code for code, entry in species.items() if entry["smallest_rate"] > target_fpr + 1e-12
        ],
        "pooled": {
            "threshold": pooled,
            "promise": "Aims at the rate on average over species, not for each of them; it counts "
            "every pair of a window and an absent species as if all were independent.",
            "negatives": len(every),
            "positives": int((labels == 1).sum()),
            "calibration_fpr": _share_above(every, pooled),
        },
        "species": species,
    }


def one_of_each(
    groups: npt.NDArray[Any], wanted: npt.NDArray[np.bool_], order: npt.NDArray[np.int_]
) -> npt.NDArray[np.int_]:
    """One wanted window of each group, the first along an order that does not know the scores.

    Args:
        groups: Group of each window, shape (windows,).
        wanted: Which windows may be taken, shape (windows,).
        order: A permutation of the windows.

    Returns:
        Window numbers, at most one of each group.
    """
    allowed = order[wanted[order]]
    _, firsts = np.unique(groups[allowed], return_index=True)
    taken: npt.NDArray[np.int_] = allowed[firsts]
    return taken


def safe_threshold(
    negatives: npt.NDArray[np.float32], target_fpr: float, confidence: float
) -> float | None:
    """The smallest threshold that keeps `target_fpr` with a confidence, or on average.

    Args:
        negatives: Scores of independent windows without the species, shape (windows,).
        target_fpr: In (0, 1).
        confidence: In [0, 1); 0 takes the rule that keeps the rate on average.

    Returns:
        One of the scores; None where they are too few.
    """
    if confidence == 0:
        return conformal_threshold(negatives, target_fpr)
    return _from_top(negatives, tolerance_rank(len(negatives), target_fpr, confidence))


def conformal_threshold(negatives: npt.NDArray[np.float32], target_fpr: float) -> float | None:
    """The smallest threshold whose false-positive rate is at most `target_fpr` on average.

    Args:
        negatives: Scores of windows without the species, shape (windows,).
        target_fpr: In (0, 1).

    Returns:
        The score of rank floor((n + 1) * target_fpr) from the top; None where that is rank 0.
    """
    # The product may lie a rounding error below a whole number, as 100 * 0.29 does. Beyond n any
    # threshold keeps the rate; that of the lowest score is the smallest one that was seen.
    rank = min(math.floor((len(negatives) + 1) * target_fpr + 1e-9), len(negatives))
    return _from_top(negatives, rank)


def tolerance_rank(count: int, target_fpr: float, confidence: float) -> int:
    """The largest k for which the k-th highest of `count` scores keeps a rate with confidence.

    The rate above the k-th highest is Beta(k, count - k + 1) distributed (smaller where scores
    are equal). 0 where there is no such k.
    """
    from scipy.special import betainc

    def falls_short(rank: int) -> bool:
        # A confidence that is just reached may lie a rounding error below.
        return bool(betainc(rank, count - rank + 1, target_fpr) < confidence - 1e-12)

    # Confidence falls with the rank, so the ranks that keep it are the first ones.
    return bisect_left(range(1, count + 1), True, key=falls_short)


def needed(target_fpr: float, confidence: float) -> int:
    """Fewest independent windows without a species for which a rate can be promised."""
    if confidence == 0:
        return math.ceil(1 / target_fpr - 1e-9) - 1
    return math.ceil(math.log1p(-confidence) / math.log1p(-target_fpr) - 1e-9)


def smallest_rate(count: int, confidence: float) -> float:
    """The smallest rate that so many independent windows without a species can promise."""
    if count == 0:
        return 1.0
    if confidence == 0:
        return 1 / (count + 1)
    return -math.expm1(math.log1p(-confidence) / count)


def as_array(thresholds: Mapping[str, Any], codes: Sequence[str]) -> npt.NDArray[np.float64]:
    """Thresholds in the order of `codes`; NaN where a species has none."""
    return np.array(
        [
            math.nan if (found := thresholds["species"][code]["threshold"]) is None else found
            for code in codes
        ],
        np.float64,
    )


def _from_top(scores: npt.NDArray[np.float32], rank: int) -> float | None:
    """The score of a rank from the top, 1 for the highest; None for rank 0."""
    if rank < 1:
        return None
    return float(-np.partition(-scores, rank - 1)[rank - 1])


def _entry(
    scores: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int8],
    independent: npt.NDArray[np.int_],
    pooled: float | None,
    target_fpr: float,
    confidence: float,
    min_positives: int,
) -> dict[str, Any]:
    negatives, positives = scores[labels == 0], scores[labels == 1]
    count, rate = len(independent), smallest_rate(len(independent), confidence)
    own = safe_threshold(scores[independent], target_fpr, confidence)
    if own is None:
        reason = (
            f"{100 * target_fpr:g} % cannot be promised: {count} groups without it, a promise "
            f"needs {needed(target_fpr, confidence)}; the smallest rate that they allow is "
            f"{100 * rate:.2g} %"
        )
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
        "groups": count,
        "negatives": len(negatives),
        "positives": len(positives),
        "unknown": int((labels < 0).sum()),
        "calibration_fpr": _share_above(negatives, threshold),
        "calibration_recall": _share_above(positives, threshold),
        "smallest_rate": rate,
    }


def _share_above(scores: npt.NDArray[np.float32], threshold: float | None) -> float | None:
    if threshold is None or not len(scores):
        return None
    return float((scores > threshold).mean())


def _promise(target: float, confidence: float) -> str:
    sure = (
        f"With {100 * confidence:g} % confidence for each species"
        if confidence
        else "On average over draws of the calibration recordings"
    )
    return (
        f"{sure}, a threshold of its own is exceeded in at most {100 * target:g} % of the windows "
        "without the species. Windows of one group count as one, and a new window is one of a new "
        "group like those of calibration."
    )


def _note(
    windows: int,
    species: int,
    own: int,
    shared: int,
    pairs: int,
    target: float,
    confidence: float,
) -> str:
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
    sure = f"with {100 * confidence:g} % confidence" if confidence else "on average"
    if own:
        told = (
            f"{own} of {species} species have a threshold of their own that promises {percent} "
            f"{sure} for windows like those of calibration; windows of one group count as one."
        )
    else:
        told = (
            f"No species has a threshold of its own: the groups of the {windows} calibration "
            f"windows are too few to promise {percent} {sure} for a single species (that needs "
            f"{needed(target, confidence)} groups without it), or hold it too rarely."
        )
    if shared:
        told += (
            f" {shared} share the pooled threshold, which aims at {percent} on average over "
            "species and promises it for none of them."
        )
    return told
