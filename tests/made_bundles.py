"""Small outputs of train and evaluate_threshold, made by hand, as register takes them.

Their network is no network: it scores the share of power in a species' band, in NumPy and, as a
SavedModel, in TensorFlow. So a pure tone is heard, noise and silence are not, and tests of the
server need no training.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from birdsong import artifacts, audio, cost
from birdsong.config import FeatureConfig
from birdsong.cost import Part

CLASSES = [
    {"code": "aldfly", "scientific_name": "Empidonax alnorum", "common_name": "Alder Flycatcher"},
    {"code": "barswa", "scientific_name": "Hirundo rustica", "common_name": "Barn | Swallow"},
    {"code": "zitcis1", "scientific_name": "", "common_name": "Zistensänger"},
]
CODES = [entry["code"] for entry in CLASSES]
BANDS_HZ = [(500, 1500), (2000, 3000), (4000, 5000)]
TONES_HZ = [1000, 2500, 4500]
FRAME, RATE = 110_250, 22_050


def band_scores(frames: np.ndarray) -> np.ndarray:
    """Scores of frames, float32 (frames, 110250), from the share of power in each band."""
    power = np.abs(np.fft.rfft(frames.astype(np.float64), axis=1)) ** 2
    hertz = np.fft.rfftfreq(FRAME, 1 / RATE)
    shares = [
        power[:, (hertz >= low) & (hertz < high)].sum(1) / (power.sum(1) + 1e-9)
        for low, high in BANDS_HZ
    ]
    return (0.02 + 0.96 * np.stack(shares, axis=1)).astype(np.float32)


class BandScorer:
    """The part of birdsong.scoring.Scorer that the server uses."""

    def window_frames(self, samples: np.ndarray) -> np.ndarray:
        return self.frames(audio.frames(samples, FeatureConfig()))

    def frames(self, frames: np.ndarray) -> np.ndarray:
        return band_scores(frames)


def tone(
    hertz: float, seconds: float = 6.0, rate: int = RATE, channels: int = 1, level: float = 0.5
) -> np.ndarray:
    """A sine over faint noise, float32, shape (samples,) or (samples, channels)."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 1e-3, len(time))
    wave = (level * np.sin(2 * np.pi * hertz * time) + level * noise).astype(np.float32)
    return wave if channels == 1 else np.repeat(wave[:, None], channels, axis=1)


@dataclass
class Stages:
    """Folders of the artifacts that register takes."""

    model: Path
    thresholds: Path
    evaluation: Path


