"""Golden recordings: known sounds with stored scores, to check what a server answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsong import artifacts, runtimes
from birdsong.errors import DataError

GOLDEN = "golden.json"


@dataclass(frozen=True)
class Golden:
    """One golden recording: the FLAC of a stored window, and its scores when it was evaluated."""

    file: Path
    label: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """One golden recording's stored and served scores.

    Attributes:
        file: Its name.
        label: Its species' eBird code.
        species: Where the two differ most.
        stored: That species' stored score.
        served: That species' served score; NaN where the server gave none.
        difference: |served - stored|, infinite where a score is missing.
        milliseconds: From the first byte sent to the last one received.
    """

    file: str
    label: str
    species: str
    stored: float
    served: float
    difference: float
    milliseconds: float


def read_golden(
    folder: str | Path, codes: Sequence[str], runtime: str = runtimes.REFERENCE
) -> list[Golden]:
    """Read the golden recordings of a bundle or an evaluation.

    Args:
        folder: The folder `golden` with `golden.json` and the FLAC files.
        codes: eBird codes in the order of the scores.
        runtime: Whose stored scores are read.

    Raises:
        DataError: A file or a score is missing, or a score is not a number in [0, 1].
    """
    place = Path(folder)
    if not (place / GOLDEN).is_file():
        return []
    entries = artifacts.read_json(place / GOLDEN)
    return [_golden(place, entry, codes, runtime) for entry in entries]


def _golden(place: Path, entry: Mapping[str, Any], codes: Sequence[str], runtime: str) -> Golden:
    try:
        name, label, scores = str(entry["file"]), str(entry["label"]), entry["scores"]
        if runtime != runtimes.REFERENCE:
            scores = entry["runtimes"][runtime]
    except (KeyError, TypeError) as error:
        raise DataError(f"{place / GOLDEN}: an entry has no {error}.") from error
    if not isinstance(scores, Mapping):
        if len(scores) != len(codes):
            raise DataError(
                f"{place / GOLDEN}: {name} has {len(scores)} scores, the model has "
                f"{len(codes)} species. Run evaluate-threshold again for this model."
            )
        scores = dict(zip(codes, scores, strict=True))
    absent = sorted(set(codes) - set(scores))
    if absent:
        raise DataError(f"{place / GOLDEN}: {name} has no score for {', '.join(absent[:5])}.")
    numbers = {}
    for code in codes:
        score = scores[code]
        if not isinstance(score, int | float) or not 0 <= score <= 1:
            raise DataError(f"{place / GOLDEN}: {name} scores {score!r} for {code}.")
        numbers[code] = float(score)
    file = place / Path(name).name
    if not file.is_file():
        raise DataError(f"{file} is missing, though {GOLDEN} names it.")
    return Golden(file, label, numbers)


def allowed(tolerance: float, runtime: str) -> float:
    """Largest difference of a golden recording's scores: `tolerance`, or where that is 0 what
    `runtimes.RUNTIMES` says of the runtime that answers."""
    return tolerance or runtimes.known(runtime).tolerance


def compare(golden: Golden, answer: Mapping[str, Any], milliseconds: float) -> Comparison:
    """Compare a server's answer (with all scores) with the stored scores.

    A golden recording is one stored window, so that more or fewer windows are a difference too.
    """
    windows = answer.get("windows", [])
    served: Mapping[str, Any] = windows[0].get("scores") or {} if len(windows) == 1 else {}
    worst, largest, found = "", -1.0, math.nan
    for code, stored in golden.scores.items():
        value = served.get(code)
        score = float(value) if isinstance(value, int | float) else math.nan
        difference = math.inf if math.isnan(score) else abs(score - stored)
        if difference > largest:
            worst, largest, found = code, difference, score
    return Comparison(
        golden.file.name,
        golden.label,
        worst,
        golden.scores[worst],
        found,
        largest,
        milliseconds,
    )


def table(comparisons: Sequence[Comparison], tolerance: float) -> str:
    """The comparisons as text, the largest difference first."""
    lines = [f"{'recording':<28} {'largest at':<12} {'stored':>9} {'served':>9} {'difference':>11}"]
    for row in sorted(comparisons, key=lambda row: -row.difference):
        served = "missing" if math.isnan(row.served) else f"{row.served:.6f}"
        mark = "  too large" if row.difference > tolerance else ""
        lines.append(
            f"{row.file[:28]:<28} {row.species[:12]:<12} {row.stored:>9.6f} {served:>9} "
            f"{row.difference:>11.2e}{mark}"
        )
    return "\n".join(lines)
