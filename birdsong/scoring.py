"""From stored windows to scores: the one scoring path of evaluation, register's check and serving.

A frame's score is the sigmoid of the network's logit, a window's score for a species the highest
of its frames, a recording's the highest of its windows. Nothing depends on what else is scored at
the same time: batches of other sizes may differ in the last bits of the arithmetic, by less than
`TOLERANCE`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from birdsong import artifacts, audio, runtimes
from birdsong.config import FeatureConfig, FrontEndConfig
from birdsong.errors import ConfigError, DataError
from birdsong.progress import track

if TYPE_CHECKING:
    import pandas as pd

    from birdsong.features import FeatureSet

Floats = npt.NDArray[np.float32]

TOLERANCE = 1e-5
"""Largest difference of a score between batches, computed in float32: kernels of other sizes add in
another order. With 16 or 8 bits it is that of the runtime, `runtimes.RUNTIMES`."""

BATCH_FRAMES = 48
"""Frames that are worth gathering, four full windows: 21 MB of samples."""


class Scorer:
    """A trained model, ready to score; safe to use from several threads.

    Any number of frames is scored in passes of at most `Runtime.batch`, so that memory is bounded.

    Attributes:
        codes: Species in the order of the scores.
        config: How recordings become windows and frames.
        runtime: What computes the network, a name of `runtimes.RUNTIMES`.
    """

    def __init__(
        self,
        model_path: str | Path,
        runtime: str = runtimes.REFERENCE,
        serve: Callable[[Floats], Floats] | None = None,
    ) -> None:
        """Load a model artifact, or the copy of it in a bundle; see also `load_scorer`.

        Args:
            model_path: Its folder.
            runtime: What computes the network.
            serve: From frames to scores, where it is loaded already; then the artifact need not be
                finished.

        Raises:
            DataError: The folder is no model, or its network cannot be loaded.
            ConfigError: The runtime is not known, or cannot be used on this machine.
        """
        place = Path(model_path)
        if serve is None:
            artifacts.read_spec(place, "model")
        self.runtime = runtime
        self.codes = tuple(entry["code"] for entry in artifacts.read_json(place / "classes.json"))
        settings = artifacts.read_json(place / "model.json")
        self.config = FeatureConfig(**settings["features"])
        self._frame_samples = round(audio.FRAME_SECONDS * self.config.sample_rate)
        self._batch = runtimes.known(runtime).batch
        if serve is not None:
            self._serve = serve
        elif runtime == runtimes.REFERENCE:
            self._serve = _load(place / "saved_model")
        elif "front_end" not in settings:
            raise DataError(f"{place} does not say what its pictures are. Train the model again.")
        else:
            network = runtimes.load(place, runtime)
            self._serve = with_front_end(network, FrontEndConfig(**settings["front_end"]))

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
        for start in range(0, len(frames), self._batch):
            part = slice(start, start + self._batch)
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


def load_scorer(path: str | Path, runtime: str = "auto") -> Scorer:
    """Load the scorer of a bundle or a model: the one way to get one.

        scorer = load_scorer(folder, "auto")
        bundle = read_bundle(folder, scorer.runtime)    # its thresholds and calibration

    Args:
        path: A bundle, or a model artifact of train. Hashes are not checked here: see
            `bundle.verify_bundle`.
        runtime: auto takes the fastest admitted runtime of this machine (`runtimes.choice`), which
            is never TensorFlow where another one can be used; a name of `runtimes.RUNTIMES` takes
            that one. TensorFlow is imported only where it is the runtime.

    Returns:
        A scorer that takes float32 frames (n, samples) of any n from any thread; its `runtime` is
        the name of the one taken.

    Raises:
        ConfigError: The runtime is not known, not in the bundle, not admitted for this model, or
            its package or an ability of the CPU is missing.
        DataError: The folder is neither, or no network of it can be loaded.
    """
    folder = Path(path)
    model = folder / "model" if (folder / "bundle.json").is_file() else folder
    if runtime == "auto":
        from birdsong.runtimes import choice

        return choice.fastest(folder, model)
    runtimes.known(runtime)
    if runtime not in (allowed := runtimes.admitted(folder)):
        entry = runtimes.table(folder).get(runtime)
        reason = "it was not exported" if entry is None else entry.get("reason") or "not admitted"
        raise ConfigError(
            f"runtime {runtime} is not admitted for this model: {reason.rstrip('.')}. Take "
            f"{' or '.join(allowed)}, or auto."
        )
    if lacks := runtimes.lacking(runtime):
        raise ConfigError(f"runtime {runtime} cannot be used here: {lacks} Take another, or auto.")
    return Scorer(model, runtime)


def with_front_end(
    network: runtimes.Network, front_end: FrontEndConfig
) -> Callable[[Floats], Floats]:
    """The whole from frames to scores around a network from pictures to logits."""
    from birdsong.frontend import pictures

    def serve(frames: Floats) -> Floats:
        logits = network(pictures(frames, front_end))
        # As 1 / (1 + e^-x), without its overflow.
        half: Floats = np.tanh(logits * np.float32(0.5))
        return np.asarray(0.5 + 0.5 * half, np.float32)

    return serve


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
    label = "score" if scorer.runtime == runtimes.REFERENCE else f"score-{scorer.runtime}"
    for position, window in enumerate(_frames(features, rows, label)):
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


def _frames(features: "FeatureSet", rows: npt.NDArray[np.int_], label: str) -> Iterator[Floats]:
    """Frames of each window in order, read a little ahead while the network works."""

    def one(row: int) -> Floats:
        return audio.frames(features.waveform(int(row)), features.config)

    ahead = 16
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        waiting = [pool.submit(one, row) for row in rows[:ahead]]
        for number in track(range(len(rows)), len(rows), label, "windows"):
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
