"""What the server answers: from windows and their scores to detections above thresholds."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from birdsong import audio
from birdsong.bundle import Bundle, Species
from birdsong.calibration import Calibration

LONGEST_SECONDS = 24 * 3600.0
"""Most seconds that are read of one recording."""

Asked = Literal["detections", "all", "frames"]
"""What an answer tells beside the detections: nothing, all scores, or those of frames too."""


Floats = npt.NDArray[np.float32]

_AHEAD = 1
"""Windows of one recording that are decoded while the network works on the one before."""


class Detection(BaseModel):
    """A species that was heard in a window: its score is above its threshold."""

    code: str = Field(description="eBird code")
    common_name: str = Field(description="Common name; empty where the training data had none")
    scientific_name: str = Field(description="Scientific name; empty where there was none")
    score: float = Field(description="Highest score of the window's frames, 0 to 1")
    probability: float = Field(description="Calibrated probability, 0 to 1")
    threshold: float = Field(description="The species' threshold; the score is above it")
    frame_start_seconds: float = Field(
        description="Where the 5-second frame with that score starts in the recording, seconds"
    )


class WindowAnswer(BaseModel):
    """A window of up to 60 seconds, the unit of a decision."""

    start_seconds: float = Field(
        description="Start in the recording, seconds; silence before the first sound is left out"
    )
    seconds: float = Field(description="Seconds from its first to its last sound")
    detections: list[Detection] = Field(description="Species heard, the most probable first")
    scores: dict[str, float] | None = Field(
        default=None, description="Scores of all species by eBird code; only with scores=all"
    )
    frame_scores: dict[str, list[float]] | None = Field(
        default=None,
        description="For each species by eBird code the score of each 5-second frame, in order of "
        "time from the window's start; only with scores=frames. They are scores, not decisions: "
        "a threshold holds for a window's highest",
    )


class SpeciesNames(BaseModel):
    """A species that the model knows."""

    code: str = Field(description="eBird code")
    common_name: str = Field(description="Common name; empty where the training data had none")
    scientific_name: str = Field(description="Scientific name; empty where there was none")
    threshold: float | None = Field(
        description="A window's score above it counts as heard; null: never reported"
    )


class Answer(BaseModel):
    """What was heard in a recording."""

    model: str = Field(description="Name of the model")
    version: str | None = Field(description="Its version in the registry; null where not known")
    bundle_sha256: str = Field(description="Hash of the bundle: of weights, thresholds and all")
    runtime: str = Field(
        description="What computed the scores: tensorflow, onnx, openvino-fp32, openvino-bf16 or "
        "openvino-int8"
    )
    seconds: float = Field(description="Seconds that the server worked on it")
    highest_hz: float = Field(description="Highest frequency that the model hears, Hz")
    windows: list[WindowAnswer]
    species: list[SpeciesNames] | None = Field(
        default=None,
        description="All species of the model, for the names behind the scores; only with "
        "scores=all or scores=frames",
    )


class PageSettings(BaseModel):
    """What the web page asks before it sends anything: what stands behind it, and its limits."""

    model: str = Field(description="Name of the model")
    version: str | None = Field(description="Its version in the registry; null where not known")
    largest_bytes: int = Field(description="Most bytes of a recording")
    longest_seconds: float | None = Field(
        description="Most seconds of audio in a recording; null for no limit"
    )
    upload: Literal["direct", "presigned"] = Field(
        description="direct: POST the bytes to invocations; presigned: to where POST uploads says"
    )
    keeps: str = Field(description="What is kept of a recording, in a sentence")


def heard(
    windows: Iterable[audio.Window],
    bundle: Bundle,
    score: Callable[[Floats], Future[Floats]],
    asked: Asked = "detections",
) -> Iterator[WindowAnswer]:
    """Score a recording window by window, exactly as the evaluation does.

    Args:
        windows: Of one recording, see `audio.windows`.
        bundle: Species, thresholds and calibration.
        score: Gives frames, float32 of shape (frames, samples), to the network.
        asked: What is told beside the detections.

    Yields:
        An answer for each window.

    Raises:
        DataError: The recording cannot be decoded.
    """
    waiting: collections.deque[tuple[audio.Window, Future[Floats]]] = collections.deque()
    for window in windows:
        waiting.append((window, score(audio.frames(window.samples, bundle.features))))
        if len(waiting) > _AHEAD:
            first, scores = waiting.popleft()
            yield answer_window(first, scores.result(), bundle, asked)
    for window, scores in waiting:
        yield answer_window(window, scores.result(), bundle, asked)


def answer_window(
    window: audio.Window, scores: Floats, bundle: Bundle, asked: Asked
) -> WindowAnswer:
    """What is heard in a window.

    Args:
        window: Its samples.
        scores: Of its frames, shape (frames, species).
        bundle: Species, thresholds and calibration.
        asked: What is told beside the detections.
    """
    detections = [
        _detection(
            species,
            species.threshold,
            score,
            window.start_seconds + frame * audio.FRAME_SECONDS,
            bundle.calibration,
        )
        for species, score, frame in ranked(scores, bundle)
        if species.threshold is not None and score > species.threshold
    ]
    return WindowAnswer(
        start_seconds=round(window.start_seconds, 3),
        seconds=round(len(window.samples) / bundle.features.sample_rate, 3),
        detections=sorted(detections, key=lambda one: (-one.probability, -one.score)),
        scores=dict(zip(bundle.codes, scores.max(axis=0).astype(float).tolist(), strict=True))
        if asked == "all"
        else None,
        frame_scores=_by_frame(scores, bundle) if asked == "frames" else None,
    )


def _by_frame(scores: npt.NDArray[np.float32], bundle: Bundle) -> dict[str, list[float]]:
    # To six digits: a day of frames for 400 species is large, and finer than that is noise.
    columns = scores.T.astype(np.float64).round(6).tolist()
    return dict(zip(bundle.codes, columns, strict=True))


def known(bundle: Bundle) -> list[SpeciesNames]:
    """Names and thresholds of all species, in the order of the scores."""
    return [
        SpeciesNames(
            code=species.code,
            common_name=species.common_name,
            scientific_name=species.scientific_name,
            threshold=species.threshold,
        )
        for species in bundle.species
    ]


def ranked(scores: npt.NDArray[np.float32], bundle: Bundle) -> Iterator[tuple[Species, float, int]]:
    """Each species' score in a window and the frame that it is from.

    Args:
        scores: Of the window's frames, shape (frames, species).
        bundle: Species in the order of the scores.
    """
    for column, species in enumerate(bundle.species):
        frame = int(scores[:, column].argmax())
        yield species, float(scores[frame, column]), frame


def _detection(
    species: Species, threshold: float, score: float, frame_start: float, calibrated: Calibration
) -> Detection:
    return Detection(
        code=species.code,
        common_name=species.common_name,
        scientific_name=species.scientific_name,
        score=score,
        probability=calibrated.probability(score),
        threshold=threshold,
        frame_start_seconds=round(frame_start, 3),
    )