def write_stages(
    folder: Path,
    correct: list[bool] | None = None,
    baseline_correct: list[bool] | None = None,
    groups: list[str] | None = None,
    sha256s: list[str] | None = None,
    thresholds: list[float | None] | None = None,
    golden: int = 2,
    golden_shift: float = 0.0,
    saved_model: bool = False,
    note: str = "",
    runtimes: dict[str, float] | None = None,
    spent: Sequence[Part] = (),
) -> Stages:
    """Write the three artifacts; what tests vary are their arguments.

    Args:
        correct: For each test recording, whether the network was right.
        baseline_correct: The same for the baseline.
        groups: Group of each test recording; by default each stands alone.
        sha256s: Content hash of each test recording.
        thresholds: One for each species.
        golden: Golden recordings.
        golden_shift: Added to their stored scores, to make them wrong.
        saved_model: Write the TensorFlow graph too (which imports TensorFlow).
        note: Goes into the model's file, so that its hash is another.
        runtimes: Admitted runtimes beside the reference, and the threshold of all species for each;
            their golden scores are the reference's, less a tenth.
        spent: What the model cost; nothing is noted where it is empty.
    """
    correct = [True] * 15 + [False] * 5 if correct is None else correct
    count = len(correct)
    baseline = [True] * 10 + [False] * 10 if baseline_correct is None else baseline_correct
    groups = [f"group {i}" for i in range(count)] if groups is None else groups
    hashes = [f"{i:064x}" for i in range(count)] if sha256s is None else sha256s
    limits = [0.5, 0.5, 0.5] if thresholds is None else thresholds
    stages = Stages(folder / "model", folder / "thresholds", folder / "evaluation")
    with artifacts.create(stages.model, "model", {"note": note}) as made:
        _json(
            made.path / "model.json",
            {
                "train": {"backbone": "tiny", "weights": "none", "front_end": "small"},
                "features": FeatureConfig().model_dump(mode="json"),
                "note": note,
            },
        )
        _json(made.path / "classes.json", CLASSES)
        (made.path / "weights.weights.h5").write_bytes(b"weights " + note.encode())
        if spent:
            cost.note(made.path, *spent)
        if saved_model:
            _write_graph(made.path / "saved_model")
    inputs = {"model": stages.model}
    with artifacts.create(stages.thresholds, "thresholds", {}, inputs) as made:
        _write_thresholds(made.path, limits, 2.0)
        for number, (name, limit) in enumerate((runtimes or {}).items()):
            place = made.path / "runtimes" / name
            place.mkdir(parents=True)
            _write_thresholds(place, [limit] * 3, 3.0 + number)
    with artifacts.create(stages.evaluation, "evaluation", {}, inputs) as made:
        figure = {"value": 0.75, "low": 0.55, "high": 0.9}
        _json(
            made.path / "metrics.json",
            {
                "network": {"accuracy": figure},
                "baseline": {"accuracy": {**figure, "value": 0.5}},
                "counts": {"test_recordings": count},
            },
        )
        pd.DataFrame(
            {
                "id": [f"{i}.ogg" for i in range(count)],
                "sha256": hashes,
                "group": groups,
                "label": [CODES[i % 3] for i in range(count)],
                "correct": correct,
                "baseline_correct": baseline,
            }
        ).to_parquet(made.path / "test_scores.parquet", index=False)
        _write_golden(made.path / "golden", golden, golden_shift, list(runtimes or {}))
        if runtimes is not None:
            told = {
                name: {"admitted": True, "tolerance": 0.01} for name in ("tensorflow", *runtimes)
            }
            _json(made.path / "runtimes.json", {"runtimes": told})
    return stages


def _write_thresholds(folder: Path, limits: list[float | None], temperature: float) -> None:
    _json(
        folder / "thresholds.json",
        {
            "target_fpr": 0.01,
            "unit": "window of up to 60 s",
            "pooled": {"threshold": 0.5, "negatives": 40},
            "species": {
                code: {
                    "threshold": limit,
                    "how": "none" if limit is None else "own",
                    "negatives": 40,
                    "positives": 6,
                }
                for code, limit in zip(CODES, limits, strict=True)
            },
        },
    )
    _json(folder / "calibration.json", {"method": "temperature", "temperature": temperature})


def _write_golden(folder: Path, count: int, shift: float, runtimes: list[str]) -> None:
    folder.mkdir()
    entries: list[dict[str, Any]] = []
    for i in range(count):
        wave = tone(TONES_HZ[i % 3], seconds=3 + 4 * i)
        samples = np.rint(wave / np.abs(wave).max() * audio.FULL_SCALE).astype(np.int16)
        (folder / f"{i}.flac").write_bytes(audio.encode_flac(samples, RATE))
        scores = BandScorer().window_frames(samples).max(axis=0)
        entries.append(
            {
                "file": f"{i}.flac",
                "label": CODES[i % 3],
                "scores": [max(0.0, float(score) - shift) for score in scores],
                "runtimes": {name: [0.9 * float(score) for score in scores] for name in runtimes},
            }
        )
    _json(folder / "golden.json", entries)


def _write_graph(folder: Path) -> None:
    import tensorflow as tf

    hertz = np.fft.rfftfreq(FRAME, 1 / RATE)
    masks = tf.constant(
        np.stack([(hertz >= low) & (hertz < high) for low, high in BANDS_HZ], 1), tf.float64
    )

    @tf.function(input_signature=[tf.TensorSpec([None, FRAME], tf.float32, name="frames")])
    def serve(frames: Any) -> Any:
        # Of 55,126 bins: in float32 their sum would differ by 1e-5 with the number of frames.
        power = tf.cast(tf.abs(tf.signal.rfft(frames)) ** 2, tf.float64)
        shares = (power @ masks) / (tf.reduce_sum(power, 1, keepdims=True) + 1e-9)
        return {"scores": tf.cast(0.02 + 0.96 * shares, tf.float32)}

    module = tf.Module()
    module.serve = serve
    tf.saved_model.save(module, str(folder), signatures={"serve": serve})


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
