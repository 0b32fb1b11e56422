"""Figures per 5-second frame, where each frame of a soundscape is labelled.

The labels are a table in the form of BirdCLEF 2021's `train_soundscape_labels.csv`: row_id
(such as 7019_COR_5: recording, site and the second at which the frame ends), site, audio_id,
seconds, and birds, the eBird codes heard in the frame with spaces between, or `nocall`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from birdsong import bootstrap
from birdsong.bootstrap import Floats, Interval
from birdsong.errors import DataError
from birdsong.metrics import Figures, Labels, Scores

NOCALL = "nocall"
COLUMNS = ("row_id", "site", "audio_id", "seconds", "birds")
FIGURES = ("row_f1", "f1", "cmap")
DECISIONS = ("row_f1", "f1", "precision", "recall")


@dataclass(frozen=True)
class FrameLabels:
    """What is heard in each frame.

    Attributes:
        row_ids: Names of the frames, unique.
        recordings: Recording of each frame, the group of the intervals.
        seconds: Second of the recording at which each frame ends.
        birds: Species heard in each frame; none of them in a frame of `nocall`.
    """

    row_ids: tuple[str, ...]
    recordings: tuple[str, ...]
    seconds: tuple[int, ...]
    birds: tuple[frozenset[str], ...]

    def matrix(self, codes: Sequence[str]) -> Labels:
        """1 heard, 0 not, int8 of shape (frames, species); species not in `codes` are left out."""
        order = {code: column for column, code in enumerate(codes)}
        found = np.zeros((len(self.birds), len(codes)), np.int8)
        for row, birds in enumerate(self.birds):
            for bird in birds:
                if bird in order:
                    found[row, order[bird]] = 1
        return found

    def unknown(self, codes: Sequence[str]) -> npt.NDArray[np.int_]:
        """How many species that are not in `codes` are heard in each frame, shape (frames,)."""
        known = set(codes)
        return np.array([len(birds - known) for birds in self.birds], int)


def read_frame_labels(path: str | Path) -> FrameLabels:
    """Read the labels of frames.

    Raises:
        DataError: A column is missing, a frame is named twice or has no label, or `nocall`
            stands beside a species; names the line.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a table of frame labels: {error}.") from error
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}; a table of frame labels has "
            f"{', '.join(COLUMNS)}."
        )
    birds: list[frozenset[str]] = []
    seconds: list[int] = []
    seen: dict[str, int] = {}
    # The header is line 1.
    for line, (name, until, heard) in enumerate(
        zip(table["row_id"], table["seconds"], table["birds"], strict=True), start=2
    ):
        if name in seen:
            raise DataError(f"{path}, line {line}: {name!r} stands in line {seen[name]} too.")
        seen[name] = line
        codes = heard.split()
        if not codes:
            raise DataError(
                f"{path}, line {line}: {name!r} has no label; write {NOCALL} where no bird calls."
            )
        if NOCALL in codes and len(set(codes)) > 1:
            raise DataError(
                f"{path}, line {line}: {heard!r} is {NOCALL} and a species at once; give one."
            )
        if not until.isdecimal():
            raise DataError(f"{path}, line {line}: seconds {until!r} is not a whole number.")
        seconds.append(int(until))
        birds.append(frozenset(codes) - {NOCALL})
    return FrameLabels(
        tuple(table["row_id"]), tuple(table["audio_id"]), tuple(seconds), tuple(birds)
    )


