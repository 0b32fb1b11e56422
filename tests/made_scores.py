"""Scores of known distributions, on which it is known how often a threshold is exceeded.

A window's score (as a logit) for a species that it does not hold is normal around the species'
level with variance 1, a part of which its group shares; one that holds it lies `SHIFT` higher. So
the true false-positive rate and recall of any threshold are values of the normal distribution.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from birdsong.thresholds import conformal_threshold, one_of_each, safe_threshold

SHIFT = 3.5
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """A setting of the simulation.

    Attributes:
        name: For the table.
        groups: Calibration groups.
        windows: Mean windows of a group, geometrically distributed; 1: each has one.
        shared: Share of a score's variance that is the group's, 0 to 1.
        drift: How much louder new windows are than those of calibration.
        spread: Standard deviation of new windows' scores, that of calibration's being 1.
        levels: Standard deviation of the species' levels.
    """

    name: str
    groups: int
    windows: float
    shared: float
    drift: float = 0.0
    spread: float = 1.0
    levels: float = 1.0


WORLDS = (
    World("exchangeable, 299 windows", 299, 1, 0),
    World("exchangeable, 1,000 windows", 1000, 1, 0),
    World("grouped, 1,000 windows of 333 groups", 333, 3, 0.7),
    World("grouped, 3,000 windows of 300 groups", 300, 10, 0.7),
    World("grouped, species alike", 333, 3, 0.7, levels=0.0),
    World("few groups, 90 windows of 30 groups", 30, 3, 0.7),
    World("other windows: louder by half a deviation", 1000, 1, 0, drift=0.5),
    World("other windows: a quarter more spread", 1000, 1, 0, spread=1.25),
)


@dataclass(frozen=True)
class Kept:
    """What a rule did over all draws; NaN where it gives no threshold.

    Attributes:
        coverage: Share of draws and species with a true rate of at most the target.
        worst: The same for the species for which it is lowest.
        rate: Mean true false-positive rate.
        recall: Mean true recall.
    """

    coverage: float
    worst: float
    rate: float
    recall: float


def _median_of_all(scores: npt.NDArray[np.float32], target: float) -> npt.NDArray[np.float32]:
    """The reference's rule: the median of the species' empirical thresholds, for all of them."""
    return np.full(scores.shape[1], np.median(np.quantile(scores, 1 - target, axis=0)))


def _pooled(scores: npt.NDArray[np.float32], target: float) -> Floats:
    """What species share that cannot be promised the rate: one threshold over all negatives."""
    return np.full(scores.shape[1], conformal_threshold(scores.ravel(), target), float)


def rules(
    target: float, confidence: float
) -> dict[str, Callable[[npt.NDArray[np.float32], npt.NDArray[np.int_]], Floats]]:
    """Each rule takes scores (windows, species), and one window of each group."""

    def picked(scores: npt.NDArray[np.float32], sure: float) -> Floats:
        return np.array([safe_threshold(column, target, sure) for column in scores.T], float)

    sure = f"{100 * confidence:g} %"
    return {
        f"{sure}, group counts once (ours)": lambda scores, one: picked(scores[one], confidence),
        f"{sure}, every window counts": lambda scores, one: picked(scores, confidence),
        "on average, group counts once": lambda scores, one: picked(scores[one], 0),
        "on average, every window counts": lambda scores, one: picked(scores, 0),
        "pooled over species (ours, below the needed groups)": lambda scores, one: _pooled(
            scores, target
        ),
        "median of species' (reference)": lambda scores, one: _median_of_all(scores, target),
    }


def simulate(
    world: World, draws: int, species: int, target: float, confidence: float, seed: int
) -> dict[str, Kept]:
    """Draw calibration windows many times and see what each rule's thresholds do."""
    rng = np.random.default_rng(seed)
    levels = world.levels * rng.standard_normal(species)
    known = rules(target, confidence)
    exceeded: dict[str, list[Floats]] = {name: [] for name in known}
    found: dict[str, list[Floats]] = {name: [] for name in known}
    for _ in range(draws):
        groups = np.repeat(np.arange(world.groups), rng.geometric(1 / world.windows, world.groups))
        own = rng.standard_normal((len(groups), species))
        common = rng.standard_normal((world.groups, species))[groups]
        mixed = np.sqrt(world.shared) * common + np.sqrt(1 - world.shared) * own
        scores = (levels + mixed).astype(np.float32)
        one = one_of_each(groups, np.ones(len(groups), bool), rng.permutation(len(groups)))
        for name, rule in known.items():
            above = rule(scores, one) - levels - world.drift
            exceeded[name].append(norm.sf(above / world.spread))
            found[name].append(norm.sf((above - SHIFT) / world.spread))
    told = {}
    for name in known:
        rates = np.array(exceeded[name])
        kept = np.where(np.isnan(rates), np.nan, rates <= target)
        told[name] = Kept(
            float(kept.mean()),
            float(kept.mean(axis=0).min()),
            float(rates.mean()),
            float(np.mean(found[name])),
        )
    return told
