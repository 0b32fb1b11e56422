"""The gate of deploy: known recordings come back with the stored scores, in time."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsong import bundle, golden, runtimes
from birdsong.errors import DataError

Ask = Callable[[bytes], bytes]
"""Sends a FLAC file with all scores asked for, and gives the answer's body."""


class GateError(DataError):
    """What is served is not what was measured, or answers too slowly; with the comparison."""


@dataclass(frozen=True)
class Checked:
    """What the gate found.

    Attributes:
        rows: A comparison for each recording.
        table: The same as text.
        runtime: What answered.
        allowed: Largest difference of a score.
    """

    rows: tuple[golden.Comparison, ...]
    table: str
    runtime: str
    allowed: float

    @property
    def largest_difference(self) -> float:
        return max((row.difference for row in self.rows), default=0.0)

    @property
    def median_milliseconds(self) -> float:
        times = [row.milliseconds for row in self.rows]
        return round(statistics.median(times), 1) if times else 0.0

    @property
    def words(self) -> str:
        """One sentence."""
        return (
            f"{len(self.rows)} golden recordings score as when they were evaluated, by "
            f"{self.runtime} (largest difference {self.largest_difference:.1e}, allowed "
            f"{self.allowed:g})."
        )

    def record(self) -> dict[str, Any]:
        """For endpoint.json."""
        return {
            "runtime": self.runtime,
            "golden": [
                {
                    "file": row.file,
                    "label": row.label,
                    "species": row.species,
                    "stored": row.stored,
                    "served": row.served,
                    "difference": row.difference,
                    "milliseconds": round(row.milliseconds, 1),
                }
                for row in self.rows
            ],
            "largest_difference": self.largest_difference,
            "median_milliseconds": self.median_milliseconds,
        }


def check(folder: Path, ask: Ask, tolerance: float, most_milliseconds: float = 0) -> Checked:
    """Send each golden recording of a bundle, and compare its scores and the time that it took.

    Args:
        folder: The bundle.
        ask: Sends one recording.
        tolerance: Largest difference of a score; 0 for what is allowed for the runtime that
            answers.
        most_milliseconds: Largest median time of an answer; 0 for any. With a budget, one request
            before the others is not timed: it may pay for a cold start.

    Raises:
        GateError: A score differs by more, or the answers take longer.
        DataError: An answer is no JSON object.
    """
    codes = bundle.read_bundle(folder).codes
    files = [one.file for one in golden.read_golden(folder / bundle.GOLDEN, codes)]
    if most_milliseconds and files:
        ask(files[0].read_bytes())
    answers = [_asked(file, ask) for file in files]
    # Each runtime has stored scores of its own.
    runtime = str(answers[0][0].get("runtime")) if answers else runtimes.REFERENCE
    allowed = golden.allowed(tolerance, runtime)
    recordings = golden.read_golden(folder / bundle.GOLDEN, codes, runtime)
    rows = tuple(
        golden.compare(recording, *answer)
        for recording, answer in zip(recordings, answers, strict=True)
    )
    found = Checked(rows, golden.table(rows, allowed), runtime, allowed)
    wrong = [row for row in rows if not row.difference <= allowed]
    if wrong:
        raise GateError(
            f"The server's scores differ from those stored for {runtime} by more than {allowed:g} "
            f"for {len(wrong)} of {len(rows)} golden recordings:\n{found.table}\n"
            "What would be served is not what was measured. Run evaluate-threshold and register "
            "again with this code and these packages; where the machines differ and the "
            "difference is small, raise tolerance."
        )
    if most_milliseconds and found.median_milliseconds > most_milliseconds:
        times = ", ".join(f"{row.milliseconds:.0f}" for row in rows)
        raise GateError(
            f"The median answer took {found.median_milliseconds:.0f} ms, the budget is "
            f"{most_milliseconds:g} ms (golden recordings: {times} ms).\n{found.table}\n"
            "Take a larger instance or more memory, or raise latency_ms."
        )
    return found


def _asked(file: Path, ask: Ask) -> tuple[dict[str, Any], float]:
    """The answer to a golden recording, and its milliseconds."""
    began = time.perf_counter()
    body = ask(file.read_bytes())
    milliseconds = (time.perf_counter() - began) * 1000
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise DataError(f"The answer to the golden recording {file.name} is no JSON.") from error
    if not isinstance(answer, dict):
        raise DataError(f"The answer to the golden recording {file.name} is no JSON object.")
    return answer, milliseconds
