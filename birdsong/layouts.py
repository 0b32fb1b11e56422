"""How sources of recordings are laid out, and how their tables of metadata are read.

    birdclef2020   train.csv with ebird_code; train_audio/<code>/<file>.mp3
    birdclef2021   train_metadata.csv; train_short_audio/<label>/<file>
    birdclef2022   and later: train_metadata.csv or train.csv; train_audio/; the file names in the
                   table include the folder
    folders        no table; one folder for each species, named by its label

The layout is recognised by what is there; a source may hold it one or two folders deep, as zips do.
"""

import ast
import csv
import datetime
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from birdsong.errors import DataError
from birdsong.sources import clean_path

DECODED = frozenset({".ogg", ".oga", ".opus", ".mp3", ".flac", ".wav"})
"""Endings of recordings that are decoded."""
AUDIO = DECODED | {".aac", ".aif", ".aiff", ".amr", ".m4a", ".mp4", ".webm", ".wma"}
"""Endings of all recordings; those that are not decoded are listed as unreadable, not passed by."""
TABLES = ("train_metadata.csv", "train.csv")
AUDIO_FOLDERS = ("train_short_audio", "train_audio")

_NOTHING = frozenset({"", "nan", "none", "null", "na", "n/a", "?", "unknown", "not specified"})
_LABEL_COLUMN = {"birdclef2020": "ebird_code"}
_OWN_COLUMNS = {
    "filename": ("filename",),
    "secondary": ("secondary_labels",),
    "scientific_name": ("scientific_name", "sci_name"),
    "common_name": ("common_name", "species"),
    "author": ("author", "recordist"),
    "date": ("date",),
    "licence": ("license", "licence"),
    "latitude": ("latitude",),
    "longitude": ("longitude",),
    "rating": ("rating",),
}
_RANGES = {"latitude": (-90.0, 90.0), "longitude": (-180.0, 180.0), "rating": (0.0, 5.0)}


@dataclass
class Survey:
    """What is in a source, seen file by file; it does not grow with the number of recordings."""

    tables: set[str] = field(default_factory=set)
    audio_folders: set[str] = field(default_factory=set)
    tops: dict[str, bool] = field(default_factory=dict)
    """First part of the paths of recordings, and whether some lie directly in it."""
    audio_count: int = 0

    def see(self, path: str) -> None:
        """Take note of one file."""
        if is_junk(path):
            return
        parts = path.split("/")
        if parts[-1] in TABLES and len(parts) <= 3:
            self.tables.add(path)
        if not is_audio(path):
            return
        self.audio_count += 1
        for depth, part in enumerate(parts[:-1][:3]):
            if part in AUDIO_FOLDERS:
                self.audio_folders.add("/".join(parts[: depth + 1]) + "/")
                break
        top = parts[0] if len(parts) > 1 else ""
        self.tops[top] = self.tops.get(top, False) or len(parts) <= 2


@dataclass(frozen=True)
class Layout:
    """Where things are in a source.

    Attributes:
        name: birdclef2020, birdclef2021, birdclef2022 or folders.
        table: Path of the table of metadata; None for folders.
        audio_root: What the paths of recordings begin with; empty, or ends in "/".
    """

    name: str
    table: str | None
    audio_root: str


@dataclass
class Metadata:
    """What a table says of one recording.

    Attributes:
        id: Path of the recording below the audio root.
        fault: Why the recording cannot be used; None where it can.
        notes: What could not be read and was left empty.
        extra: All other columns, as text.
    """

    id: str
    label: str = ""
    secondary: list[str] = field(default_factory=list)
    scientific_name: str | None = None
    common_name: str | None = None
    author: str | None = None
    date: str | None = None
    licence: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    rating: float | None = None
    extra: dict[str, str] = field(default_factory=dict)
    fault: str | None = None
    notes: list[str] = field(default_factory=list)


def is_audio(path: str) -> bool:
    """Whether a file is a recording, by its ending."""
    return PurePosixPath(path).suffix.lower() in AUDIO


