"""The pictures of the report: ROC, precision and recall, reliability, data and confusion."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsong import pages
from birdsong.bootstrap import share
from birdsong.calibration import Reliability
from birdsong.data_effects import FACTORS, FEWEST_SPECIES, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELLED = 3
"""Species that are named in the picture of the data: the worst ones."""


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
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], guessing: float
) -> "Figure":
    """Precision over recall; `guessing` is what guessing reaches, the share of positive pairs."""
    figure, axes = _axes(5, 4)
    for name, colour in (("baseline", pages.SECOND), ("network", pages.ACCENT)):
        recall, precision = curves[name]
        axes.plot(recall, precision, color=colour, linewidth=2, label=name)
    axes.axhline(guessing, color=pages.FAINT, linewidth=1, linestyle=":")
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
    # Bins of few pairs jump about: the bars say how far.
    ends = [
        share(hits * pairs, pairs) for hits, pairs in zip(after.found, after.pairs, strict=True)
    ]
    axes.vlines(
        after.said,
        [one.low or 0.0 for one in ends],
        [one.high or 0.0 for one in ends],
        color=pages.ACCENT,
        linewidth=1,
        alpha=0.5,
    )
    axes.set(xlabel="probability given", ylabel="share in which it was there", title="Reliability")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(frameon=False, loc="upper left")
    return figure


def data(per_species: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> "Figure | None":
    """ROC-AUC of each species against what training had of it; None where they are few or alike."""
    from matplotlib.figure import Figure

    known = {name: points(per_species, name) for name in FACTORS}
    factors = [
        name
        for name, found in known.items()
        if len(found) >= FEWEST_SPECIES and np.ptp(found[:, 0]) > 0
    ]
    if not factors:
        return None
    figure = Figure(figsize=(3 * len(factors), 3.2), layout="constrained")
    panels = figure.subplots(1, len(factors), sharey=True, squeeze=False).ravel()
    for axes, factor in zip(panels, factors, strict=True):
        shown = {
            code: one
            for code, one in per_species.items()
            if one["training"].get(factor) is not None and one["network_auc"] is not None
        }
        found = known[factor]
        sizes = [8 + 6 * one["test_recordings"] for one in shown.values()]
        axes.scatter(
            *found.T, s=sizes, color=pages.ACCENT, alpha=0.6, linewidth=0, clip_on=False, zorder=3
        )
        if factor != "rating" and found[:, 0].min() > 0:
            axes.set_xscale("log")
            ends = found[:, 0].min(), found[:, 0].max()
            whole = factor in ("recordings", "groups")
            steps = np.geomspace(*ends, 4)
            ticks = sorted({float(round(t)) if whole else float(f"{t:.2g}") for t in steps})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        lowest = np.argsort(found[:, 1], kind="stable")[:LABELLED]
        for place in lowest[found[lowest, 1] < 1]:
            code = list(shown)[place]
            axes.annotate(
                names.get(code, code),
                found[place],
                xytext=(4, -3),
                textcoords="offset points",
                fontsize=7,
            )
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlabel=FACTORS[factor].partition(" (")[0])
        axes.xaxis.label.set_size(9)
    panels[0].set_ylabel("ROC-AUC of the network")
    return figure


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> "Figure":
    """Right recordings in the network's colour, wrong ones in the other."""
    from matplotlib.patches import Rectangle

    side = min(11.0, max(4.0, 1.8 + 0.34 * len(labels)))
    figure, axes = _axes(side, side)
    table = np.array(counts, float).reshape(len(labels), len(labels))
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.set(xlim=(-0.5, len(labels) - 0.5), ylim=(len(labels) - 0.5, -0.5), aspect="equal")
    # Faint lines lead the eye from a cell to its names.
    for place in range(len(labels)):
        axes.axhline(place, color=pages.FAINT, linewidth=0.4, alpha=0.5, zorder=0)
        axes.axvline(place, color=pages.FAINT, linewidth=0.4, alpha=0.5, zorder=0)
    for row, column in zip(*np.nonzero(table), strict=True):
        share = shares[row, column]
        right = row == column
        axes.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5),
                1,
                1,
                facecolor=pages.ACCENT if right else pages.SECOND,
                alpha=0.25 + 0.6 * share,
                linewidth=0,
            )
        )
        axes.text(
            column, row, f"{int(table[row, column])}", ha="center", va="center_baseline", fontsize=8
        )
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(labelsize=8, length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="said", ylabel="labelled")
    return figure
