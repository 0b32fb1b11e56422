"""What the DAG shows of a step: numbers and curves, all of them finite.

KFP takes no NaN and no infinity: one such number ends a step that had succeeded, here and in a pod,
with an error of protocol buffers. The stages log through these functions alone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

MOST_POINTS = 200
"""Of a curve; more make the page of a run slow."""


class Metrics(Protocol):
    """KFP's artifact of plain numbers."""

    def log_metric(self, metric: str, value: float) -> None:
        """Show a number."""


class Curves(Protocol):
    """KFP's artifact of a ROC curve and a confusion matrix."""

    def log_roc_curve(self, fpr: list[float], tpr: list[float], threshold: list[float]) -> None:
        """Show a curve."""

    def log_confusion_matrix(self, categories: list[str], matrix: list[list[int]]) -> None:
        """Show a matrix."""


def log_metrics(metrics: Metrics, values: Mapping[str, float | None]) -> None:
    """Show numbers; one that is unknown or not finite is left out, and the log says so.

    Args:
        metrics: The step's artifact.
        values: Name to number; None for unknown.
    """
    for name, value in values.items():
        number = math.nan if value is None else float(value)
        if math.isfinite(number):
            metrics.log_metric(name, number)
        else:
            print(f"{name} is {'unknown' if value is None else value}, so it is not shown.")


def log_curves(
    curves: Curves,
    roc: tuple[Sequence[float], Sequence[float], Sequence[float]],
    confusion: tuple[Sequence[str], Sequence[Sequence[int]]],
) -> None:
    """Show a ROC curve and a confusion matrix.

    A threshold of infinity, as of a curve's first point, is shown as 1; a point that is not a
    number is left out; a curve without a point is left out.

    Args:
        curves: The step's artifact.
        roc: False-positive rates, true-positive rates and thresholds, each of shape (points,).
        confusion: Names, and counts of shape (names, names): rows are what is labelled.
    """
    points = [
        (fpr, tpr, min(max(threshold, 0.0), 1.0))
        for fpr, tpr, threshold in (
            (float(a), float(b), float(c)) for a, b, c in zip(*roc, strict=True)
        )
        if math.isfinite(fpr) and math.isfinite(tpr) and not math.isnan(threshold)
    ]
    if len(points) > MOST_POINTS:
        step = (len(points) - 1) / (MOST_POINTS - 1)
        points = [points[round(number * step)] for number in range(MOST_POINTS)]
    if points:
        curves.log_roc_curve(*(list(column) for column in zip(*points, strict=True)))
    names, counts = confusion
    if names:
        curves.log_confusion_matrix(list(names), [[int(n) for n in row] for row in counts])
