"""Figures of how good scores are, each also under weights, so that a bootstrap is a few products.

The unit is a recording: its score for a species is the highest of its windows. Labels are 1 for
the primary species, -1 for secondary ones (heard, perhaps: unknown) and 0 for absent ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from birdsong import bootstrap
from birdsong.bootstrap import Interval
from birdsong.errors import DataError

Scores = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int8]
Floats = npt.NDArray[np.floating[Any]]

HEADLINES = ("accuracy", "top3_accuracy", "macro_auc", "cmap", "map", "macro_f1")
SHARES = ("accuracy", "top3_accuracy", "map")
"""Means over units of values between 0 and 1."""
CENTRED = ("cmap", "macro_f1")
"""Figures that rise or fall where units are drawn twice; their intervals are set right."""

_POSITIVES_AT_A_TIME = 1024


def label_matrix(
    labels: Sequence[str], secondary: Sequence[Sequence[str] | None], codes: Sequence[str]
) -> Labels:
    """Labels as numbers: 1 primary, -1 secondary (unknown), 0 absent.

    Args:
        labels: Primary species of each unit.
        secondary: Its secondary species; those that are not among `codes` are left out.
        codes: Species in the order of the columns.

    Returns:
        int8, shape (units, species).

    Raises:
        DataError: A primary label is not among the species.
    """
    order = {code: position for position, code in enumerate(codes)}
    matrix = np.zeros((len(labels), len(codes)), np.int8)
    for row, (label, others) in enumerate(zip(labels, secondary, strict=True)):
        if label not in order:
            raise DataError(
                f"Label {label!r} is not among the {len(codes)} species of classes.json. "
                "Run split and featurize again."
            )
        for other in others if others is not None else ():
            if other in order:
                matrix[row, order[other]] = -1
        matrix[row, order[label]] = 1
    return matrix


def by_recording(ids: Sequence[str], scores: Scores) -> tuple[npt.NDArray[np.int_], Scores]:
    """Scores of recordings: the highest of their windows.

    Args:
        ids: Recording of each window, in any order.
        scores: Shape (windows, species).

    Returns:
        Row of each recording's first window, in order of appearance, and the scores, shape
        (recordings, species).
    """
    if not len(ids):
        return np.zeros(0, int), scores
    _, firsts, which = np.unique(np.asarray(ids, str), return_index=True, return_inverse=True)
    best = np.full((len(firsts), scores.shape[1]), -np.inf, np.float32)
    np.maximum.at(best, which, scores)
    appearance = np.argsort(firsts)
    return firsts[appearance], best[appearance]


def ranking(scores: Scores) -> npt.NDArray[np.int_]:
    """Species from the highest score down, shape (units, species).

    Of equal scores the species that stands first in classes.json comes first.
    """
    return np.argsort(-scores, axis=1, kind="stable")


def correct(scores: Scores, labels: Labels, top: int = 1) -> npt.NDArray[np.bool_]:
    """MultiCategoryAccuracy: whether one of the `top` highest species is labelled, (units,).

    Primary and secondary labels count alike; of equal scores the first species counts.
    """
    best = ranking(scores)[:, :top]
    found: npt.NDArray[np.bool_] = (np.take_along_axis(labels, best, axis=1) != 0).any(axis=1)
    return found


@dataclass
class Figures:
    """Scores and labels of one set of units, ready to be weighed many times.

    Attributes:
        scores: float32, shape (units, species).
        labels: int8, shape (units, species).
        thresholds: One for each species, NaN where it has none, shape (species,).
    """

    scores: Scores
    labels: Labels
    thresholds: Floats

    def __post_init__(self) -> None:
        known = self.labels >= 0
        self._right = correct(self.scores, self.labels)
        self._right3 = correct(self.scores, self.labels, 3)
        self._precision = _reciprocal_rank(self.scores, self.labels)
        self._ranked = (self.labels == 1).any(axis=1).astype(np.float32)
        with np.errstate(invalid="ignore"):
            heard = self.scores > self.thresholds
        self._hit = (heard & (self.labels == 1)).astype(np.float32)
        self._false = (heard & (self.labels == 0)).astype(np.float32)
        self._positive = (self.labels == 1).astype(np.float32)
        self._negative = ((self.labels == 0) & known).astype(np.float32)

    def weighted(self, weights: npt.NDArray[np.float32]) -> dict[str, Floats]:
        """Headline figures under weights of the units, (draws, units) to (draws,)."""
        # Counts are exact in float32; their ratio is taken in float64.
        total = weights.sum(axis=1, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            auc, precision = self.per_species(weights)
            hits = weights @ self._hit
            wrong = weights @ self._false
            positives = weights @ self._positive
            # 2 TP + FP + FN = TP + FP + positives.
            f1 = np.where(positives > 0, 2 * hits / (hits + wrong + positives), np.nan)
            if not np.isfinite(self.thresholds).any():
                f1[:] = np.nan  # without any threshold there is nothing to measure
            return {
                "accuracy": weights @ self._right / total,
                "top3_accuracy": weights @ self._right3 / total,
                "macro_auc": _mean(auc),
                "cmap": _mean(precision),
                "map": weights @ self._precision / (weights @ self._ranked).astype(np.float64),
                "macro_f1": _mean(f1),
            }

    def rates(self, weights: npt.NDArray[np.float32]) -> dict[str, Floats]:
        """Mean false-positive rate and recall over species, (draws, units) to (draws,)."""
        has = np.isfinite(self.thresholds)
        with np.errstate(invalid="ignore", divide="ignore"):
            fpr = (weights @ self._false) / (weights @ self._negative)
            recall = (weights @ self._hit) / (weights @ self._positive)
        return {"false_positive_rate": _mean(fpr[:, has]), "recall": _mean(recall)}

    def per_species(self, weights: npt.NDArray[np.float32]) -> tuple[Floats, Floats]:
        """ROC-AUC and average precision of each species under weights.

        Secondary labels are left out. For each positive unit it is known which negative ones
        score lower; the weighted counts of those are a product of two matrices.

        Args:
            weights: float32, shape (draws, units).

        Returns:
            Two arrays of shape (draws, species); NaN where a species has no positive or (AUC)
            no negative units in a draw.

        Source:
            AUC as the Mann-Whitney statistic (ties count half): Hanley and McNeil (1982).
        """
        area = np.zeros((len(weights), self.scores.shape[1]), np.float32)
        precision = np.zeros_like(area)
        negatives = weights @ self._negative
        columns, rows = np.nonzero(self.labels.T == 1)
        for start in range(0, len(rows), _POSITIVES_AT_A_TIME):
            row = rows[start : start + _POSITIVES_AT_A_TIME]
            column = columns[start : start + _POSITIVES_AT_A_TIME]
            mine = self.scores[row, column][:, None]
            others = self.scores[:, column].T
            absent = self.labels[:, column].T == 0
            below = weights @ ((others < mine) & absent).astype(np.float32).T
            level = (others == mine) & absent
            ties = weights @ level.astype(np.float32).T if level.any() else np.float32(0)
            which, starts = np.unique(column, return_index=True)
            hits = np.empty_like(below)
            for species, begin, end in zip(which, starts, [*starts[1:], len(column)], strict=True):
                # All positives of the species, also those of another block.
                all_mine = np.flatnonzero(self.labels[:, species] == 1)
                above = self.scores[all_mine, species] >= mine[begin:end]
                hits[:, begin:end] = weights[:, all_mine] @ above.astype(np.float32).T
            found = hits + negatives[:, column] - below
            weight = weights[:, row]
            exact = weight * np.divide(hits, found, out=np.zeros_like(hits), where=found > 0)
            won = weight * (below + np.float32(0.5) * ties)
            area[:, which] += np.add.reduceat(won, starts, axis=1)
            precision[:, which] += np.add.reduceat(exact, starts, axis=1)
        positives = weights @ self._positive
        with np.errstate(invalid="ignore", divide="ignore"):
            return area / (positives * negatives), np.where(
                positives > 0, precision / positives, np.nan
            )


def headlines(
    figures: Mapping[str, Figures], groups: Sequence[object], seed: int
) -> tuple[dict[str, dict[str, Interval]], dict[str, Interval]]:
    """Headline figures of several models on the same units, with 95 % intervals.

    Args:
        figures: Name of each model to its scores; the first two are compared.
        groups: Group of each unit, drawn as a whole.
        seed: Seed of the draws.

    Returns:
        Figures of each model, and the paired differences, first minus second model.
    """
    units, count = len(groups), len({str(group) for group in groups})
    if not units:
        nothing = dict.fromkeys(HEADLINES, Interval(None, None, None))
        return {name: dict(nothing) for name in figures}, dict(nothing)
    once = np.ones((1, units), np.float32)
    values = {name: one.weighted(once) for name, one in figures.items()}
    drawn = {name: bootstrap.draw(one.weighted, groups, seed) for name, one in figures.items()}
    told: dict[str, dict[str, Interval]] = {name: {} for name in figures}
    differences: dict[str, Interval] = {}
    first, second = list(figures)[:2]
    for figure in HEADLINES:
        for name in figures:
            how = (
                bootstrap.share_of_units
                if figure in SHARES
                else bootstrap.centred
                if figure in CENTRED
                else bootstrap.percentiles
            )
            found = how(float(values[name][figure][0]), drawn[name][figure], count)
            if found.value in (0.0, 1.0) and found.low == found.high:
                # All perfect, or all wrong: the draws are alike and would claim certainty.
                found = Interval(found.value, None, None)
            told[name][figure] = found
        difference = float(values[first][figure][0] - values[second][figure][0])
        draws = drawn[first][figure] - drawn[second][figure]
        differences[figure] = (
            bootstrap.centred(difference, draws, count, -1, 1)
            if figure in CENTRED
            else bootstrap.percentiles(difference, draws, count)
        )
    return told, differences


def roc_curve(
    scores: Scores, labels: Labels, points: int = 200
) -> tuple[list[float], list[float], list[float]]:
    """ROC over all pairs of unit and species; secondary labels are left out.

    Args:
        scores: In [0, 1], shape (units, species).
        labels: Shape (units, species).
        points: Most points that are given, at least 2.

    Returns:
        False-positive rates, true-positive rates and thresholds in [0, 1], from the highest
        threshold down; (0, 0) to (1, 1) where there are no positive or no negative pairs.
    """
    known = labels >= 0
    score, positive = scores[known].astype(np.float64), labels[known] == 1
    if not positive.any() or positive.all():
        return [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]
    order = np.argsort(-score, kind="stable")
    score, positive = score[order], positive[order]
    # Equal scores are decided together: only their last one is a point of the curve.
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    tpr = np.concatenate([[0.0], np.cumsum(positive)[last] / positive.sum()])
    fpr = np.concatenate([[0.0], np.cumsum(~positive)[last] / (~positive).sum()])
    # The first point needs a threshold above all scores, which would be infinite; 1 stands in.
    cut = np.clip(np.concatenate([[1.0], score[last]]), 0, 1)
    if len(cut) > points:
        # Evenly along the curve's length, so that the steep start keeps its shape.
        along = fpr + tpr
        kept = np.searchsorted(along, np.linspace(0, along[-1], points))
        kept = np.unique(np.concatenate([[0], kept[1:-1], [len(cut) - 1]]))
        fpr, tpr, cut = fpr[kept], tpr[kept], cut[kept]
    return fpr.tolist(), tpr.tolist(), cut.tolist()


def precision_recall_curve(
    scores: Scores, labels: Labels, points: int = 200
) -> tuple[list[float], list[float]]:
    """Precision and recall over all pairs of unit and species; secondary labels are left out.

    Args:
        scores: In [0, 1], shape (units, species).
        labels: Shape (units, species).
        points: Most points that are given, at least 2.

    Returns:
        Recalls, rising, and precisions, from the highest threshold down; nothing where there are
        no positive pairs.
    """
    known = labels >= 0
    score, positive = scores[known], labels[known] == 1
    if not positive.any():
        return [], []
    order = np.argsort(-score, kind="stable")
    score, positive = score[order], positive[order]
    # Equal scores are decided together: only their last one is a point of the curve.
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    found = np.cumsum(positive)[last]
    recall, precision = found / positive.sum(), found / (last + 1)
    if len(recall) > points:
        # Even steps of recall, and both ends.
        kept = np.searchsorted(recall, np.linspace(recall[0], recall[-1], points))
        kept = np.unique(np.concatenate([[0], kept]))[:points]
        recall, precision = recall[kept], precision[kept]
    return recall.tolist(), precision.tolist()


def confusion(
    scores: Scores, labels: Labels, codes: Sequence[str], most: int = 30
) -> tuple[list[str], list[list[int]]]:
    """Which species is said (columns) where which one is labelled (rows), by recordings.

    A recording whose top species is among its secondary labels counts as right, on the diagonal.
    With more than `most` species the ones with the most errors are kept and the rest is "other".

    Returns:
        Names of rows and columns, and the counts.
    """
    truth = labels.argmax(axis=1) if len(labels) else np.zeros(0, int)
    said = ranking(scores)[:, 0] if len(labels) else np.zeros(0, int)
    said = np.where(correct(scores, labels), truth, said) if len(labels) else said
    count = len(codes)
    full = np.bincount(truth * count + said, minlength=count * count).reshape(count, count)
    if count <= most:
        return list(codes), full.tolist()
    errors = full.sum(axis=0) + full.sum(axis=1) - 2 * full.diagonal()
    kept = np.sort(np.argsort(-errors, kind="stable")[:most])
    place = np.full(count, most)
    place[kept] = np.arange(most)
    small = np.zeros((most + 1, most + 1), np.int64)
    np.add.at(small, (place[:, None], place[None, :]), full)
    return [*(codes[position] for position in kept), "other"], small.tolist()


def _reciprocal_rank(scores: Scores, labels: Labels) -> Floats:
    """Average precision of each unit's ranking: 1 / rank of its species, secondary ones left out.

    Of equal scores the species itself comes last: a tie is not a find. 0 where nothing is known
    to be there: such units are left out of the mean.
    """
    if not len(labels):
        return np.zeros(0, np.float32)
    primary = labels.argmax(axis=1)
    mine = scores[np.arange(len(scores)), primary][:, None]
    rank: Floats = ((scores >= mine) & (labels >= 0)).sum(axis=1).astype(np.float32)
    return np.where(labels[np.arange(len(labels)), primary] == 1, 1 / np.maximum(rank, 1), 0)


def _mean(values: Floats) -> Floats:
    """Mean over species of those that have a value, NaN where none has, (draws,)."""
    has = np.isfinite(values)
    count = has.sum(axis=1)
    total = np.where(has, values, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
