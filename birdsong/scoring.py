"""From stored windows to scores: the one scoring path of evaluation, register's check and serving.

A frame's score is the sigmoid of the network's logit, a window's score for a species the highest
of its frames, a recording's the highest of its windows. Nothing depends on what else is scored at
the same time: batches of other sizes may differ in the last bits of the arithmetic, by less than
`TOLERANCE`.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from birdsong import artifacts, audio
from birdsong.config import FeatureConfig
from birdsong.errors import DataError
from birdsong.progress import track

if TYPE_CHECKING:
    import pandas as pd

    from birdsong.features import FeatureSet

Floats = npt.NDArray[np.float32]

TOLERANCE = 1e-5
"""Largest difference of a score between batches: kernels of other sizes add in another order."""

BATCH_FRAMES = 48
"""Frames of one pass, four full windows: enough for all cores, 21 MB of samples."""


class Scorer:
    """A trained model, ready to score; safe to use from several threads.

    Attributes:
        codes: Species in the order of the scores.
        config: How recordings become windows and frames.
    """

    def __init__(self, model_path: str | Path) -> None:
        """Load a model artifact, or the copy of it in a bundle.

        Raises:
            DataError: The folder is no model, or its graph cannot be loaded.
        """
        place = Path(model_path)
        artifacts.read_spec(place, "model")
        self.codes = tuple(entry["code"] for entry in artifacts.read_json(place / "classes.json"))
        self.config = FeatureConfig(**artifacts.read_json(place / "model.json")["features"])
        self._frame_samples = round(audio.FRAME_SECONDS * self.config.sample_rate)
        self._serve = _load(place / "saved_model")

    def frames(self, frames: Floats) -> Floats:
        """Score frames.

        Args:
            frames: float32 in [-1, 1], shape (frames, frame_samples), as `audio.frames` cuts them.

        Returns:
            float32 in [0, 1], shape (frames, species).

        Raises:
            DataError: The frames have another shape, or the network answers with NaN.
        """
        if frames.ndim != 2 or frames.shape[1] != self._frame_samples:
            raise DataError(
                f"Scorer: got frames of shape {frames.shape}, need (frames, "
                f"{self._frame_samples}). Cut windows with birdsong.audio.frames."
            )
        scores = np.empty((len(frames), len(self.codes)), np.float32)
        for start in range(0, len(frames), BATCH_FRAMES):
            part = slice(start, start + BATCH_FRAMES)
            scores[part] = self._serve(frames[part])
        if not np.isfinite(scores).all():
            raise DataError(
                "The network gives scores that are not numbers. Its weights are broken: train it "
                "again, with a lower learning_rate if the loss was not finite."
            )
        return scores

    def window_frames(self, samples: npt.NDArray[np.int16]) -> Floats:
        """Score each frame of one window, int16 of shape (samples,): (frames, species)."""
        return self.frames(audio.frames(samples, self.config))

    def window(self, samples: npt.NDArray[np.int16]) -> Floats:
        """Score one window, int16 of shape (samples,): the highest of its frames, (species,)."""
        best: Floats = self.window_frames(samples).max(axis=0)
        return best


@dataclass(frozen=True)
class WindowScores:
    """Windows and their scores.

    Attributes:
        index: Rows of the features' index, one for each window, numbered from 0.
        scores: float32 in [0, 1], shape (windows, species).
        best_frame: Which frame scored highest, int16, shape (windows, species).
        codes: Species in the order of the scores.
    """

    index: "pd.DataFrame"
    scores: Floats
    best_frame: npt.NDArray[np.int16]
    codes: tuple[str, ...]


def score_features(
    model_path: str | Path, features_path: str | Path, rows: Sequence[int] | None = None
) -> WindowScores:
    """Score the windows of a features artifact.

    Args:
        model_path: Output of train.
        features_path: Development, calibration or test of featurize.
        rows: Row numbers of the index; None for all.

    Raises:
        DataError: Model and features are of other species, or were made with other settings.
    """
    from birdsong.features import FeatureSet

    features = FeatureSet(features_path)
    return score_windows(Scorer(model_path), features, rows)


def score_windows(
    scorer: Scorer, features: "FeatureSet", rows: Sequence[int] | None = None
) -> WindowScores:
    """Score windows of an open features artifact; see `score_features`."""
    if tuple(features.codes) != scorer.codes:
        raise DataError(
            f"The model knows {len(scorer.codes)} species, the features have "
            f"{len(features.codes)}, or their order differs. Train on features of the same split."
        )
    if features.config.sample_rate != scorer.config.sample_rate:
        raise DataError(
            f"The model was trained at {scorer.config.sample_rate} samples per second, the "
            f"features are at {features.config.sample_rate}. Run featurize and train again."
        )
    chosen = np.arange(len(features)) if rows is None else np.asarray(rows, int)
    scores = np.full((len(chosen), len(scorer.codes)), -1, np.float32)
    best = np.zeros(scores.shape, np.int16)
    for position, first, found in _scored(scorer, features, chosen):
        # A long window may come in two parts; the first of equal frames counts, as argmax does.
        higher = found.max(axis=0) > scores[position]
        best[position, higher] = (first + found.argmax(axis=0))[higher]
        scores[position, higher] = found.max(axis=0)[higher]
    index = features.index.iloc[chosen].reset_index(drop=True)
    return WindowScores(index, scores, best, scorer.codes)


def _scored(
    scorer: Scorer, features: "FeatureSet", rows: npt.NDArray[np.int_]
) -> Iterator[tuple[int, int, Floats]]:
    """Position in `rows`, first frame and scores of each window's frames in one full batch."""
    held: list[tuple[int, int, Floats]] = []
    count = 0
    for position, window in enumerate(_frames(features, rows)):
        first = 0
        while first < len(window):
            part = window[first : first + BATCH_FRAMES - count]
            held.append((position, first, part))
            first += len(part)
            count += len(part)
            if count == BATCH_FRAMES:
                yield from _batch(scorer, held)
                held, count = [], 0
    if held:
        yield from _batch(scorer, held)


