"""Stage ingest: find the recordings of a source, look at each, and write down what is good.

The bytes stay where they are, unless a snapshot is wanted. Recordings are read and decoded by
threads (decoding happens outside Python's lock) and settled in the order of their ids, so that
the result does not depend on timing. See `birdsong.layouts` for what a source may look like.
"""

import collections
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from birdsong import artifacts, audit, demo_data, layouts, progress, sources, storage
from birdsong.config import IngestConfig
from birdsong.errors import DataError
from birdsong.examine import Examination, examine
from birdsong.ledger import Ledger
from birdsong.snapshot import Snapshot

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
R = TypeVar("R")

NOT_BAD = frozenset({"duplicate", "clipped"})
"""Problems that do not count towards `max_bad_share`: nothing is lost or doubtful by them."""
TEXT_COLUMNS = ("scientific_name", "common_name", "author", "date", "licence")
NUMBER_COLUMNS = ("latitude", "longitude", "rating")

_BATCH = 500


def ingest(recordings_path: str, audit_path: str, config: IngestConfig) -> dict[str, float]:
    """Find the recordings of a source, read their metadata and audit them.

    Of recordings with the same bytes the first one (by id) is kept; the labels of the others are
    added to its secondary labels where they differ. Bad are recordings that are unreadable, empty
    or silent, entries without a file, files without an entry, and entries that do not parse.

    Args:
        recordings_path: Where the artifact goes: `recordings.parquet`, `problems.parquet`,
            `duplicates.parquet` (what was left out because its bytes are those of another one)
            and, with a snapshot, `snapshot/*.tar`.
        audit_path: Where the HTML page goes; it is also written when too many are bad.
        config: The source and how many bad recordings are borne.

    Returns:
        Counts of recordings, species, hours and problems, for the metrics of the run.

    Raises:
        ConfigError: The source's URI is not understood.
        DataError: There are no recordings, the table lacks a column, the zip is broken, or the
            share of bad recordings is above `config.max_bad_share`.
        StorageError: The source is absent or cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="birdsong-ingest-") as scratch:
        ledger = Ledger(Path(scratch) / "ledger.sqlite")
        try:
            layout = _gather(config, ledger)
            count = ledger.settle(layout.audio_root)
            with artifacts.create(recordings_path, "recordings", config) as folder:
                _examine_all(ledger, count, config, folder)
                summary = summarise(ledger)
                audit.write(audit_path, ledger, summary, config, layout.name)
                _refuse_bad(ledger, summary, config, audit_path)
                _write_recordings(ledger, folder.path / "recordings.parquet")
                _write_problems(ledger, folder.path / "problems.parquet")
                _write_duplicates(ledger, folder.path / "duplicates.parquet")
        finally:
            ledger.close()
    return summary


def _gather(config: IngestConfig, ledger: Ledger) -> layouts.Layout:
    """List the source's files, recognise its layout and read its table."""
    if storage.scheme_of(config.source) == "demo":
        for row in demo_data.catalogue(config.source):
            uri = row.pop("uri")
            ledger.add_file(sources.File(path=row["filename"], uri=uri, size=0))
            ledger.add_entry(layouts.entry_of(row), row["filename"])
        return layouts.Layout("demo", None, "")
    survey = layouts.Survey()
    tables: dict[str, sources.File] = {}
    for file in sources.list_files(config.source):
        survey.see(file.path)
        if file.path in survey.tables:
            tables[file.path] = file
        if layouts.is_audio(file.path) and not layouts.is_junk(file.path):
            ledger.add_file(file)
    if not survey.audio_count:
        raise DataError(
            f"{config.source} holds no recordings: no file below it ends in "
            f"{', '.join(sorted(layouts.DECODED))}. Give the folder, zip or prefix that holds the "
            "species' folders, or the BirdCLEF table and its audio folder."
        )
    headers = {}
    if config.layout != "folders":
        for path in layouts.tables_to_look_at(survey):
            with _text_of(tables[path]) as lines:
                headers[path] = layouts.header(lines, path)
    layout = layouts.find(survey, config.layout, headers)
    if layout.table is None:
        for path in ledger.paths(layout.audio_root):
            entry = layouts.of_folder(path.removeprefix(layout.audio_root))
            if entry.label:
                ledger.add_entry(entry, path)
        return layout
    with _text_of(tables[layout.table]) as lines:
        for entry in layouts.read(lines, layout):
            ledger.add_entry(entry, layout.audio_root + entry.id)
    return layout


