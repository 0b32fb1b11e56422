"""Intervals: how far a figure could be off, since the test set is a sample.

Groups (such as one author's recordings of one day and place) are drawn as a whole: recordings of
one group are alike, and drawing them one by one would give intervals that are too narrow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Statistics = Callable[[npt.NDArray[np.float32]], Mapping[str, Floats]]
"""Takes weights (draws, units), gives named figures (draws,); NaN where a draw has none."""

DRAWS = 1000
LEVEL = 0.95
FEWEST_GROUPS = 5
"""Of fewer groups the draws are so few different ones that no interval is read off them."""
_BLOCK = 4_000_000
"""Most weights that are held at a time, 16 MB."""


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval; all are None where the data do not give one."""

    value: float | None
    low: float | None
    high: float | None

    def as_json(self) -> dict[str, float | None]:
        """The three numbers, ready for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


def draw(
    statistics: Statistics, groups: Sequence[object], seed: int, draws: int = DRAWS
) -> dict[str, npt.NDArray[np.float64]]:
    """Compute figures on resampled groups.

    Args:
        statistics: Computes the figures from weights, how often each unit was drawn.
        groups: Group of each unit, shape (units,).
        seed: Seed of the draws; the same seed draws the same groups, so that the difference of
            two figures of the same units is a paired one.
        draws: Number of draws.

    Returns:
        Each figure in each draw, shape (draws,).

    Source:
        Field and Welsh, "Bootstrapping clustered data" (2007): the cluster bootstrap.
    """
    _, which = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    count = int(which.max(initial=-1)) + 1
    rng = np.random.default_rng(seed)
    found: dict[str, list[Floats]] = {}
    block = max(1, min(draws, _BLOCK // max(1, len(which))))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        # How often each group is among `count` draws with replacement.
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=size)
        for name, values in statistics(drawn[:, which].astype(np.float32)).items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in found.items()}


def percentiles(value: float, drawn: npt.NDArray[np.float64], groups: int) -> Interval:
    """A figure with the interval of its draws.

    Of few groups the plain percentiles lie too close together; they are taken further out, as
    far as Student's t lies beyond the normal distribution.

    Args:
        value: The figure on all units; NaN gives an empty interval.
        drawn: The figure in each draw; NaN where it has none.
        groups: Number of groups; fewer than `FEWEST_GROUPS` give no interval.

    Source:
        Hesterberg, "What teachers should know about the bootstrap" (2015): the expanded
        percentile interval. In simulations of a share with groups of unequal size, alike within,
        it covers the truth in 94 to 95 of 100 data sets of 5 to 20 groups, the plain percentiles
        in 88 to 93; of 30 and 60 groups both in 92 to 94.
    """
    from scipy.special import ndtr, stdtrit

    if not np.isfinite(value):
        return Interval(None, None, None)
    kept = drawn[np.isfinite(drawn)]
    if groups < FEWEST_GROUPS or not len(kept):
        return Interval(float(value), None, None)
    wider = np.sqrt(groups / (groups - 1)) * stdtrit(groups - 1, (1 - LEVEL) / 2)
    tail = 100 * float(ndtr(wider))
    low, high = np.percentile(kept, [tail, 100 - tail])
    return Interval(float(value), float(low), float(high))


def centred(
    value: float,
    drawn: npt.NDArray[np.float64],
    groups: int,
    lowest: float = 0.0,
    highest: float = 1.0,
) -> Interval:
    """A figure with the interval of its draws, less what drawing twice adds to it.

    A unit that is drawn twice stands beside its copy in a ranking, so average precision rises in
    the draws and the plain percentiles lie too high. The mean rise is taken off both ends, and
    the ends are kept between `lowest` and `highest`.

    Source:
        Efron, "Bootstrap methods: another look at the jackknife" (1979): the bootstrap's estimate
        of bias. In simulations with 60 and 200 units and 8 species it covers cmAP in 94 and 96 of
        100 data sets, the basic interval (percentiles mirrored at the figure) in 86 and 92.
    """
    interval = percentiles(value, drawn, groups)
    if interval.low is None or interval.high is None:
        return interval
    rise = float(np.mean(drawn[np.isfinite(drawn)])) - value
    return Interval(
        interval.value,
        min(max(interval.low - rise, lowest), highest),
        min(max(interval.high - rise, lowest), highest),
    )


def share(hits: float, count: float) -> Interval:
    """A share with its exact binomial interval, for counts of independent units.

    Source:
        Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case
        of the binomial" (1934).
    """
    from scipy.special import betaincinv

    if count <= 0:
        return Interval(None, None, None)
    tail = (1 - LEVEL) / 2
    low = betaincinv(hits, count - hits + 1, tail) if hits > 0 else 0.0
    high = betaincinv(hits + 1, count - hits, 1 - tail) if hits < count else 1.0
    return Interval(float(hits / count), float(low), float(high))


def share_of_units(value: float, drawn: npt.NDArray[np.float64], groups: int) -> Interval:
    """A share of units (such as accuracy) with its interval.

    Where all units are right, or all wrong, every draw is the same and the percentiles would
    claim certainty; of very few groups there are no percentiles. There the exact binomial
    interval of that many groups is given, as if each group were one unit: never too narrow, since
    units of a group tell at least as much as one of them. One group alone says nothing about
    others.

    Source:
        Hoeffding, "Probability inequalities for sums of bounded random variables" (1963): the
        binomial is the widest of means of values between 0 and 1.
    """
    interval = percentiles(value, drawn, groups)
    if groups > 1 and (value in (0.0, 1.0) or groups < FEWEST_GROUPS):
        exact = share(value * groups, groups)
        return Interval(float(value), exact.low, exact.high)
    return interval
