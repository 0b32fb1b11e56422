"""How well a model hears labelled soundscapes: frame by frame, by several ways to decide.

A threshold of the bundle promises a false-positive rate for windows of up to 60 s, not for frames
of 5 s. So a frame is decided by a threshold that is said (`--threshold`), or by one that is chosen
on the other recordings; what the windows' thresholds do stands beside, and what silence would get.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from birdsong import artifacts
from birdsong.bundle import Bundle
from birdsong.errors import ConfigError, DataError
from birdsong.frame_metrics import (
    FrameLabels,
    decision_figures,
    frame_figures,
    read_frame_labels,
)
from birdsong.metrics import Figures, Scores
from birdsong.soundscapes import FrameScorer, score_frames

Said = npt.NDArray[np.bool_]

FOLDS = 5
"""Parts of the recordings; each is decided by the threshold that is best on the others."""

CURVE_POINTS = 200
"""Points of the curve that are kept for the eye."""


@dataclass(frozen=True)
class Way:
    """A way to decide which birds are reported in a frame.

    Attributes:
        name: given, chosen, windows, silence or best.
        words: How it decides, for people.
        said: Whether a species is reported, shape (frames, species).
        thresholds: The thresholds that were used, one for each part; none where each species has
            its own.
    """

    name: str
    words: str
    said: Said
    thresholds: tuple[float, ...] = ()


def ways(
    labels: FrameLabels,
    scores: Scores,
    codes: Sequence[str],
    window_thresholds: npt.NDArray[np.float64],
    threshold: float | None = None,
    seed: int = 0,
) -> list[Way]:
    """The ways to decide, the one that counts first.

    Args:
        labels: The labelled frames.
        scores: Of the same frames, in [0, 1], shape (frames, species).
        codes: Species in the order of the columns.
        window_thresholds: One for each species, NaN where it is never reported, shape (species,).
        threshold: A score above which any species counts as heard in a frame, in [0, 1].
        seed: Seed of the parts.

    Raises:
        ConfigError: The threshold is not in [0, 1].
    """
    found = []
    if threshold is not None:
        if not 0 <= threshold <= 1:
            raise ConfigError(f"--threshold is {threshold:g}; a frame's score is from 0 to 1.")
        words = f"score above {threshold:g}, as given"
        found.append(Way("given", words, scores > threshold, (threshold,)))
    if (chosen := _chosen(labels, scores, codes, seed)) is not None:
        found.append(chosen)
    with np.errstate(invalid="ignore"):
        above = scores > window_thresholds
    words = "the model's thresholds for windows of up to 60 s, which promise nothing for frames"
    found.append(Way("windows", words, above))
    found.append(Way("silence", "never reports a bird", np.zeros(scores.shape, bool)))
    best = best_threshold(labels, scores, codes)
    words = f"score above {best:.3f}, the best on these very labels: too kind, for comparison only"
    found.append(Way("best", words, scores > best, (best,)))
    return found


def _chosen(labels: FrameLabels, scores: Scores, codes: Sequence[str], seed: int) -> Way | None:
    """Each recording's frames by the threshold that is best on the recordings of other parts."""
    names = sorted(set(labels.recordings))
    if len(names) < 2:
        return None
    parts = min(FOLDS, len(names))
    order = np.random.default_rng(seed).permutation(len(names))
    part_of = {names[which]: place % parts for place, which in enumerate(order)}
    mine = np.array([part_of[name] for name in labels.recordings])
    said, used = np.zeros(scores.shape, bool), []
    for part in range(parts):
        inside = mine == part
        others = np.flatnonzero(~inside)
        used.append(best_threshold(_rows(labels, others), scores[others], codes))
        said[inside] = scores[inside] > used[-1]
    low, high = min(used), max(used)
    which = f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"
    words = f"score above one threshold, chosen on the other recordings ({which})"
    return Way("chosen", words, said, tuple(used))


def _rows(labels: FrameLabels, rows: npt.NDArray[np.int_]) -> FrameLabels:
    def some(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[row] for row in rows)

    return FrameLabels(
        some(labels.row_ids), some(labels.recordings), some(labels.seconds), some(labels.birds)
    )


def best_threshold(labels: FrameLabels, scores: Scores, codes: Sequence[str]) -> float:
    """The threshold, the same for all species, with the highest row-wise F1.

    It lies midway between two scores, as far as it can from deciding otherwise. Of equally good
    ones the highest counts, which reports the least; where nothing is best, that is 1.
    """
    points = curve(labels, scores, codes)
    place = max(range(len(points)), key=lambda number: (points[number][1], -number))
    if place == 0:
        return 1.0
    lower, upper = (np.float32(points[number][0]) for number in (place, place - 1))
    middle = np.float32(lower + (upper - lower) / 2)
    return float(middle if middle < upper else lower)


