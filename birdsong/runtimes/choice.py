"""Which admitted runtime is the fastest on this machine: measured shortly, and remembered.

A start that has to measure takes a little longer, so it measures for `BUDGET_SECONDS` at most, in
the order of the expected speed, and later starts go on with the rest. What was measured is kept in
a small file, by the bundle, the CPU, its cores and the versions of the runtimes. A runtime that
cannot be loaded here, or that scores the bundle's golden recording otherwise than where it was
evaluated, is passed over.
"""

import contextlib
import hashlib
import json
import math
import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsong import artifacts, audio, runtimes
from birdsong.errors import BirdsongError, DataError
from birdsong.workers import count_cores

if TYPE_CHECKING:
    from birdsong.scoring import Floats, Scorer

BUDGET_SECONDS = 1.5
"""Longest that a start goes on to measure one more runtime."""

FRAMES = 4
"""Frames of one measured pass."""


def fastest(folder: Path, model: Path) -> "Scorer":
    """Load the fastest admitted runtime of a bundle or a model.

    Args:
        folder: The bundle, or the model itself.
        model: The model's folder.

    Raises:
        DataError: None of them can be loaded.
    """
    from birdsong.scoring import Scorer

    began = time.monotonic()
    names, lacking = [], {}
    for name in runtimes.admitted(folder):
        if reason := runtimes.lacking(name):
            lacking[name] = reason
        elif name != runtimes.REFERENCE:
            names.append(name)
    place = _place(folder, model, names)
    known = _read(place)
    before = dict(known)
    held: tuple[float, Scorer] | None = None
    for name in names:
        if name in known or (held and time.monotonic() - began > BUDGET_SECONDS):
            continue
        try:
            found = Scorer(model, name)
            seconds = _measure(found, folder)
        except BirdsongError as error:
            _tell(f"{name} is passed over: {error}")
            seconds = math.inf
        known[name] = seconds
        if math.isfinite(seconds) and (held is None or seconds < held[0]):
            held = seconds, found
    if known != before:
        _write(place, known)
    usable = [name for name in names if math.isfinite(known.get(name, math.inf))]
    for name in sorted(usable, key=lambda name: known[name]):
        if held and held[1].runtime == name:
            return held[1]
        try:
            return Scorer(model, name)
        except BirdsongError as error:
            _tell(f"{name} is passed over: {error}")
    if runtimes.REFERENCE in lacking:
        told = " ".join(f"{name}: {reason}" for name, reason in lacking.items())
        raise DataError(f"No runtime can be used for {folder}. {told}")
    return Scorer(model, runtimes.REFERENCE)


def _tell(text: str) -> None:
    print(f"runtime {text}", file=sys.stderr, flush=True)


def _measure(scorer: "Scorer", folder: Path) -> float:
    """Seconds of one pass.

    Raises:
        DataError: The golden recording scores otherwise than it is stored.
    """
    frames = _checked(scorer, folder)
    frames = np.resize(frames, (FRAMES, frames.shape[1]))
    best = math.inf
    for _ in range(3):
        started = time.perf_counter()
        scorer.frames(frames)
        best = min(best, time.perf_counter() - started)
    return best


def _checked(scorer: "Scorer", folder: Path) -> "Floats":
    """Frames of the shortest golden recording, having scored them; faint noise without one."""
    from birdsong import golden

    kept = golden.read_golden(folder / "golden", scorer.codes, scorer.runtime)[:1]
    if not kept:
        samples = round(audio.FRAME_SECONDS * scorer.config.sample_rate)
        return np.random.default_rng(0).normal(0, 0.1, (1, samples)).astype(np.float32)
    window = next(audio.windows(kept[0].file.read_bytes(), scorer.config), None)
    if window is None:
        raise DataError(f"the golden recording {kept[0].file.name} is silent.")
    frames = audio.frames(window.samples, scorer.config)
    scores = scorer.frames(frames).max(axis=0)
    stored = np.array([kept[0].scores[code] for code in scorer.codes], np.float32)
    difference = float(np.abs(scores - stored).max())
    allowed = runtimes.known(scorer.runtime).tolerance
    if not difference <= allowed:
        raise DataError(
            f"it scores the golden recording {kept[0].file.name} by {difference:.2g} otherwise "
            f"than where it was evaluated (allowed {allowed:g})."
        )
    return frames


def _place(folder: Path, model: Path, names: list[str]) -> Path:
    """The file of what was measured for this model on a machine like this one."""
    spec = folder / "bundle.json"
    told = [
        artifacts.file_sha256(spec if spec.is_file() else model / artifacts.SPEC),
        _cpu(),
        count_cores(),
        [(name, runtimes.version(name)) for name in names],
        np.__version__,
    ]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:24]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "birdsong" / "runtimes" / f"{key}.json"


def _cpu() -> str:
    """The CPU's name and abilities."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = {line.partition(":")[0].strip(): line for line in reversed(lines)}
        return " ".join(found[key] for key in ("model name", "flags") if key in found)
    return f"{platform.machine()} {platform.processor()}"


def _read(place: Path) -> dict[str, float]:
    """What was measured earlier; nothing where the file is damaged."""
    try:
        found: Any = json.loads(place.read_text())
        return {
            str(name): math.inf if seconds is None else float(seconds)
            for name, seconds in found["seconds"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _write(place: Path, known: dict[str, float]) -> None:
    # Another process may write the same file: each is whole, the last one stays. Where nothing can
    # be written, the next start measures again.
    with contextlib.suppress(OSError):
        artifacts.write_json(
            place,
            {"seconds": {k: v if math.isfinite(v) else None for k, v in known.items()}},
        )
