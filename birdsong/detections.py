"""Detections as tables that people open: CSV, Parquet, Raven's selections, Audacity's labels."""

import csv
import tempfile
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from birdsong import artifacts
from birdsong.errors import ConfigError

COLUMNS = (
    "file",
    "start_seconds",
    "end_seconds",
    "code",
    "common_name",
    "scientific_name",
    "score",
    "probability",
    "threshold",
    "window_start_seconds",
    "window_end_seconds",
)
"""Of CSV and Parquet. Start and end are those of the 5-second frame with the score; the decision
is the window's. The threshold is empty where a probability was asked for instead."""

Row = Mapping[str, Any]
Recording = tuple[str, list[dict[str, Any]]]
"""A recording's path below what was given, and its rows."""

_ROWS_AT_A_TIME = 10_000


class Format(StrEnum):
    """Names of the formats."""

    CSV = "csv"
    PARQUET = "parquet"
    RAVEN = "raven"
    AUDACITY = "audacity"


_BY_ENDING = {".csv": Format.CSV, ".parquet": Format.PARQUET, ".txt": Format.RAVEN}


def format_of(out: Path, wanted: str = "") -> Format:
    """The format by its name, else by the ending of the output.

    Raises:
        ConfigError: There is no such format, or the ending names none.
    """
    if wanted:
        if wanted not in list(Format):
            raise ConfigError(f"--format {wanted!r}: choose {', '.join(Format)}.")
        return Format(wanted)
    if out.suffix.lower() not in _BY_ENDING:
        raise ConfigError(
            f"{out}: its ending does not tell a format. End it in .csv, .parquet or .txt (Raven), "
            "or give --format; --format audacity writes a folder with a file for each recording."
        )
    return _BY_ENDING[out.suffix.lower()]


def write(out: Path, kind: Format, recordings: Iterable[Recording], top_hz: float) -> None:
    """Write detections aside, then put them in place.

    Args:
        out: File to write; for Audacity a folder.
        kind: Format.
        recordings: In the order of the output.
        top_hz: Highest frequency that the network hears, for Raven's boxes.
    """
    if kind == Format.AUDACITY:
        with tempfile.TemporaryDirectory(
            dir=out.absolute().parent, prefix=f".{out.name}."
        ) as aside:
            _write_audacity(Path(aside) / "labels", recordings)
            (Path(aside) / "labels").rename(out)
        return
    with artifacts.write_aside(out) as place:
        if kind == Format.CSV:
            _write_csv(place, recordings)
        elif kind == Format.PARQUET:
            _write_parquet(place, recordings)
        else:
            _write_raven(place, recordings, top_hz)


def _write_csv(place: Path, recordings: Iterable[Recording]) -> None:
    with place.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for _, rows in recordings:
            table.writerows(rows)


def _write_parquet(place: Path, recordings: Iterable[Recording]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ("file", "code", "common_name", "scientific_name")
    schema = pa.schema({name: pa.string() if name in texts else pa.float64() for name in COLUMNS})
    with pq.ParquetWriter(place, schema) as writer:
        held: list[dict[str, Any]] = []
        for _, rows in recordings:
            held += rows
            if len(held) >= _ROWS_AT_A_TIME:
                writer.write_table(pa.Table.from_pylist(held, schema))
                held = []
        writer.write_table(pa.Table.from_pylist(held, schema))


def _write_raven(place: Path, recordings: Iterable[Recording], top_hz: float) -> None:
    """One selection table over many files, which Raven finds by Begin Path and File Offset."""
    columns = (
        *("Selection", "View", "Channel", "Begin Path", "File Offset (s)", "Begin Time (s)"),
        *("End Time (s)", "Low Freq (Hz)", "High Freq (Hz)", "Species Code", "Common Name"),
        *("Score", "Probability"),
    )
    number = 0
    with place.open("w", encoding="utf-8") as file:
        file.write("\t".join(columns) + "\n")
        for _, rows in recordings:
            for row in rows:
                number += 1
                start, end = row["start_seconds"], row["end_seconds"]
                cells = [
                    *(number, "Spectrogram 1", 1, row["file"], start, start, end, 0, top_hz),
                    *(row["code"], row["common_name"], row["score"], row["probability"]),
                ]
                file.write("\t".join(map(_plain, cells)) + "\n")


def _write_audacity(place: Path, recordings: Iterable[Recording]) -> None:
    place.mkdir()
    for path, rows in recordings:
        file = place / PurePosixPath(path).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            f"{row['start_seconds']:.3f}\t{row['end_seconds']:.3f}\t"
            f"{_plain(row['common_name'] or row['code'])} {row['probability']:.2f}\n"
            for row in rows
        ]
        file.write_text("".join(lines), encoding="utf-8")


def _plain(value: object) -> str:
    """A cell without what would end it."""
    return " ".join(str(value).split()) if isinstance(value, str) else str(value)


def write_problems(out: Path, problems: Iterable[tuple[str, str]]) -> None:
    """Write which recordings could not be used, and why, as CSV."""
    with (
        artifacts.write_aside(out) as place,
        place.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("file", "reason"))
        table.writerows(problems)