def curve(labels: FrameLabels, scores: Scores, codes: Sequence[str]) -> list[tuple[float, float]]:
    """The row-wise F1 at every threshold that decides differently, the same for all species.

    Args:
        labels: The labelled frames.
        scores: Of the same frames, in [0, 1], shape (frames, species).
        codes: Species in the order of the columns.

    Returns:
        Pairs of threshold and F1, from the highest score, above which nothing is, down to 0. Up
        to the next pair each threshold decides as the pair below it.
    """
    frames, species = scores.shape
    if not frames or not species:
        return [(0.0, 0.0)]
    truth = labels.matrix(codes) == 1
    there = truth.sum(axis=1) + labels.unknown(codes)
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = np.take_along_axis(truth, order, axis=1).cumsum(axis=1)
    # A frame's F1 once its 1, 2, ... highest scores are reported, and what each of them adds.
    after = 2 * hits / (np.arange(1, species + 1) + np.maximum(there, 1)[:, None])
    silent = (there == 0).astype(float)
    added = np.diff(after, axis=1, prepend=silent[:, None]).ravel()
    score = np.take_along_axis(scores, order, axis=1).ravel()
    falling = np.argsort(-score, kind="stable")
    score = score[falling]
    total = (silent.sum() + np.cumsum(added[falling])) / frames
    # Equal scores are decided together. A score is reported above a threshold, so the next lower
    # score is the threshold of those above it; one of 0 is never reported.
    last = np.flatnonzero(np.diff(score, append=-1.0) < 0)
    last = last[score[last] > 0]
    lower = np.append(score[last[1:]], 0.0)
    first = (float(score[0]), float(silent.mean()))
    return [first, *zip(lower.tolist(), total[last].tolist(), strict=True)]


def measure(
    labels: FrameLabels,
    scores: Scores,
    codes: Sequence[str],
    window_thresholds: npt.NDArray[np.float64],
    threshold: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures, ready for JSON.

    Args:
        labels: The labelled frames.
        scores: Of the same frames, in [0, 1], shape (frames, species).
        codes: Species in the order of the columns.
        window_thresholds: One for each species, NaN where it is never reported, shape (species,).
        threshold: A score above which any species counts as heard in a frame; None: chosen.
        seed: Seed of the parts and of the intervals.

    Returns:
        `frames`, what was measured on; `ways`, the first of which decides in `species`; `cmap`,
        which needs no decision; `curve`, thresholds and row-wise F1. Intervals are of 95 %, by
        recording.
    """
    all_ways = ways(labels, scores, codes, window_thresholds, threshold, seed)
    cmap = frame_figures(labels, scores, codes, window_thresholds, seed)["cmap"]
    heard: dict[str, int] = {}
    for birds in labels.birds:
        for bird in birds:
            heard[bird] = heard.get(bird, 0) + 1
    known = [code for code in codes if code in heard]
    return {
        "frames": {
            "count": len(labels.birds),
            "without_birds": sum(not birds for birds in labels.birds),
            "recordings": len(set(labels.recordings)),
            "species_labelled": len(heard),
            "species_of_model": len(codes),
            "unknown_species": {code: heard[code] for code in sorted(set(heard) - set(codes))},
        },
        "cmap": {
            **cmap.as_json(),
            "species": len(known),
            "species_without_positives": len(codes) - len(known),
        },
        "ways": [
            {
                "way": way.name,
                "decides": way.words,
                "thresholds": list(way.thresholds),
                **{
                    name: figure.as_json()
                    for name, figure in decision_figures(labels, way.said, codes, seed).items()
                },
            }
            for way in all_ways
        ],
        "species": _by_species(labels, scores, codes, all_ways[0].said),
        "curve": _thinned(curve(labels, scores, codes)),
        "seed": seed,
    }


def of_bundle(
    bundle: Bundle,
    scorer: FrameScorer,
    table: Path,
    folder: Path | None = None,
    threshold: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Score the soundscapes of a table by a bundle's network.

    Args:
        bundle: Species and thresholds, of the scorer's runtime.
        scorer: Its network.
        table: Labels of the frames.
        folder: Where the recordings lie; by default beside the table.
        threshold: As of `measure`.
        seed: As of `measure`.

    Returns:
        What `measure` gives, with the model, the table and the species' names.

    Raises:
        DataError: The table or a recording cannot be used.
    """
    labels = read_frame_labels(table)
    if not labels.birds:
        raise DataError(f"{table} has no labelled frames, so there is nothing to score.")
    scores = score_frames(scorer, labels, table, folder)
    limits = np.array(
        [np.nan if one.threshold is None else one.threshold for one in bundle.species], float
    )
    found = measure(labels, scores, bundle.codes, limits, threshold, seed)
    for one, species in zip(found["species"], bundle.species, strict=True):
        one["name"] = species.common_name or species.scientific_name
    return {
        "version": 1,
        "model": {
            "name": bundle.name,
            "bundle_sha256": bundle.sha256,
            "runtime": bundle.runtime,
        },
        "labels": {"file": table.name, "sha256": artifacts.file_sha256(table)},
        **found,
    }


def _thinned(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    """Evenly from threshold 0 to 1, and the best."""
    kept = {max(points, key=lambda point: (point[1], point[0]))}
    falling = np.array([threshold for threshold, _ in points])
    for wanted in np.linspace(0, 1, CURVE_POINTS):
        # The first that is not above it decides as this threshold does.
        place = int(np.searchsorted(-falling, -wanted))
        kept.add((float(wanted), points[place][1]))
    return [list(point) for point in sorted(kept)]


def _by_species(
    labels: FrameLabels, scores: Scores, codes: Sequence[str], said: Said
) -> list[dict[str, Any]]:
    truth = labels.matrix(codes)
    none = np.full(len(codes), np.nan)
    _, precisions = Figures(scores, truth, none).per_species(np.ones((1, len(truth)), np.float32))
    recordings = np.array(labels.recordings, str)
    found = []
    for column, code in enumerate(codes):
        there, reported = truth[:, column] == 1, said[:, column]
        hits, count = int((there & reported).sum()), int(there.sum())
        found.append(
            {
                "code": code,
                "frames": count,
                "recordings": len(set(recordings[there])),
                "reported": int(reported.sum()),
                "right": hits,
                "precision": hits / int(reported.sum()) if reported.any() else None,
                "recall": hits / count if count else None,
                "average_precision": float(precisions[0, column]) if count else None,
            }
        )
    return found
