"""Gates: what a model must show before it is offered for deployment.

A refusal is an answer, not an error: the model is kept, marked as rejected with the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from birdsong import bootstrap, bundle, golden
from birdsong.bootstrap import Interval
from birdsong.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 2000
FEWEST_COMMON = 10
"""Fewest test recordings that two models must share to be compared."""


@dataclass(frozen=True)
class Verdict:
    """What a gate says.

    Attributes:
        accepted: Whether the model is offered for deployment.
        reason: One or two sentences for people.
        figures: What the decision rests on, for the log.
    """

    accepted: bool
    reason: str
    figures: dict[str, float] = field(default_factory=dict)


def paired_interval(
    differences: npt.NDArray[np.float64], groups: npt.NDArray[np.object_], seed: int
) -> Interval:
    """Mean of paired differences and its 95 % interval, groups drawn as a whole.

    Args:
        differences: One model's correctness minus the other's for the same recording, -1, 0 or
            1, shape (recordings,), at least one.
        groups: Group of each recording, shape (recordings,).
        seed: Seed of the draws.

    Returns:
        The mean and its ends, which are None where all recordings are of one group.
    """

    def mean(weights: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float64]]:
        return {"difference": weights @ differences / weights.sum(axis=1)}

    drawn = bootstrap.draw(mean, groups.tolist(), seed, RESAMPLES)
    count = len(set(groups.tolist()))
    return bootstrap.percentiles(float(differences.mean()), drawn["difference"], count)


def judge(
    gate: Literal["none", "baseline", "champion"],
    candidate: str | Path,
    champion: str | Path | None,
    seed: int,
) -> Verdict:
    """Judge a bundle.

    Args:
        gate: none, baseline or champion.
        candidate: The bundle.
        champion: Bundle of the version that carries the alias, None where there is none; only
            the gate champion looks at it.
        seed: Seed of the paired bootstrap.
    """
    if gate == "none":
        return Verdict(True, "Gate none: accepted without a check.")
    folder = Path(candidate)
    lacking = _lacking(folder)
    if lacking:
        return Verdict(False, lacking)
    if gate == "champion" and champion is not None:
        return against_champion(folder, Path(champion), seed)
    verdict = against_baseline(folder, seed)
    if gate == "champion":
        return Verdict(
            verdict.accepted,
            f"No champion is registered yet, so the baseline decides. {verdict.reason}",
            verdict.figures,
        )
    return verdict


def _lacking(folder: Path) -> str:
    """What a bundle lacks to be served and checked at all; empty where nothing."""
    found = bundle.read_bundle(folder)
    if all(species.threshold is None for species in found.species):
        return (
            "No species has a threshold, so that nothing would ever be reported. Give more "
            "recordings to calibration (calibration_fraction), or raise target_fpr."
        )
    try:
        recordings = golden.read_golden(folder / bundle.GOLDEN, found.codes)
    except DataError as error:
        return f"The golden recordings cannot be used: {error}"
    if not recordings:
        return (
            "There is no golden recording to check a server with. Give recordings to calibration "
            "(calibration_fraction) and set golden to 1 or more."
        )
    return ""


def against_baseline(folder: Path, seed: int) -> Verdict:
    """Refuse a network that is worse than the baseline beyond the interval."""
    scores = _test_scores(folder)
    if scores.empty:
        return Verdict(
            False,
            "There are no test recordings to measure the network on. Raise test_fraction.",
        )
    return _compared(
        scores["correct"].to_numpy(float),
        scores["baseline_correct"].to_numpy(float),
        scores["group"].to_numpy(object),
        "the baseline",
        seed,
    )


def against_champion(folder: Path, champion: Path, seed: int) -> Verdict:
    """Refuse a model that is worse than the champion on the test recordings of both.

    The champion may have been trained on recordings that are in the new model's test set, so only
    those that neither was trained on, the test recordings of both, make a fair comparison. They
    are matched by content.
    """
    ours, theirs = _test_scores(folder), _test_scores(champion)
    common = ours.merge(
        theirs[["sha256", "correct"]].drop_duplicates("sha256"),
        on="sha256",
        suffixes=("", "_champion"),
    )
    if len(common) < FEWEST_COMMON:
        return Verdict(
            False,
            f"The champion was tested on {len(common)} of this model's {len(ours)} test "
            f"recordings; {FEWEST_COMMON} are needed for a fair comparison. Keep the seed and "
            "the fractions of the split as they were in the champion's run, or use gate baseline "
            "once.",
            {"common_recordings": float(len(common))},
        )
    return _compared(
        common["correct"].to_numpy(float),
        common["correct_champion"].to_numpy(float),
        common["group"].to_numpy(object),
        "the champion",
        seed,
    )


def _compared(
    ours: npt.NDArray[np.float64],
    theirs: npt.NDArray[np.float64],
    groups: npt.NDArray[np.object_],
    other: str,
    seed: int,
) -> Verdict:
    interval = paired_interval(ours - theirs, groups, seed)
    difference = float((ours - theirs).mean())
    figures = {
        "compared_recordings": float(len(ours)),
        "accuracy": float(ours.mean()),
        "compared_accuracy": float(theirs.mean()),
        "accuracy_difference": difference,
    }
    told = (
        f"accuracy {ours.mean():.3f} against {theirs.mean():.3f} of {other} on {len(ours)} test "
        f"recordings, difference {difference:+.3f}"
    )
    if interval.low is None or interval.high is None:
        # No interval, no doubt to give the benefit of: the figures themselves decide.
        accepted = difference >= 0
        return Verdict(
            accepted,
            f"{'Not worse' if accepted else 'Worse'} than {other}: {told}; the test recordings are "
            "too few groups for an interval (group_by, test_fraction).",
            figures,
        )
    figures |= {
        "accuracy_difference_low": interval.low,
        "accuracy_difference_high": interval.high,
    }
    told += f" ({interval.low:+.3f} to {interval.high:+.3f})"
    if interval.high < 0:
        return Verdict(False, f"Worse than {other} beyond the interval: {told}.", figures)
    return Verdict(True, f"Not worse than {other} beyond the interval: {told}.", figures)


def _test_scores(folder: Path) -> "pd.DataFrame":
    import pandas as pd

    place = folder / bundle.TEST_SCORES
    needed = ["sha256", "group", "correct", "baseline_correct"]
    try:
        scores = pd.read_parquet(place, columns=needed)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{place} cannot be read ({error}); it needs the columns {', '.join(needed)}. "
            "Run evaluate-threshold again."
        ) from error
    return scores


def headline(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The figures of metrics.json that have a value, as flat names for a registry."""
    flat: dict[str, float] = {}
    for side in ("network", "baseline"):
        for name, figure in (metrics.get(side) or {}).items():
            if isinstance(figure, Mapping) and isinstance(figure.get("value"), int | float):
                flat[f"{side}_{name}"] = float(figure["value"])
    return flat