def _batch(
    scorer: Scorer, held: Sequence[tuple[int, int, Floats]]
) -> Iterator[tuple[int, int, Floats]]:
    scores = scorer.frames(np.concatenate([frames for _, _, frames in held]))
    start = 0
    for position, first, frames in held:
        yield position, first, scores[start : start + len(frames)]
        start += len(frames)


def _frames(features: "FeatureSet", rows: npt.NDArray[np.int_]) -> Iterator[Floats]:
    """Frames of each window in order, read a little ahead while the network works."""

    def one(row: int) -> Floats:
        return audio.frames(features.waveform(int(row)), features.config)

    ahead = 16
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        waiting = [pool.submit(one, row) for row in rows[:ahead]]
        for number in track(range(len(rows)), len(rows), "score", "windows"):
            done = waiting.pop(0)
            if number + ahead < len(rows):
                waiting.append(pool.submit(one, rows[number + ahead]))
            yield done.result()


def _load(place: Path) -> Any:
    """The graph as a function from frames to scores, both NumPy arrays."""
    if not (place / "saved_model.pb").is_file():
        raise DataError(f"{place} holds no graph. Train the model again.")
    from birdsong.tensorflow_setup import tf

    try:
        loaded = tf.saved_model.load(str(place))
        signatures = loaded.signatures
        serve = signatures["serve"] if "serve" in signatures else signatures["serving_default"]
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        raise DataError(f"{place} cannot be loaded ({error}). Train the model again.") from error
    (argument,) = serve.structured_input_signature[1]

    def call(frames: Floats) -> Floats:
        (scores,) = serve(**{argument: tf.constant(frames, tf.float32)}).values()
        result: Floats = scores.numpy()
        return result

    # The function holds the variables weakly; without the object they would be gone.
    call.model = loaded  # type: ignore[attr-defined]
    return call