def is_junk(path: str) -> bool:
    """Whether a file is what desktops leave behind: hidden, or a Mac's second half."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def tables_to_look_at(survey: Survey) -> list[str]:
    """The tables of the folder nearest to the source's root, the likelier name first.

    Raises:
        DataError: Several folders of the source hold a table.
    """
    if not survey.tables:
        return []
    depth = min(path.count("/") for path in survey.tables)
    nearest = sorted(
        (path for path in survey.tables if path.count("/") == depth),
        key=lambda path: TABLES.index(path.rpartition("/")[2]),
    )
    if len({path.rpartition("/")[0] for path in nearest}) > 1:
        raise DataError(
            f"the source holds several data sets: {', '.join(sorted(nearest))}. "
            "Give the folder of one of them as the source."
        )
    return nearest


def find(survey: Survey, wanted: str, headers: Mapping[str, list[str]]) -> Layout:
    """Tell how a source is laid out.

    Args:
        survey: All files of the source, seen.
        wanted: A layout's name, or auto.
        headers: Path and columns of each table of `tables_to_look_at`.

    Raises:
        DataError: There are no recordings, or the wanted layout's table or its columns are missing.
    """
    if wanted == "folders" or (wanted == "auto" and not headers):
        return _folders(survey)
    table = _table(wanted, headers)
    columns = headers[table]
    root = table.rpartition("/")[0]
    root = f"{root}/" if root else ""
    audio_root = next(
        (f"{root}{name}/" for name in AUDIO_FOLDERS if f"{root}{name}/" in survey.audio_folders),
        root,
    )
    name = wanted
    if wanted == "auto":
        name = "birdclef2021" if audio_root.endswith("train_short_audio/") else "birdclef2022"
        if "ebird_code" in columns:
            name = "birdclef2020"
    required = (_LABEL_COLUMN.get(name, "primary_label"), "filename")
    missing = [column for column in required if column not in columns]
    if missing:
        raise DataError(
            f"{table} has no column {' and no column '.join(map(repr, missing))}, which the layout "
            f"{name} needs; it has {', '.join(columns) or 'none'}. Add it, or choose another "
            "layout (folders needs no table)."
        )
    return Layout(name, table, audio_root)


def _table(wanted: str, headers: Mapping[str, list[str]]) -> str:
    names = {"birdclef2020": ("train.csv",), "birdclef2021": ("train_metadata.csv",)}
    for name in names.get(wanted, TABLES):
        for path in headers:
            if path.rpartition("/")[2] == name:
                return path
    raise DataError(
        f"layout {wanted} needs the table {' or '.join(names.get(wanted, TABLES))}, and the source "
        "has none within two folders of its root. Check the source, or choose layout=auto."
    )


def _folders(survey: Survey) -> Layout:
    tops = set(survey.tops)
    # A zip of a folder holds that folder: all recordings below one top that holds none itself.
    if len(tops) == 1 and "" not in tops:
        (top,) = tops
        if not survey.tops[top]:
            return Layout("folders", None, f"{top}/")
    return Layout("folders", None, "")


def of_folder(recording: str) -> Metadata:
    """The metadata of a recording that has only its folder's name.

    Args:
        recording: Its path below the audio root; without a folder it has no label.
    """
    label, slash, _ = recording.partition("/")
    return Metadata(recording, label=label if slash else "")


def header(lines: Iterable[str], table: str) -> list[str]:
    """The columns of a table.

    Raises:
        DataError: The table is empty or not CSV.
    """
    try:
        columns = next(csv.reader(lines), [])
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{table} is not a CSV table in UTF-8: {error}.") from error
    columns = [column.strip() for column in columns]
    if not any(columns):
        raise DataError(f"{table} is empty: it needs a first line with the columns' names.")
    doubled = {column for column in columns if columns.count(column) > 1 and column}
    if doubled:
        raise DataError(f"{table} has the column {sorted(doubled)[0]!r} twice. Rename one.")
    return columns


def read(lines: Iterable[str], layout: Layout) -> Iterator[Metadata]:
    """Read a table of metadata.

    Args:
        lines: Its text, line by line.
        layout: What `find` said.

    Yields:
        One entry for each row, also for rows with a fault.

    Raises:
        DataError: It is not CSV.
    """
    iterator = iter(lines)
    columns = header(iterator, layout.table or "")
    reader = csv.reader(iterator)
    try:
        for cells in reader:
            if cells:
                yield _entry(columns, cells, layout, reader.line_num + 1)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"{layout.table}, near line {reader.line_num + 2}: not a CSV table in UTF-8: {error}."
        ) from error


def entry_of(row: Mapping[str, str]) -> Metadata:
    """One row of BirdCLEF 2021's columns, its filename with the folder."""
    return _entry(list(row), list(row.values()), Layout("birdclef2022", None, ""), 0)


