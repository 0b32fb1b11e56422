"""Scores of labelled soundscapes, one for each 5-second frame."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from birdsong import audio, progress
from birdsong.config import FeatureConfig
from birdsong.errors import DataError
from birdsong.frame_metrics import FrameLabels, frame_figures, read_frame_labels
from birdsong.layouts import DECODED
from birdsong.scoring import Floats, Scorer


class FrameScorer(Protocol):
    """What `birdsong.scoring.Scorer` gives."""

    codes: tuple[str, ...]
    config: FeatureConfig

    def frames(self, frames: Floats) -> Floats:
        """Scores of frames, shape (frames, species), in [0, 1]."""


LONGEST_SECONDS = 86_400.0
"""A day: soundscapes are scored whole."""


def find_recordings(
    labels: FrameLabels, table: str | Path, folder: str | Path | None = None
) -> dict[str, Path]:
    """The sound file of each labelled recording, in or below a folder, by default the table's.

    BirdCLEF 2021 calls recording 7019 `7019_COR_20190904.ogg`, in `train_soundscapes`.

    Raises:
        DataError: A recording has no file, or two.
    """
    folder = Path(table).resolve().parent if folder is None else Path(folder)
    files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in DECODED]
    found: dict[str, Path] = {}
    for name in dict.fromkeys(labels.recordings):
        mine = [file for file in files if file.stem == name or file.stem.startswith(f"{name}_")]
        if len(mine) != 1:
            named = ", ".join(str(file.relative_to(folder)) for file in mine[:3])
            raise DataError(
                f"{table}: recording {name!r} needs one sound file below {folder}, named {name} or "
                f"{name}_<anything>; there {'are ' + named if mine else 'is none'}."
            )
        found[name] = mine[0]
    return found


def score_frames(
    scorer: FrameScorer,
    labels: FrameLabels,
    table: str | Path,
    folder: str | Path | None = None,
) -> Floats:
    """Score the labelled frames.

    Levels are those of serving: each window of up to 60 s is divided by its peak.

    Args:
        scorer: The network.
        labels: Which frames of which recordings.
        table: Where the labels were read.
        folder: Where the recordings lie; by default beside the table.

    Returns:
        Scores in [0, 1], shape (frames, species); 0 where a frame is digital silence.

    Raises:
        DataError: A recording is missing, cannot be decoded or ends before a labelled frame, or a
            frame does not end at a multiple of 5 s.
    """
    length = int(audio.FRAME_SECONDS)
    for name, second in zip(labels.row_ids, labels.seconds, strict=True):
        if second % length or second < length:
            raise DataError(
                f"{table}: frame {name!r} ends at {second} s; frames end at {length}, "
                f"{2 * length}, {3 * length} s and so on."
            )
    files = find_recordings(labels, table, folder)
    config = scorer.config.model_copy(update={"seconds": LONGEST_SECONDS})
    scores = np.zeros((len(labels.row_ids), len(scorer.codes)), np.float32)
    recordings = np.array(labels.recordings, str)
    numbers = np.array(labels.seconds, int) // length - 1
    for name, file in progress.track(files.items(), len(files), "soundscapes", "recordings"):
        mine = np.flatnonzero(recordings == name)
        frames = dict(_frames(scorer, file, config))
        last = int(numbers[mine].max())
        if last > max(frames, default=-1) and last * length >= _seconds(file):
            raise DataError(
                f"{table}: recording {name!r} is labelled up to {(last + 1) * length} s, but "
                f"{file.name} ends at {_seconds(file):.0f} s."
            )
        for row in mine:
            if (found := frames.get(int(numbers[row]))) is not None:
                scores[row] = found
    return scores


def _frames(scorer: FrameScorer, file: Path, config: FeatureConfig) -> Iterator[tuple[int, Floats]]:
    """Number of each 5-second frame from the recording's start, and its scores."""
    size = round(audio.FRAME_SECONDS * config.sample_rate)
    held: dict[int, Floats] = {}
    for window in audio.windows(file, config):
        # A window begins where silence ends; on the grid of the labels its first frame is padded.
        start = round(window.start_seconds * config.sample_rate)
        first, before = divmod(start, size)
        padded = np.zeros(math.ceil((before + len(window.samples)) / size) * size, np.float32)
        padded[before : before + len(window.samples)] = window.samples
        padded *= np.float32(1 / audio.FULL_SCALE)
        for number, found in enumerate(scorer.frames(padded.reshape(-1, size)), start=first):
            # Where two windows share a frame each scores its part of it.
            held[number] = np.maximum(held[number], found) if number in held else found
    yield from held.items()


def _seconds(file: Path) -> float:
    import soundfile

    found: float = soundfile.info(str(file)).duration
    return found


def measure(
    scorer: Scorer, table: str | Path, thresholds: npt.NDArray[np.float64], seed: int
) -> dict[str, Any]:
    """Figures per 5-second frame of labelled soundscapes.

    Args:
        scorer: The network.
        table: Labels of the frames, see `frame_metrics`; the recordings lie beside it.
        thresholds: One for each species, NaN where it is never reported, shape (species,).
        seed: Seed of the bootstrap.

    Returns:
        Figures with 95 % intervals by recording; beside them the row-wise F1 of who never reports
        a bird, and what was measured on.
    """
    labels = read_frame_labels(table)
    scores = score_frames(scorer, labels, table)
    found = frame_figures(labels, scores, scorer.codes, thresholds, seed)
    nothing = frame_figures(labels, np.zeros_like(scores), scorer.codes, thresholds, seed)
    heard = set().union(*labels.birds) if labels.birds else set()
    return {
        "unit": "frame of 5 s, scored alone; reported where above the window's threshold",
        "frames": len(labels.row_ids),
        "frames_without_birds": sum(not birds for birds in labels.birds),
        "recordings": len(set(labels.recordings)),
        "species": len(heard),
        "unknown_species": sorted(heard - set(scorer.codes)),
        "network": {name: one.as_json() for name, one in found.items()},
        "silence": {"row_f1": nothing["row_f1"].as_json()},
    }