def _text_of(file: sources.File) -> io.TextIOWrapper:
    stream: BinaryIO
    if file.fault:
        raise DataError(f"{file.path} cannot be read: {file.fault}.")
    if file.offset is None:
        stream = storage.open_for_reading(file.uri)
    else:
        stream = io.BytesIO(sources.read_file(file)[0])
    return io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")


def _examine_all(
    ledger: Ledger, count: int, config: IngestConfig, folder: artifacts.Folder
) -> None:
    remote = storage.scheme_of(config.source) in {"s3", "gs"}
    cores = len(os.sched_getaffinity(0))
    # Over the network most of the time is waiting, so more are under way than there are cores.
    workers = min(32, 8 * cores) if remote else cores
    snapshot = Snapshot(folder) if config.snapshot else None

    def look(item: tuple[str, str, sources.File]) -> tuple[str, str, sources.File, Examination]:
        return (*item, examine(item[2], keep_bytes=config.snapshot))

    results = in_order(look, ledger.to_examine(), workers)
    for name, label, file, found in progress.track(results, count, "examine", "recordings"):
        _settle_one(ledger, name, label, file, found, snapshot)
    if snapshot:
        snapshot.close()


def _settle_one(
    ledger: Ledger,
    name: str,
    label: str,
    file: sources.File,
    found: Examination,
    snapshot: Snapshot | None,
) -> None:
    if found.problem and found.problem != "clipped":
        ledger.add_problem(name, file.uri, found.problem, found.detail)
        return
    twin = ledger.first_with(found.sha256)
    if twin:
        added = ledger.merge_labels(twin[0], name)
        detail = f"the same bytes as {twin[0]}"
        if label != twin[1]:
            detail += f", which is labelled {twin[1]!r}, this one {label!r}"
        if added:
            detail += f"; {', '.join(added)} added to its secondary labels"
        ledger.add_problem(name, file.uri, "duplicate", detail)
        ledger.add_twin(name, twin[0], found.sha256)
        return
    if found.problem:
        ledger.add_problem(name, file.uri, found.problem, found.detail, excluded=False)
    place: dict[str, Any] = {
        "uri": file.uri,
        "member": file.member,
        "offset": found.offset,
        "size": file.size or found.size,
        "compression": file.compression,
    }
    if snapshot and found.data is not None:
        place |= snapshot.add(name, found.data)
    ledger.add_result(name, found, place)