def frame_figures(
    labels: FrameLabels,
    scores: Scores,
    codes: Sequence[str],
    thresholds: npt.NDArray[np.float64],
    seed: int = 0,
) -> dict[str, Interval]:
    """Measure scores of frames.

    Args:
        labels: The labelled frames.
        scores: Of the same frames in the same order, in [0, 1], shape (frames, species).
        codes: Species in the order of the columns. Others that are labelled count as missed.
        thresholds: One for each species, NaN where it is never reported, shape (species,).
        seed: Seed of the bootstrap.

    Returns:
        Figures with 95 % intervals by recording: row_f1, the mean over frames of the F1 between
        the birds said and labelled, where `nocall` is what is said of (and labels) a frame
        without any; f1, over all pairs of frame and species together, `nocall` left out; cmap,
        average precision, mean over the species that are labelled somewhere.

    Raises:
        DataError: The shapes do not fit together.

    Source:
        The row-wise F1 is the measure of BirdCLEF 2021.
    """
    frames = len(labels.birds)
    if scores.shape != (frames, len(codes)) or thresholds.shape != (len(codes),):
        raise DataError(
            f"frame_figures: got scores of shape {scores.shape} and {len(thresholds)} thresholds "
            f"for {frames} frames and {len(codes)} species; scores need (frames, species)."
        )
    with np.errstate(invalid="ignore"):
        decided = Decided.of(labels, scores > thresholds, codes)
    ranked = Figures(scores, labels.matrix(codes), thresholds)

    def statistics(weights: npt.NDArray[np.float32]) -> dict[str, Floats]:
        figures = decided.weighted(weights)
        return {
            "row_f1": figures["row_f1"],
            "f1": figures["f1"],
            "cmap": ranked.weighted(weights)["cmap"],
        }

    if not frames:
        return dict.fromkeys(FIGURES, Interval(None, None, None))
    return _with_intervals(statistics, labels, seed)


def decision_figures(
    labels: FrameLabels, said: npt.NDArray[np.bool_], codes: Sequence[str], seed: int = 0
) -> dict[str, Interval]:
    """Measure decisions about frames, however they were made.

    Args:
        labels: The labelled frames.
        said: Whether a species is reported in a frame, shape (frames, species).
        codes: Species in the order of the columns. Others that are labelled count as missed.
        seed: Seed of the bootstrap.

    Returns:
        row_f1 and f1 as of `frame_figures`, precision and recall over all pairs of frame and
        species together, with 95 % intervals by recording.
    """
    if not len(labels.birds):
        return dict.fromkeys(DECISIONS, Interval(None, None, None))
    return _with_intervals(Decided.of(labels, said, codes).weighted, labels, seed)


@dataclass(frozen=True)
class Decided:
    """Decisions about frames as counts, each of shape (frames,).

    Attributes:
        hits: Birds that are both said and labelled.
        said: Birds that are said.
        there: Birds that are labelled, also unknown ones.
    """

    hits: npt.NDArray[np.int_]
    said: npt.NDArray[np.int_]
    there: npt.NDArray[np.int_]

    @classmethod
    def of(
        cls, labels: FrameLabels, said: npt.NDArray[np.bool_], codes: Sequence[str]
    ) -> "Decided":
        """Count them; `said` has the shape (frames, species)."""
        truth = labels.matrix(codes) == 1
        return cls(
            (said & truth).sum(axis=1),
            said.sum(axis=1),
            truth.sum(axis=1) + labels.unknown(codes),
        )

    @property
    def by_row(self) -> npt.NDArray[np.float64]:
        """F1 of each frame, shape (frames,).

        A frame without any has the one label nocall, right where nothing is said and nothing there.
        """
        hits = self.hits + ((self.said == 0) & (self.there == 0))
        found: npt.NDArray[np.float64] = (
            2 * hits / (np.maximum(self.said, 1) + np.maximum(self.there, 1))
        )
        return found

    def weighted(self, weights: npt.NDArray[np.float32]) -> dict[str, Floats]:
        """Figures under weights of the frames, (draws, frames) to (draws,)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            hits, said, there = (weights @ part for part in (self.hits, self.said, self.there))
            return {
                "row_f1": weights @ self.by_row / weights.sum(axis=1, dtype=np.float64),
                "f1": 2 * hits / (said + there),
                "precision": hits / said,
                "recall": hits / there,
            }


def _with_intervals(
    statistics: bootstrap.Statistics, labels: FrameLabels, seed: int
) -> dict[str, Interval]:
    once = statistics(np.ones((1, len(labels.birds)), np.float32))
    drawn = bootstrap.draw(statistics, labels.recordings, seed)
    groups = len(set(labels.recordings))
    return {
        name: (bootstrap.centred if name == "cmap" else bootstrap.percentiles)(
            float(value[0]), drawn[name], groups
        )
        for name, value in once.items()
    }
