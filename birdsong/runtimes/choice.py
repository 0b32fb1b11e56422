"""Which admitted runtime is the fastest on this machine: measured shortly, and remembered.

A start that has to measure takes a little longer, so it measures for about `BUDGET_SECONDS`, in the
order of the expected speed, and later starts go on with the rest. What was measured is kept in a
small file, by the bundle, the CPU, its cores and the versions of the runtimes. A runtime that
cannot be loaded here, or that scores the bundle's golden recording otherwise than where it was
evaluated, is passed over: every start checks the one that it takes.
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
    from birdsong.scoring import Scorer

BUDGET_SECONDS = 1.5
"""A start measures one runtime, and another one only where that is expected to end in this time."""

FRAMES, PASSES = 2, 3
"""Frames of one measured pass, and passes; the best one counts, since others are disturbed."""


def fastest(folder: Path, model: Path) -> "Scorer":
    """Load the fastest admitted runtime of a bundle or a model.

    Args:
        folder: The bundle, or the model itself.
        model: The model's folder.

    Raises:
        DataError: None of them can be loaded.
    """
    from birdsong.scoring import Scorer

    names, lacking = [], {}
    for name in runtimes.admitted(folder):
        if reason := runtimes.lacking(name):
            lacking[name] = reason
        elif name != runtimes.REFERENCE:
            names.append(name)
    place = _place(folder, model, names)
    known = _read(place)
    before = dict(known)
    taken: Scorer | None = None
    while taken is None:
        unknown = [name for name in names if name not in known]
        held = _measure_some(unknown, known, model)
        taken = _first_that_is_right(names, known, held, folder, model)
        if not unknown:
            break
    if known != before:
        _write(place, known)
    if taken is not None:
        return taken
    if runtimes.REFERENCE in lacking:
        told = " ".join(f"{name}: {reason}" for name, reason in lacking.items())
        raise DataError(f"No runtime can be used for {folder}. {told}")
    return Scorer(model, runtimes.REFERENCE)


def _measure_some(names: list[str], known: dict[str, float], model: Path) -> "Scorer | None":
    """Note the seconds of some runtimes in `known`, of at least one; returns the fastest of them.

    Infinite seconds: it cannot be loaded.
    """
    from birdsong.scoring import Scorer

    held: Scorer | None = None
    began, longest = time.monotonic(), 0.0
    for name in names:
        started = time.monotonic()
        if longest and started - began + longest > BUDGET_SECONDS:
            break
        try:
            found = Scorer(model, name)
            known[name] = _measure(found, min(known.values(), default=math.inf))
            if held is None or known[name] < known[held.runtime]:
                held = found
        except BirdsongError as error:
            _pass_over(name, known, error)
        longest = max(longest, time.monotonic() - started)
    return held


def _first_that_is_right(
    names: list[str], known: dict[str, float], held: "Scorer | None", folder: Path, model: Path
) -> "Scorer | None":
    """Of those measured, the fastest one that can be loaded and scores as it was evaluated.

    Args:
        names: Runtimes that may be taken.
        known: Seconds of those measured; what is passed over here becomes infinite.
        held: One of them that is loaded already.
        folder: The bundle, or the model itself.
        model: The model's folder.
    """
    from birdsong.scoring import Scorer

    usable = [name for name in names if math.isfinite(known.get(name, math.inf))]
    for name in sorted(usable, key=lambda name: known[name]):
        try:
            scorer = held if held and held.runtime == name else Scorer(model, name)
            _check(scorer, folder)
        except BirdsongError as error:
            _pass_over(name, known, error)
        else:
            return scorer
    return None


def _pass_over(name: str, known: dict[str, float], error: BirdsongError) -> None:
    known[name] = math.inf
    print(f"runtime {name} is passed over: {error}", file=sys.stderr, flush=True)


def _measure(scorer: "Scorer", best: float) -> float:
    """Seconds of one pass of faint noise; one that is clearly slower than `best` is run less."""
    samples = round(audio.FRAME_SECONDS * scorer.config.sample_rate)
    frames = np.random.default_rng(0).normal(0, 0.1, (FRAMES, samples)).astype(np.float32)
    scorer.frames(frames)  # the first pass also allocates
    found = math.inf
    for _ in range(PASSES):
        started = time.perf_counter()
        scorer.frames(frames)
        found = min(found, time.perf_counter() - started)
        if found > 1.5 * best:
            break
    return found


def _check(scorer: "Scorer", folder: Path) -> None:
    """Score the shortest golden recording, where there is one.

    Raises:
        DataError: It scores otherwise than it is stored.
    """
    from birdsong import golden

    kept = golden.read_golden(folder / "golden", scorer.codes, scorer.runtime)[:1]
    if not kept:
        return
    window = next(audio.windows(kept[0].file.read_bytes(), scorer.config), None)
    if window is None:
        raise DataError(f"the golden recording {kept[0].file.name} is silent.")
    scores = scorer.window(window.samples)
    stored = np.array([kept[0].scores[code] for code in scorer.codes], np.float32)
    difference = float(np.abs(scores - stored).max())
    allowed = runtimes.known(scorer.runtime).tolerance
    if not difference <= allowed:
        raise DataError(
            f"it scores the golden recording {kept[0].file.name} by {difference:.2g} otherwise "
            f"than where it was evaluated (allowed {allowed:g})."
        )


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
