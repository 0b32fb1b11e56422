"""What a file or folder of a run looks like, as plain values for the page."""

import datetime
import json
import math
from pathlib import Path
from typing import Any

TABLES = {".parquet", ".csv", ".tsv"}
IMAGES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}
AUDIO = {
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
}

LARGEST_TEXT = 200_000
"""Most bytes of a text or JSON file that are shown."""
MOST_ENTRIES = 500
"""Most files of a folder that are listed."""
_LONGEST_CELL = 300
_LARGEST_JSON = 5_000_000


def kind(path: Path) -> str:
    """folder, table, json, image, audio, html, text or binary; by name, else by the first bytes."""
    if path.is_dir():
        return "folder"
    ending = path.suffix.lower()
    if ending in TABLES:
        return "table"
    if ending in IMAGES:
        return "image"
    if ending in AUDIO:
        return "audio"
    if ending == ".json":
        return "json"
    if ending in (".html", ".htm"):
        return "html"
    with path.open("rb") as file:
        first = file.read(1024)
    if first.startswith(b"PAR1"):
        return "table"
    if first.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return "image"
    if first[:4] in (b"fLaC", b"OggS") or (first[:4] == b"RIFF" and first[8:12] == b"WAVE"):
        return "audio"
    if first.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<p", b"<h", b"<div")):
        return "html"
    if b"\0" in first:
        return "binary"
    try:
        first.decode()
    except UnicodeDecodeError as error:
        return "binary" if error.start < len(first) - 4 else "text"
    return "text"


def media_type(path: Path) -> str:
    """The type under which a file is sent; what is not known is only for saving."""
    what, ending = kind(path), path.suffix.lower()
    if what == "image":
        return IMAGES.get(ending, "image/png")
    if what == "audio":
        return AUDIO.get(ending, "audio/flac")
    names = {"html": "text/html", "json": "application/json", "text": "text/plain"}
    return names.get(
        what, "text/plain" if ending in (".csv", ".tsv") else "application/octet-stream"
    )


def preview(path: Path, rows: int = 50) -> dict[str, Any]:
    """Look into a file or folder.

    Args:
        path: What to look at.
        rows: Most rows of a table.

    Returns:
        {"kind", "bytes", ...} and by kind: entries of a folder; columns, rows and row_count of a
        table; text of a text; value of JSON. A file that cannot be read has kind "broken".
    """
    what = kind(path)
    found: dict[str, Any] = {"kind": what, "name": path.name}
    if what == "folder":
        return found | _folder(path)
    found["bytes"] = path.stat().st_size
    try:
        if what == "table":
            return found | _table(path, rows)
        if what == "json":
            return found | _json(path)
        if what == "text":
            return found | _text(path)
    except Exception as error:  # of whatever reader: a broken file is shown as one
        return found | {"kind": "broken", "error": f"{type(error).__name__}: {error}"}
    return found


def _folder(path: Path) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    for place in sorted(path.rglob("*")):
        if place.is_file() and not place.is_symlink():
            if len(entries) == MOST_ENTRIES:
                return {"entries": entries, "cut": True}
            name = str(place.relative_to(path))
            entries.append({"name": name, "bytes": place.stat().st_size, "kind": kind(place)})
    return {"entries": entries, "cut": False}


def _table(path: Path, rows: int) -> dict[str, Any]:
    if path.suffix.lower() in (".csv", ".tsv"):
        import csv
        import itertools

        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            columns = next(reader, [])
            read = [[_cell(value) for value in row] for row in itertools.islice(reader, rows + 1)]
        return {
            "columns": columns,
            "rows": read[:rows],
            "row_count": len(read) if len(read) <= rows else None,
        }
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        batch = next(file.iter_batches(batch_size=rows), None)
        records = batch.to_pylist() if batch is not None else []
        columns = list(file.schema_arrow.names)
        return {
            "columns": columns,
            "rows": [[_cell(row[name]) for name in columns] for row in records],
            "row_count": file.metadata.num_rows,
        }


def _cell(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _LONGEST_CELL else text[:_LONGEST_CELL] + "…"


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST_JSON:
        return {"kind": "text"} | _text(path)
    value = json.loads(path.read_text(), parse_constant=str)
    if (
        isinstance(value, list)
        and value
        and all(isinstance(row, dict) for row in value)
        and len(columns := list(dict.fromkeys(name for row in value for name in row))) <= 60
    ):
        rows = [[_cell(row.get(name)) for name in columns] for row in value[:200]]
        return {"kind": "table", "columns": columns, "rows": rows, "row_count": len(value)}
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return {"text": text[:LARGEST_TEXT], "cut": len(text) > LARGEST_TEXT}


def _text(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        data = file.read(LARGEST_TEXT + 1)
    return {
        "text": data[:LARGEST_TEXT].decode(errors="replace"),
        "cut": len(data) > LARGEST_TEXT,
    }
