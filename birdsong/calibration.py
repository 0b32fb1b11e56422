"""From scores to probabilities: how often a species is there when its score says 0.7.

Thresholds decide on scores; probabilities are for people who read them. Two corrections are
tried, a temperature and an isotonic curve, and the one that gives new groups of recordings the
better probabilities is taken, or none. The server applies it by the same function as evaluation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from birdsong.errors import DataError

Scores = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int8]

LOWEST, HIGHEST = 1 / 8, 8.0
"""Range of temperatures; one at the lower end means that the fit ran away."""

BINS = 10
FOLDS = 5


@dataclass(frozen=True)
class Calibration:
    """A rising function from scores to probabilities, the same for all species.

    Attributes:
        temperature: probability = sigmoid(logit(score) / temperature): above 1 it softens scores,
            below 1 it sharpens them; 1 changes nothing.
        note: How it was found, or why it could not be fitted.
        knots: Scores and their probabilities, both rising; straight lines lie between them. Where
            there are any, they are the whole correction.
        losses: Cross-validated log loss of each method that was tried.
    """

    temperature: float
    note: str
    knots: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    losses: Mapping[str, float] = field(default_factory=dict)

    @property
    def method(self) -> Literal["identity", "temperature", "isotonic"]:
        """What it does to scores."""
        if self.knots[0]:
            return "isotonic"
        return "identity" if self.temperature == 1 else "temperature"

    def probabilities(self, scores: Scores) -> Scores:
        """Probabilities of scores in [0, 1], of any shape.

        Without knots 0 and 1 stay what they are.
        """
        if self.knots[0]:
            return np.interp(scores, *self.knots).astype(np.float32)
        if self.temperature == 1:
            return scores
        inside = _sigmoid(_logit(scores) / self.temperature).astype(np.float32)
        return np.where((scores > 0) & (scores < 1), inside, scores)

    def probability(self, score: float) -> float:
        """The probability of one score."""
        return float(self.probabilities(np.array([score], np.float32))[0])

    def as_json(self) -> dict[str, Any]:
        """What `calibration.json` holds, without the measurements."""
        return {
            "method": self.method,
            "temperature": self.temperature,
            "knots": {"score": list(self.knots[0]), "probability": list(self.knots[1])},
            "cross_validated_log_loss": dict(self.losses),
            "note": self.note,
        }


def from_json(found: Mapping[str, Any], place: str) -> Calibration:
    """Read what `calibration.json` holds.

    Args:
        found: Its content; knots may be absent, as in files of an earlier version.
        place: Where it was read, for messages.

    Raises:
        DataError: It does not describe a rising function to probabilities.
    """
    try:
        temperature = float(found["temperature"])
        knots = found.get("knots") or {"score": [], "probability": []}
        scores, chances = (np.array(knots[name], float) for name in ("score", "probability"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{place} does not have the expected form ({error!r}). Register the model again."
        ) from error
    if not (math.isfinite(temperature) and temperature > 0):
        raise DataError(f"{place}: temperature {temperature} is not above 0.")
    if (
        scores.shape != chances.shape
        or scores.ndim != 1
        or not (np.isfinite(scores).all() and ((chances >= 0) & (chances <= 1)).all())
        or (np.diff(scores) <= 0).any()
        or (np.diff(chances) < 0).any()
    ):
        raise DataError(
            f"{place}: its knots do not rise from score to probability in [0, 1]. "
            "Run evaluate-threshold again."
        )
    return Calibration(
        temperature,
        str(found.get("note", "")),
        (tuple(scores.tolist()), tuple(chances.tolist())),
        found.get("cross_validated_log_loss") or {},
    )


@dataclass(frozen=True)
class Reliability:
    """How often species were there, against how often the probabilities said so.

    Attributes:
        said: Mean probability in each bin, shape (bins,); bins are of equal width, without those
            that hold no pair.
        found: Share of pairs in the bin in which the species was there, shape (bins,).
        pairs: Pairs of window and species in the bin, shape (bins,).
        ece: Expected calibration error: mean |said - found| weighted by pairs; None without any.
    """

    said: list[float]
    found: list[float]
    pairs: list[int]
    ece: float | None


def fit_temperature(scores: Scores, labels: Labels) -> Calibration:
    """Fit a temperature by log loss on calibration windows.

    Args:
        scores: In [0, 1], shape (windows, species).
        labels: 1 present, -1 unknown (left out), 0 absent, the same shape.

    Returns:
        The calibration; temperature 1, with the reason, where the data do not give one.

    Source:
        Guo et al., "On calibration of modern neural networks" (2017).
    """
    from scipy.optimize import minimize_scalar

    known = labels >= 0
    logits, present = _logit(scores[known]), labels[known] == 1
    if not present.any() or present.all():
        return Calibration(1.0, _only_one_kind(len(present)))

    def loss(log_temperature: float) -> float:
        scaled = logits * math.exp(-log_temperature)
        return float(np.logaddexp(0, np.where(present, -scaled, scaled)).mean())

    found = minimize_scalar(loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    temperature = math.exp(float(found.x))
    if temperature < LOWEST * 1.01:
        return Calibration(
            1.0,
            "Not fitted: the calibration windows are told apart without an error, so that any "
            "certainty would fit. Scores stay as they are.",
        )
    return Calibration(temperature, f"Fitted by log loss on {len(scores)} calibration windows.")


def fit_isotonic(scores: Scores, labels: Labels) -> Calibration:
    """Fit the rising step curve of least squared error on calibration windows.

    Args:
        scores: In [0, 1], shape (windows, species).
        labels: 1 present, -1 unknown (left out), 0 absent, the same shape.

    Returns:
        The calibration; temperature 1, with the reason, where the data do not give one. No
        probability is closer to 0 or 1 than so many pairs can tell.

    Source:
        Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability
        estimates" (2002); the ends as the targets in Platt, "Probabilistic outputs for support
        vector machines" (1999).
    """
    from sklearn.isotonic import IsotonicRegression

    known = labels >= 0
    said, present = scores[known].astype(np.float64), labels[known] == 1
    if not present.any() or present.all():
        return Calibration(1.0, _only_one_kind(len(present)))
    lowest = 1 / ((~present).sum() + 2)
    highest = 1 - 1 / (present.sum() + 2)
    curve = IsotonicRegression(y_min=lowest, y_max=highest).fit(said, present)
    across, up = curve.X_thresholds_.tolist(), curve.y_thresholds_.tolist()
    return Calibration(
        1.0,
        f"A rising curve of {len(across)} points, fitted on {len(scores)} calibration windows.",
        (tuple(across), tuple(up)),
    )


def choose(scores: Scores, labels: Labels, groups: Sequence[object], seed: int) -> Calibration:
    """Take the correction that gives new groups the better probabilities, or none.

    Each of `FOLDS` parts of the groups is given probabilities by what was fitted on the others;
    the method with the lowest log loss over all of them is fitted on everything.

    Args:
        scores: Calibration windows' scores in [0, 1], shape (windows, species).
        labels: 1 present, -1 unknown (left out), 0 absent, the same shape.
        groups: Group of each window; windows of one group stand in one part.
        seed: Seed of the parts.

    Returns:
        The calibration with the losses of all methods; no correction where none helps, or where
        there are fewer than two groups to compare on.
    """
    methods: dict[str, Callable[[Scores, Labels], Calibration]] = {
        "temperature": fit_temperature,
        "isotonic": fit_isotonic,
    }
    _, which = np.unique(np.asarray(groups, str), return_inverse=True)
    count = int(which.max(initial=-1)) + 1
    known = labels >= 0
    present = labels[known] == 1
    if not present.any() or present.all():
        return Calibration(1.0, _only_one_kind(len(present)))
    if count < 2:
        return Calibration(
            1.0,
            "Not fitted: all calibration windows are of one group, so that no correction could be "
            "tried on another. Scores stay as they are.",
        )
    fold = (np.random.default_rng(seed).permutation(count) % min(FOLDS, count))[which]
    given = {name: scores.copy() for name in ("identity", *methods)}
    for part in range(min(FOLDS, count)):
        held = fold == part
        for name, fit in methods.items():
            given[name][held] = fit(scores[~held], labels[~held]).probabilities(scores[held])
    losses = {name: log_loss(said, labels) or 0.0 for name, said in given.items()}
    # Of equal losses the simpler method, which stands first.
    best = min(losses, key=lambda name: losses[name])
    compared = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    if best == "identity":
        found = Calibration(1.0, "No correction helps on new groups; scores stay as they are.")
    else:
        found = methods[best](scores, labels)
    return replace(found, losses=losses, note=f"{found.note} Cross-validated log loss: {compared}.")


def _only_one_kind(pairs: int) -> str:
    what = "only one kind of pair" if pairs else "no pair"
    return f"Not fitted: {what} of window and species in calibration. Scores stay as they are."


def log_loss(probabilities: Scores, labels: Labels) -> float | None:
    """Mean log loss over known pairs; None without any."""
    known = labels >= 0
    if not known.any():
        return None
    logits = _logit(probabilities[known])
    return float(np.logaddexp(0, np.where(labels[known] == 1, -logits, logits)).mean())


def reliability(probabilities: Scores, labels: Labels) -> Reliability:
    """Compare probabilities with what was there, over all known pairs of window and species."""
    known = labels >= 0
    said, present = probabilities[known].astype(np.float64), labels[known] == 1
    if not len(said):
        return Reliability([], [], [], None)
    which = np.minimum((said * BINS).astype(int), BINS - 1)
    pairs = np.bincount(which, minlength=BINS)
    filled = pairs > 0
    mean = np.bincount(which, weights=said, minlength=BINS)[filled] / pairs[filled]
    found = np.bincount(which, weights=present, minlength=BINS)[filled] / pairs[filled]
    ece = float((np.abs(mean - found) * pairs[filled]).sum() / pairs.sum())
    return Reliability(mean.tolist(), found.tolist(), pairs[filled].tolist(), ece)


def _logit(scores: Scores) -> npt.NDArray[np.float64]:
    # A float32 sigmoid reaches 0 and 1 exactly; their logits would be infinite.
    inside = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-12)
    logits: npt.NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
    return logits


def _sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # Of the absolute value, so that nothing overflows.
    small = np.exp(-np.abs(logits))
    values: npt.NDArray[np.float64] = np.where(logits >= 0, 1, small) / (1 + small)
    return values
