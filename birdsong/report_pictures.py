"""The pictures of the report: ROC, reliability and confusion."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from birdsong import pages
from birdsong.calibration import Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _axes(width: float, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=pages.INK, labelsize=9)
    return figure, axes


def roc(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> "Figure":
    figure, axes = _axes(5, 4)
    for name, colour in (("baseline", pages.SECOND), ("network", pages.ACCENT)):
        fpr, tpr = curves[name]
        axes.plot(fpr, tpr, color=colour, linewidth=2, label=name)
    axes.plot([0, 1], [0, 1], color=pages.FAINT, linewidth=1, linestyle=":")
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate", title="ROC")
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01))
    axes.legend(frameon=False, loc="lower right", reverse=True)
    return figure


def precision_recall(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], share: float
) -> "Figure":
    """Precision over recall; `share` is what guessing reaches, the share of positive pairs."""
    figure, axes = _axes(5, 4)
    for name, colour in (("baseline", pages.SECOND), ("network", pages.ACCENT)):
        recall, precision = curves[name]
        axes.plot(recall, precision, color=colour, linewidth=2, label=name)
    axes.axhline(share, color=pages.FAINT, linewidth=1, linestyle=":")
    axes.set(xlabel="recall", ylabel="precision", title="Precision and recall")
    axes.set(xlim=(-0.01, 1.01), ylim=(0, 1.01))
    axes.legend(frameon=False, loc="lower left", reverse=True)
    return figure


def reliability(pair: tuple[Reliability, Reliability], method: str) -> "Figure":
    figure, axes = _axes(5, 4)
    axes.plot([0, 1], [0, 1], color=pages.FAINT, linewidth=1, linestyle=":")
    before, after = pair
    shown = [("raw scores", before, pages.FAINT), ("probabilities", after, pages.ACCENT)]
    if method == "identity":
        shown = [("scores, unchanged", after, pages.ACCENT)]
    for label, found, colour in shown:
        axes.plot(found.said, found.found, color=colour, linewidth=1.5, label=label)
        sizes = 12 + 90 * np.sqrt(np.array(found.pairs) / max(1, max(found.pairs, default=1)))
        axes.scatter(found.said, found.found, s=sizes, color=colour, zorder=3)
    axes.set(xlabel="probability given", ylabel="share in which it was there", title="Reliability")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(frameon=False, loc="upper left")
    return figure


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> "Figure":
    side = min(11.0, max(4.0, 1.8 + 0.34 * len(labels)))
    figure, axes = _axes(side, side)
    table = np.array(counts, float).reshape(len(labels), len(labels))
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(table), strict=True):
        axes.text(
            column,
            row,
            f"{int(table[row, column])}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if shares[row, column] > 0.55 else pages.INK,
        )
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(labelsize=8, length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="said", ylabel="labelled")
    return figure