def in_order(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Apply a function by threads and give the results in the order of the items.

    Only twice as many items as workers are under way, so that memory does not grow.
    """
    waiting: collections.deque[Future[R]] = collections.deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


# --- what came of it ----------------------------------------------------------------------------


def summarise(ledger: Ledger) -> dict[str, float]:
    """Counts for the metrics of the run; every one is finite."""
    (row,) = ledger.table(
        "SELECT count(*), count(DISTINCT label), coalesce(sum(seconds), 0) / 3600 "
        "FROM results JOIN entries USING (id)"
    )
    problems = dict(ledger.table("SELECT problem, count(*) FROM problems GROUP BY problem"))
    excluded = dict(
        ledger.table("SELECT problem, count(*) FROM problems WHERE excluded GROUP BY problem")
    )
    bad = sum(count for name, count in excluded.items() if name not in NOT_BAD)
    total = row[0] + sum(excluded.values())
    return {
        "recordings": float(row[0]),
        "species": float(row[1]),
        "hours": round(float(row[2]), 4),
        "excluded": float(sum(excluded.values())),
        "bad_share": bad / total if total else 0.0,
        **{name.replace(" ", "_"): float(count) for name, count in sorted(problems.items())},
    }


def _refuse_bad(
    ledger: Ledger, summary: dict[str, float], config: IngestConfig, audit_path: str
) -> None:
    reasons = ledger.table(
        "SELECT problem, count(*), min(id), detail FROM problems WHERE excluded "
        "GROUP BY problem ORDER BY count(*) DESC"
    )
    told = "; ".join(
        f"{count:,} {problem} (first: {name}: {detail})" for problem, count, name, detail in reasons
    )
    if not summary["recordings"]:
        raise DataError(
            f"none of the recordings of {config.source} can be used: {told or 'there are none'}. "
            f"The audit lists them: {audit_path}"
        )
    if summary["bad_share"] > config.max_bad_share:
        raise DataError(
            f"{100 * summary['bad_share']:.1f} % of the recordings of {config.source} are bad, "
            f"max_bad_share allows {100 * config.max_bad_share:g} %: {told}. Duplicates and "
            f"clipped ones do not count. The audit lists them: {audit_path}. Mend the source, or "
            "set max_bad_share higher if they can be done without."
        )


def _schema() -> "pa.Schema":
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        [
            pa.field("id", text, nullable=False),
            pa.field("label", text, nullable=False),
            pa.field("secondary", pa.list_(text), nullable=False),
            *(pa.field(name, text) for name in TEXT_COLUMNS),
            *(pa.field(name, pa.float64()) for name in NUMBER_COLUMNS),
            pa.field("sha256", text, nullable=False),
            pa.field("seconds", pa.float64(), nullable=False),
            pa.field("rate", pa.int32(), nullable=False),
            pa.field("channels", pa.int16(), nullable=False),
            pa.field("uri", text, nullable=False),
            pa.field("member", text),
            pa.field("offset", pa.int64()),
            pa.field("size", pa.int64(), nullable=False),
            pa.field("compression", text),
            pa.field("extra", pa.map_(text, text), nullable=False),
        ]
    )


def _write_recordings(ledger: Ledger, path: Path) -> None:
    names = {
        row[0]: row[1]
        for row in ledger.table(
            "SELECT json_extract(metadata, '$.scientific_name') AS name, min(label) FROM entries "
            "WHERE name IS NOT NULL AND fault IS NULL GROUP BY name"
        )
    }

    def rows() -> Iterator[dict[str, Any]]:
        for entry, values in ledger.recordings():
            # BirdCLEF 2020 names secondary species as "Scientific name_Common name".
            secondary = [names.get(name.partition("_")[0], name) for name in entry.secondary]
            yield values | {
                "id": entry.id,
                "label": entry.label,
                "secondary": [label for label in dict.fromkeys(secondary) if label != entry.label],
                **{name: getattr(entry, name) for name in (*TEXT_COLUMNS, *NUMBER_COLUMNS)},
                "extra": list(entry.extra.items()),
            }

    _write_parquet(rows(), _schema(), path)


def _write_problems(ledger: Ledger, path: Path) -> None:
    import pyarrow as pa

    text = pa.string()
    names = ("id", "uri", "problem", "detail", "excluded")
    schema = pa.schema([*(pa.field(name, text) for name in names[:4]), ("excluded", pa.bool_())])
    rows = (dict(zip(names, row, strict=True)) for row in ledger.problems())
    _write_parquet(rows, schema, path)


def _write_duplicates(ledger: Ledger, path: Path) -> None:
    import pyarrow as pa

    text = pa.string()
    schema = pa.schema(
        [
            *(
                pa.field(name, text, nullable=False)
                for name in ("id", "copy_of", "sha256", "label")
            ),
            pa.field("extra", pa.map_(text, text), nullable=False),
        ]
    )
    rows = (
        {
            "id": entry.id,
            "copy_of": first,
            "sha256": sha256,
            "label": entry.label,
            "extra": list(entry.extra.items()),
        }
        for entry, first, sha256 in ledger.twins()
    )
    _write_parquet(rows, schema, path)


def _write_parquet(rows: Iterator[dict[str, Any]], schema: "pa.Schema", path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == _BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                batch.clear()
        writer.write_table(pa.Table.from_pylist(batch, schema=schema))
