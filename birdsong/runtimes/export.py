"""Export of a trained network to the fast runtimes, and whether each does as the reference does.

An export that fails never fails the training: it is written down with its reason, and the runtime
is not admitted.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from birdsong import artifacts, audio, metrics, runtimes
from birdsong.config import FrontEndConfig, RuntimeConfig
from birdsong.features import FeatureSet
from birdsong.frontend import pictures
from birdsong.scoring import Floats, Scorer, score_windows, with_front_end

OPSET = 18
"""Of ONNX: the newest that tf2onnx writes."""

QUANTISATION_FRAMES = 200
"""Frames of training recordings by which the ranges of the 8-bit network are set."""

COMPARED_RECORDINGS = 300
"""Most validation recordings that the runtimes are compared on: minutes for a large network."""


def export_and_compare(
    folder: Path,
    network: Any,
    front_end: FrontEndConfig,
    features: FeatureSet,
    config: RuntimeConfig,
    seed: int,
) -> dict[str, Any]:
    """Write the network for each runtime, and the table of how each compares with the reference.

    Args:
        folder: The model's folder while it is written: has `saved_model`, `model.json` and
            `classes.json`.
        network: keras.Model from pictures to logits, in float32.
        front_end: Makes the pictures.
        features: The development artifact.
        config: When a runtime is admitted.
        seed: Draws the frames and recordings that are looked at.

    Returns:
        What `runtimes.json` holds: for each runtime `admitted`, `reason` where it is not, and the
        figures of its comparison.
    """
    from birdsong.model import whole_model

    started = time.monotonic()
    (folder / runtimes.ONNX).parent.mkdir()
    failed = _export(folder, network, front_end, features, seed)
    rows = _validation(features, seed)
    whole = whole_model(network, front_end)
    reference = _scores(_in_memory(folder, whole), features, rows)
    entries: dict[str, dict[str, Any]] = {}
    for name, runtime in runtimes.RUNTIMES.items():
        if name == runtimes.REFERENCE:
            continue
        if reason := failed.get(runtime.file) or runtimes.lacking(name):
            entries[name] = {"reason": reason}
            continue
        try:
            serve = with_front_end(runtimes.load(folder, name), front_end)
            scores = _scores(Scorer(folder, name, serve), features, rows)
            entries[name] = _compared(scores, reference, features, rows)
        # A network that does not run in a runtime is not served by it, that is all.
        except Exception as error:
            entries[name] = {"reason": _told("It does not run", error)}
    for entry in entries.values():
        entry |= _verdict(entry, config)
    found = {
        "rule": f"top species of at least {100 * config.runtime_agreement:g} % of the validation "
        "recordings as the reference, accuracy within "
        f"{config.runtime_accuracy_points:g} points of it",
        "quantisation_frames": min(QUANTISATION_FRAMES, len(features.select("train"))),
        "runtimes": entries,
    }
    artifacts.write_json(folder / runtimes.TABLE, found)
    admitted = [name for name, entry in entries.items() if entry["admitted"]]
    print(
        f"train: runtimes beside TensorFlow: {', '.join(admitted) or 'none'} admitted, "
        f"{time.monotonic() - started:.1f} s.",
        flush=True,
    )
    for name, entry in entries.items():
        if not entry["admitted"]:
            print(f"train: {name} is not admitted: {entry['reason']}", flush=True)
    return found


def _export(
    folder: Path, network: Any, front_end: FrontEndConfig, features: FeatureSet, seed: int
) -> dict[str, str]:
    """Write the files; names of those that could not be written, with the reason."""
    failed = {}
    frames = _training_frames(features, seed)
    steps: dict[str, Callable[[Path], None]] = {
        runtimes.ONNX: lambda place: _write_onnx(network, front_end, place),
        runtimes.INT8: lambda place: _write_int8(
            folder / runtimes.ONNX, pictures(frames, front_end), place
        ),
    }
    for name, write in steps.items():
        place = folder / name
        try:
            write(place)
        # Whatever the exporters raise: what they cannot write is not served, that is all.
        except Exception as error:
            for file in (place, place.with_suffix(".bin")):
                file.unlink(missing_ok=True)
            failed[name] = _told("Its export failed", error)
    return failed


def _told(what: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{what}: the package {error.name} is not installed."
    lines = str(error).strip().splitlines() or [""]
    return f"{what}: {type(error).__name__}: {lines[-1][:300].rstrip('.')}."


def _write_onnx(network: Any, front_end: FrontEndConfig, place: Path) -> None:
    import logging

    import tf2onnx

    from birdsong.tensorflow_setup import tf

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    signature = [tf.TensorSpec([None, *front_end.picture_shape], tf.float32, name="pictures")]

    def logits(pictures: Any) -> Any:
        return network(pictures, training=False)

    tf2onnx.convert.from_function(
        tf.function(logits, input_signature=signature),
        input_signature=signature,
        opset=OPSET,
        output_path=str(place),
    )


def _write_int8(onnx: Path, frames: Floats, place: Path) -> None:
    from birdsong.runtimes import openvino_setup

    if not onnx.is_file():
        raise OSError("there is no ONNX file to quantise")
    if not len(frames):
        raise OSError("there are no training frames to set the ranges by")
    openvino, nncf = openvino_setup.openvino, openvino_setup.nncf()
    with contextlib.redirect_stdout(None):  # its bars of progress
        quantised = nncf.quantize(
            openvino.Core().read_model(onnx),
            nncf.Dataset([picture[np.newaxis] for picture in frames]),
            subset_size=len(frames),
            # The dense layers behind the features take next to no time, and half of the error.
            ignored_scope=nncf.IgnoredScope(types=["MatMul"], validate=False),
        )
    openvino.save_model(quantised, place, compress_to_fp16=False)


def _training_frames(features: FeatureSet, seed: int) -> Floats:
    """One frame of each of some training windows, drawn by chance: (frames, samples)."""
    random = np.random.default_rng(seed)
    rows = np.asarray(features.select("train"), int)
    rows = random.permutation(rows)[:QUANTISATION_FRAMES]
    found = []
    for row in rows:
        frames = audio.frames(features.waveform(int(row)), features.config)
        found.append(frames[random.integers(len(frames))])
    size = round(audio.FRAME_SECONDS * features.config.sample_rate)
    return np.stack(found) if found else np.empty((0, size), np.float32)


def _validation(features: FeatureSet, seed: int) -> list[int]:
    """Windows of the validation recordings, of `COMPARED_RECORDINGS` drawn ones at most."""
    rows = np.asarray(features.select("validation"), int)
    ids = features.index["id"].to_numpy()[rows]
    chosen = np.random.default_rng(seed).permutation(np.unique(ids))[:COMPARED_RECORDINGS]
    return [int(row) for row in rows[np.isin(ids, chosen)]]


def _in_memory(folder: Path, model: Any) -> Scorer:
    """The reference, without writing and reading its graph once more."""
    from birdsong.tensorflow_setup import tf

    run = tf.function(lambda frames: model(frames, training=False), reduce_retracing=True)

    def serve(frames: Floats) -> Floats:
        result: Floats = run(tf.constant(frames)).numpy()
        return result

    return Scorer(folder, runtimes.REFERENCE, serve)


def _scores(scorer: Scorer, features: FeatureSet, rows: Sequence[int]) -> Floats:
    """Scores of windows, (windows, species)."""
    return score_windows(scorer, features, rows).scores


def _compared(
    scores: Floats, reference: Floats, features: FeatureSet, rows: Sequence[int]
) -> dict[str, Any]:
    """The figures of one runtime: scores of windows against the reference's, as recordings."""
    index = features.index.iloc[list(rows)]
    labels = metrics.label_matrix(
        index["label"].tolist(), index["secondary"].tolist(), features.codes
    )
    ids = [str(name) for name in index["id"]]
    firsts, ours = metrics.by_recording(ids, scores)
    _, theirs = metrics.by_recording(ids, reference)
    if not len(firsts):
        return {"recordings": 0}
    right, right_there = (metrics.correct(one, labels[firsts]).mean() for one in (ours, theirs))
    same = metrics.ranking(ours)[:, 0] == metrics.ranking(theirs)[:, 0]
    return {
        "recordings": len(firsts),
        "largest_difference": float(np.abs(scores - reference).max()),
        "agreement": float(same.mean()),
        "accuracy": float(right),
        "accuracy_points": 100 * float(right - right_there),
    }


def _verdict(entry: dict[str, Any], config: RuntimeConfig) -> dict[str, Any]:
    """Whether a runtime with these figures is admitted, and why not."""
    if "reason" in entry:
        return {"admitted": False}
    if not entry["recordings"]:
        return {
            "admitted": False,
            "reason": "There are no validation recordings to compare it on. Raise "
            "validation_fraction.",
        }
    reasons = []
    if entry["agreement"] < config.runtime_agreement - 1e-12:
        reasons.append(
            f"Its top species is the reference's in {100 * entry['agreement']:.1f} % of "
            f"{entry['recordings']} validation recordings, needed are "
            f"{100 * config.runtime_agreement:g} %."
        )
    if abs(entry["accuracy_points"]) > config.runtime_accuracy_points + 1e-9:
        reasons.append(
            f"Its accuracy is {entry['accuracy_points']:+.2f} points from the reference's, allowed "
            f"are {config.runtime_accuracy_points:g}."
        )
    return {"admitted": not reasons, "reason": " ".join(reasons)}