def _entry(columns: list[str], cells: list[str], layout: Layout, line: int) -> Metadata:
    row = {column: cell.strip() for column, cell in zip(columns, cells, strict=False)}
    label_column = _LABEL_COLUMN.get(layout.name, "primary_label")
    label, filename = row.get(label_column, ""), row.get("filename", "")
    entry = Metadata(
        id=filename if "/" in filename or not label else f"{label}/{filename}", label=label
    )
    if len(cells) > len(columns):
        entry.fault = f"line {line} has {len(cells)} cells, the table {len(columns)} columns"
    elif not filename:
        entry.id, entry.fault = f"line {line}", "the row names no file"
    elif clean_path(entry.id) is None:
        entry.fault = f"the file name {filename!r} is not a plain relative path"
    elif label.lower() in {"", "nan"}:
        entry.fault = "the row names no species"
    elif "/" in label or not label.isprintable():
        entry.fault = f"the label {label!r} is not a plain word"
    used = {"filename", label_column}
    values: dict[str, str] = {}
    for name, candidates in _OWN_COLUMNS.items():
        column = next((one for one in candidates if one in row), None)
        if column is not None:
            used.add(column)
            text = row[column]
            values[name] = "" if text.lower() in _NOTHING else text
    _fill(entry, values)
    entry.extra |= {
        column: text for column, text in row.items() if column and column not in used and text
    }
    return entry


def _fill(entry: Metadata, values: Mapping[str, str]) -> None:
    entry.scientific_name = values.get("scientific_name") or None
    entry.common_name = values.get("common_name") or None
    entry.author = values.get("author") or None
    entry.licence = values.get("licence") or None
    entry.latitude = _number("latitude", values, entry)
    entry.longitude = _number("longitude", values, entry)
    entry.rating = _number("rating", values, entry)
    if text := values.get("date"):
        entry.date = parse_date(text)
        if entry.date is None:
            entry.notes.append(f"date {text!r} is not a day; left empty")
            entry.extra["date"] = text
    secondary = parse_secondary(values.get("secondary", ""))
    if secondary is None:
        entry.fault = entry.fault or (
            f"secondary_labels {values['secondary'][:80]!r} is not a list of labels such as "
            "['houspa', 'redava']"
        )
    else:
        entry.secondary = [label for label in secondary if label != entry.label]


def _number(name: str, values: Mapping[str, str], entry: Metadata) -> float | None:
    text = values.get(name, "")
    if not text:
        return None
    low, high = _RANGES[name]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        entry.notes.append(f"{name} {text!r} is not a number from {low:g} to {high:g}; left empty")
        return None
    return value


def parse_date(text: str) -> str | None:
    """A day as ISO text; None for what is no day, such as 2013-00-00."""
    match = re.match(r"^(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T ].*)?$", text)
    if not match:
        return None
    try:
        return datetime.date(int(match[1]), int(match[2]), int(match[3])).isoformat()
    except ValueError:
        return None


def parse_secondary(text: str) -> list[str] | None:
    """The labels of a Python list as text, each once, in order; None where it is no such list."""
    if not text:
        return []
    if len(text) > 10_000:
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(value, list | tuple):
        return None
    labels: dict[str, None] = {}
    for item in value:
        if isinstance(item, bool) or not isinstance(item, str | int):
            return None
        if label := str(item).strip():
            labels[label] = None
    return list(labels)
