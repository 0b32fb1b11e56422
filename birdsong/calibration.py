"""From scores to probabilities: how often a species is there when its score says 0.7.

Thresholds decide on scores; probabilities are for people who read them.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int8]

LOWEST, HIGHEST = 1 / 8, 8.0
"""Range of temperatures; one at the lower end means that the fit ran away."""

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Temperature scaling: probability = sigmoid(logit(score) / temperature).

    Attributes:
        temperature: Above 1 it softens scores, below 1 it sharpens them; 1 changes nothing.
        note: How it was found, or why it could not be fitted.
    """

    temperature: float
    note: str

    def probabilities(self, scores: Scores) -> Scores:
        """Probabilities of scores in [0, 1], of any shape; 0 and 1 stay what they are."""
        inside = _sigmoid(_logit(scores) / self.temperature).astype(np.float32)
        return np.where((scores > 0) & (scores < 1), inside, scores)

    def as_json(self) -> dict[str, Any]:
        """What `calibration.json` holds, without the measurements."""
        return {"method": "temperature", "temperature": self.temperature, "note": self.note}


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
        what = "no pair" if not len(present) else "only one kind of pair"
        return Calibration(
            1.0,
            f"Not fitted: {what} of window and species in calibration. Scores stay as they are.",
        )

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
    from scipy.special import expit

    values: npt.NDArray[np.float64] = expit(logits)
    return values
