"""The working state of ingest, in a temporary SQLite file, so that memory does not grow with it."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from birdsong.examine import Examination
from birdsong.layouts import Metadata
from birdsong.sources import File

_SCHEMA = """
PRAGMA journal_mode = off;
PRAGMA synchronous = off;
CREATE TABLE files (path TEXT PRIMARY KEY, uri TEXT, size INTEGER, member TEXT, offset INTEGER,
    compression TEXT, crc INTEGER, fault TEXT) WITHOUT ROWID;
CREATE TABLE entries (id TEXT PRIMARY KEY, path TEXT UNIQUE, label TEXT, licence TEXT, fault TEXT,
    metadata TEXT);
CREATE TABLE results (id TEXT PRIMARY KEY, sha256 TEXT UNIQUE, seconds REAL, rate INTEGER,
    channels INTEGER, uri TEXT, member TEXT, offset INTEGER, size INTEGER, compression TEXT,
    added TEXT DEFAULT '[]');
CREATE TABLE twins (id TEXT PRIMARY KEY, first TEXT, sha256 TEXT);
CREATE TABLE problems (id TEXT, uri TEXT, problem TEXT, detail TEXT, excluded INTEGER);
"""
_FILE_COLUMNS = ", ".join(f"files.{field.name}" for field in fields(File))


class Ledger:
    """Files of a source, entries of its table, results of looking at each, and problems."""

    def __init__(self, path: Path) -> None:
        self._sql = sqlite3.connect(path, isolation_level=None)
        self._sql.executescript(_SCHEMA)

    def close(self) -> None:
        """Let go of the file."""
        self._sql.close()

    def add_file(self, file: File) -> None:
        """Take note of a file; of two with one path, as a zip can hold, the later one counts."""
        values = tuple(getattr(file, field.name) for field in fields(File))
        row = self._sql.execute("SELECT uri FROM files WHERE path = ?", (file.path,)).fetchone()
        if row:
            self.add_problem(file.path, file.uri, "duplicate", "the source holds this name twice")
        self._sql.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def paths(self, prefix: str) -> Iterator[str]:
        """Paths of all files below a prefix, in order."""
        rows = self._sql.execute(
            "SELECT path FROM files WHERE substr(path, 1, ?) = ? ORDER BY path",
            (len(prefix), prefix),
        )
        return (path for (path,) in rows)

    def add_entry(self, entry: Metadata, path: str) -> None:
        """Take note of what is known of a recording at `path`; a second entry is merged."""
        row = self._sql.execute(
            "SELECT label, metadata, fault FROM entries WHERE id = ?", (entry.id,)
        ).fetchone()
        if row is None:
            self._sql.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)",
                (entry.id, path, entry.label, entry.licence, entry.fault, _text(entry)),
            )
            if entry.notes:
                self.add_problem(entry.id, None, "bad metadata", "; ".join(entry.notes), False)
            return
        label, text, fault = row
        if entry.fault is not None or fault is not None:
            # Of a good row and one with a fault the good one counts.
            self.add_problem(entry.id, None, "bad metadata", entry.fault or fault)
            if entry.fault is None:
                self._sql.execute("DELETE FROM entries WHERE id = ?", (entry.id,))
                self.add_entry(entry, path)
            return
        detail = "the table lists it twice; the first row was kept"
        if entry.label != label:
            first = Metadata(**json.loads(text))
            first.secondary = merged(first.secondary, [entry.label, *entry.secondary], label)
            self._sql.execute(
                "UPDATE entries SET metadata = ? WHERE id = ?", (_text(first), entry.id)
            )
            detail += f" with the label {label!r}, {entry.label!r} became a secondary label"
        self.add_problem(entry.id, None, "duplicate", detail)

    def add_problem(
        self, name: str, uri: str | None, problem: str, detail: str, excluded: bool = True
    ) -> None:
        """Take note of something wrong; `excluded` tells whether the recording was left out."""
        self._sql.execute(
            "INSERT INTO problems VALUES (?, ?, ?, ?, ?)", (name, uri, problem, detail, excluded)
        )

    def settle(self, audio_root: str) -> int:
        """List what can not be looked at, and count what can.

        Entries with a fault, entries without a file and files without an entry become problems.
        """
        self._sql.execute(
            "INSERT INTO problems SELECT id, files.uri, 'bad metadata', entries.fault, 1 "
            "FROM entries LEFT JOIN files USING (path) WHERE entries.fault IS NOT NULL ORDER BY id"
        )
        self._sql.execute(
            "INSERT INTO problems SELECT id, NULL, 'label without file', "
            "'the table lists it, but there is no such file', 1 FROM entries "
            "LEFT JOIN files USING (path) "
            "WHERE entries.fault IS NULL AND files.path IS NULL ORDER BY id"
        )
        self._sql.execute(
            "INSERT INTO problems SELECT substr(files.path, ? + 1), files.uri, "
            "'file without label', 'no table and no folder names its species', 1 "
            "FROM files LEFT JOIN entries USING (path) "
            "WHERE entries.path IS NULL AND substr(files.path, 1, ?) = ? ORDER BY files.path",
            (len(audio_root), len(audio_root), audio_root),
        )
        (count,) = self._sql.execute(
            "SELECT count(*) FROM entries JOIN files USING (path) WHERE entries.fault IS NULL"
        ).fetchone()
        return int(count)

    def to_examine(self) -> Iterator[tuple[str, str, File]]:
        """Id, label and file of each recording to look at, in the order of ids."""
        rows = self._sql.execute(
            f"SELECT id, label, {_FILE_COLUMNS} FROM entries JOIN files USING (path) "
            "WHERE entries.fault IS NULL ORDER BY id"
        )
        return ((row[0], row[1], File(*row[2:])) for row in rows)

    def first_with(self, sha256: str) -> tuple[str, str] | None:
        """Id and label of the recording that holds these bytes already."""
        row = self._sql.execute(
            "SELECT id, label FROM results JOIN entries USING (id) WHERE sha256 = ?", (sha256,)
        ).fetchone()
        return (row[0], row[1]) if row else None

    def add_result(self, name: str, found: Examination, place: dict[str, Any]) -> None:
        """Keep a good recording; `place` has uri, member, offset, size and compression."""
        self._sql.execute(
            "INSERT INTO results (id, sha256, seconds, rate, channels, uri, member, offset, size, "
            "compression) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                name,
                found.sha256,
                found.seconds,
                found.rate,
                found.channels,
                *(place[key] for key in ("uri", "member", "offset", "size", "compression")),
            ),
        )

    def merge_labels(self, first: str, second: str) -> list[str]:
        """Add a dropped twin's labels to the secondary labels of the first; gives those added."""
        one, other = self._metadata(first), self._metadata(second)
        (text,) = self._sql.execute("SELECT added FROM results WHERE id = ?", (first,)).fetchone()
        before = merged(one.secondary, json.loads(text), one.label)
        after = merged(before, [other.label, *other.secondary], one.label)
        added = after[len(before) :]
        self._sql.execute(
            "UPDATE results SET added = ? WHERE id = ?",
            (json.dumps([*json.loads(text), *added]), first),
        )
        return added

    def add_twin(self, name: str, first: str, sha256: str) -> None:
        """Take note of a recording with the same bytes as the first one, which is left out."""
        self._sql.execute("INSERT INTO twins VALUES (?, ?, ?)", (name, first, sha256))

    def twins(self) -> Iterator[tuple[Metadata, str, str]]:
        """Metadata of each twin that was left out, whose twin it is, and the hash of both."""
        rows = self._sql.execute(
            "SELECT metadata, first, sha256 FROM twins JOIN entries USING (id) ORDER BY id"
        )
        return ((Metadata(**json.loads(text)), first, sha256) for text, first, sha256 in rows)

    def _metadata(self, name: str) -> Metadata:
        (text,) = self._sql.execute("SELECT metadata FROM entries WHERE id = ?", (name,)).fetchone()
        return Metadata(**json.loads(text))

    def recordings(self) -> Iterator[tuple[Metadata, dict[str, Any]]]:
        """Metadata and result of each good recording, in the order of ids."""
        rows = self._sql.execute(
            "SELECT metadata, added, sha256, seconds, rate, channels, uri, member, offset, size, "
            "compression FROM results JOIN entries USING (id) ORDER BY id"
        )
        names = [column[0] for column in rows.description]
        for row in rows:
            values = dict(zip(names, row, strict=True))
            entry = Metadata(**json.loads(values.pop("metadata")))
            entry.secondary = merged(entry.secondary, json.loads(values.pop("added")), entry.label)
            yield entry, values

    def problems(self) -> Iterator[tuple[str, str | None, str, str, bool]]:
        """Id, URI, problem, detail and whether excluded, sorted by problem and id."""
        rows = self._sql.execute("SELECT * FROM problems ORDER BY problem, id, detail")
        return ((*row[:4], bool(row[4])) for row in rows)

    def table(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query over entries, results and problems: for the few lines of a page."""
        return self._sql.execute(query).fetchall()


def merged(labels: list[str], more: list[str], primary: str) -> list[str]:
    """Labels and more of them, each once, in order, without the primary one."""
    return [label for label in dict.fromkeys([*labels, *more]) if label != primary]


def _text(entry: Metadata) -> str:
    return json.dumps(asdict(entry), ensure_ascii=False)
