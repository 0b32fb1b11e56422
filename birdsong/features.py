"""Decode recordings once, to the waveforms that training and serving share."""

import contextlib
import functools
import hashlib
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsong import artifacts, audio, data_effects, progress, shards, workers
from birdsong.config import FeatureConfig
from birdsong.errors import BirdsongError, DataError

if TYPE_CHECKING:
    import pandas as pd

    from birdsong import sources

SPOOL_BYTES = 64 << 20
"""A recording with more samples than this goes through a file, so that memory stays flat."""

SECONDS_PER_WORKER = 1_500
"""A worker is started for each so many seconds of audio: it takes about as long to start as it
then takes to decode them."""


class FeatureSet:
    """The windows of one features artifact.

    Args:
        path: Artifact of featurize.

    Attributes:
        path: The artifact.
        config: The settings that made it.
        classes: code, scientific_name and common_name of each species in the order of scores.

    Raises:
        DataError: The artifact is not complete, or not of this kind.
    """

    def __init__(self, path: str | Path) -> None:
        spec = artifacts.read_spec(path, "features")
        self.path = Path(path)
        self.config = FeatureConfig(**spec.settings)
        self.classes: list[dict[str, str]] = artifacts.read_json(self.path / "classes.json")
        self._reader = shards.ShardReader(path, self.config)

    @cached_property
    def index(self) -> "pd.DataFrame":
        """One row per window: id, sha256, window, label, secondary, part, group, rating,
        start_seconds, samples, shard, offset, size."""
        import pandas as pd

        return pd.read_parquet(self.path / "index.parquet")

    @cached_property
    def _places(self) -> list[tuple[str, int, int]]:
        columns = (self.index[name].tolist() for name in ("shard", "offset", "size"))
        return list(zip(*columns, strict=True))

    @property
    def training(self) -> dict[str, dict[str, float | None]]:
        """What the train part holds of each species: recordings, minutes, groups, mean rating."""
        found: dict[str, dict[str, float | None]] = artifacts.read_json(self.path / "training.json")
        return found

    @property
    def codes(self) -> list[str]:
        """eBird codes of the species in the order of scores."""
        return [species["code"] for species in self.classes]

    def __len__(self) -> int:
        return len(self.index)

    def waveform(self, row: int) -> np.ndarray:
        """Samples of one window, int16 at `config.sample_rate`, shape (samples,), read only.

        Args:
            row: Position in `index`.
        """
        return self._reader.read(*self._places[row])

    def select(self, part: str) -> list[int]:
        """Positions in `index` of the windows of one part, as `train`."""
        return [row for row, other in enumerate(self.index["part"]) if other == part]


def featurize(
    recordings_path: str | Path,
    splits_path: str | Path,
    development_path: str | Path,
    calibration_path: str | Path,
    test_path: str | Path,
    preview_path: str | Path,
    config: FeatureConfig,
    worker_count: int | None = None,
) -> dict[str, float]:
    """Decode all recordings and write three features artifacts and a page to look at.

    The output is the same, byte for byte, for any number of workers. A recording that cannot be
    decoded, is silent or has other bytes than ingest saw is left out and listed with its reason
    in `quarantine.parquet` of its artifact. Audio without birds stands among the development
    windows as the part `no_call`, without a label.

    Args:
        recordings_path: Artifact of ingest.
        splits_path: Artifact of split, made from these recordings.
        development_path: Where windows of train and validation go.
        calibration_path: Where windows of calibration go.
        test_path: Where windows of test go.
        preview_path: Where the page goes.
        config: Sample rate, seconds, encoding, how many bad recordings are borne, and where audio
            without birds is.
        worker_count: Processes; by default one for each core, fewer where there is little to do.

    Returns:
        Windows and hours of each part, megabytes, and quarantined recordings.

    Raises:
        DataError: The splits are of other recordings, there is no audio where audio without birds
            should be, or more than `config.max_bad_share` of the recordings were quarantined; says
            how many for which reason.
        BirdsongError: A worker process died.
    """
    tasks = [_Task(row) for row in _read_rows(recordings_path, splits_path)]
    seconds = sum(min(task.row["seconds"], config.seconds) for task in tasks)
    no_calls = _no_calls(config.no_call_source)
    seconds += len(no_calls) * config.seconds
    tasks += no_calls
    rows = [task.row for task in tasks]
    classes = artifacts.read_json(Path(splits_path) / "classes.json")
    most_bad = config.max_bad_share * len(rows)
    worthwhile = 1 + int(seconds // SECONDS_PER_WORKER)
    worker_count = worker_count or min(workers.count_cores(), worthwhile)
    inputs = {"recordings": recordings_path, "splits": splits_path}
    places = {"development": development_path, "calibration": calibration_path, "test": test_path}
    Path(development_path).parent.mkdir(parents=True, exist_ok=True)

    with contextlib.ExitStack() as stack:
        spool = stack.enter_context(
            tempfile.TemporaryDirectory(
                prefix=".featurize.", suffix=".writing", dir=Path(development_path).parent
            )
        )
        writers = {}
        for name, place in places.items():
            folder = stack.enter_context(artifacts.create(place, "features", config, inputs))
            writers[name] = shards.ShardWriter(folder, config)
            stack.callback(writers[name].close)
        decode = functools.partial(
            decode_recording, artifact=Path(recordings_path), spool=Path(spool), config=config
        )
        decoded = workers.in_order(decode, tasks, worker_count, describe=_name)
        reasons: Counter[str] = Counter()
        # Closed here, so that the workers end before an error goes on.
        with contextlib.closing(decoded):
            for row, result in zip(
                rows, progress.track(decoded, len(rows), "decode", "recordings"), strict=True
            ):
                writer = writers["development" if row["part"] in _DEVELOPMENT else row["part"]]
                if result.reason:
                    writer.quarantine.append({"id": row["id"], "reason": result.reason})
                    reasons[result.reason.partition(":")[0]] += 1
                    if reasons.total() > most_bad:
                        raise DataError(_too_many(reasons, len(rows), row["id"], result, config))
                else:
                    columns = {name: row[name] for name in _COLUMNS} | {"sha256": result.sha256}
                    writer.add(columns, result.windows, result.data)
        training = data_effects.count_training(
            writers["development"].index, [one["code"] for one in classes], config.sample_rate
        )
        for writer in writers.values():
            writer.finish(classes, training)

    from birdsong import preview

    details = {row["id"]: row for row in rows}
    preview.write_page(preview_path, FeatureSet(development_path), details)
    return _summarise(writers, config)


_DEVELOPMENT = ("train", "validation", "no_call")
_COLUMNS = ("id", "sha256", "label", "secondary", "part", "group", "rating")


@dataclass(frozen=True)
class _Task:
    """A row of the recordings; of audio without birds, which ingest has not seen, its file too."""

    row: Mapping[str, Any]
    file: "sources.File | None" = None


@dataclass(frozen=True)
class _Decoded:
    """Windows (start in seconds, samples, bytes) and their bytes, or why there are none."""

    windows: list[tuple[float, int, int]]
    data: bytes | Path = b""
    sha256: str = ""
    reason: str = ""


def decode_recording(task: _Task, artifact: Path, spool: Path, config: FeatureConfig) -> _Decoded:
    """Read, check and decode one recording; what is wrong with it is returned, not raised."""
    from birdsong import sources, storage

    found: list[tuple[float, int, int]] = []
    blocks: list[bytes] = []
    held = 0
    spooled = spool / hashlib.sha256(task.row["id"].encode()).hexdigest()
    try:
        if task.file:
            data, _ = sources.read_file(task.file)
        else:
            data = storage.read_recording(task.row, artifact)
        sha256 = hashlib.sha256(data).hexdigest()
        if not task.file and sha256 != task.row["sha256"]:
            return _Decoded([], reason="changed since ingest: its bytes have another SHA-256")
        for window in audio.windows(data, config):
            block = shards.encode(window.samples, config)
            found.append((window.start_seconds, len(window.samples), len(block)))
            blocks.append(block)
            held += len(block)
            if held > SPOOL_BYTES:
                _spill(spooled, blocks)
                held = 0
    except BirdsongError as error:
        spooled.unlink(missing_ok=True)
        text = str(error)
        return _Decoded([], reason=text if isinstance(error, DataError) else f"unread: {text}")
    if not found:
        return _Decoded([], reason="silent: nothing but digital silence")
    if spooled.exists():
        _spill(spooled, blocks)
        return _Decoded(found, spooled, sha256)
    return _Decoded(found, b"".join(blocks), sha256)


def _spill(path: Path, blocks: list[bytes]) -> None:
    with path.open("ab") as file:
        file.writelines(blocks)
    blocks.clear()


def _name(task: _Task) -> str:
    return str(task.row["id"])


def _no_calls(source: str) -> list[_Task]:
    """The audio files of a place without birds, by name."""
    if not source:
        return []
    from birdsong import layouts, sources

    files = [file for file in sources.list_files(source) if layouts.is_audio(file.path)]
    usable = [file for file in files if not file.fault and not layouts.is_junk(file.path)]
    if not usable:
        raise DataError(
            f"featurize: no_call_source {source} holds no audio. Give a folder, a zip, "
            "s3://bucket/prefix or gs://bucket/prefix of recordings without birds, or none."
        )
    unlabelled: dict[str, Any] = {
        "sha256": "",
        "label": "",
        "secondary": [],
        "group": "",
        "rating": None,
    }
    return [
        _Task({"id": f"no_call/{file.path}", "part": "no_call", **unlabelled}, file)
        for file in sorted(usable, key=lambda file: file.path)
    ]


def _read_rows(recordings_path: str | Path, splits_path: str | Path) -> list[dict[str, Any]]:
    """The recordings with their part and group, by id."""
    import pyarrow.parquet as pq

    recordings = artifacts.read_spec(recordings_path, "recordings")
    splits = artifacts.read_spec(splits_path, "splits")
    table = pq.read_table(Path(recordings_path) / "recordings.parquet")
    columns = [name for name in table.column_names if name != "extra"]
    parts = pq.read_table(Path(splits_path) / "splits.parquet").to_pylist()
    part_of = {row["id"]: row for row in parts}
    rows = sorted(table.select(columns).to_pylist(), key=lambda row: str(row["id"]))
    if splits.inputs.get("recordings") != recordings.sha256 or part_of.keys() != {
        row["id"] for row in rows
    }:
        raise DataError(
            f"featurize: {splits_path} was made from other recordings than {recordings_path}. "
            "Run split again on these recordings."
        )
    for row in rows:
        row["part"] = part_of[row["id"]]["part"]
        row["group"] = part_of[row["id"]]["group"]
        row["secondary"] = list(row["secondary"] or [])
    return rows


def _too_many(
    reasons: Counter[str], total: int, last: str, result: _Decoded, config: FeatureConfig
) -> str:
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return (
        f"featurize: {reasons.total()} of {total} recordings cannot be used ({counted}), more "
        f"than max_bad_share = {config.max_bad_share:g} allows; the rest was not tried. The last "
        f"was {last}: {result.reason} Look at the recordings, or raise max_bad_share."
    )


def _summarise(
    writers: Mapping[str, shards.ShardWriter], config: FeatureConfig
) -> dict[str, float]:
    windows: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    for writer in writers.values():
        for row in writer.index:
            windows[row["part"]] += 1
            samples[row["part"]] += row["samples"]
    parts = ["train", "validation", "calibration", "test"]
    parts += ["no_call"] if windows["no_call"] else []
    return {
        **{f"windows_{part}": float(windows[part]) for part in parts},
        **{f"hours_{part}": samples[part] / config.sample_rate / 3600 for part in parts},
        "megabytes": sum(writer.written_bytes for writer in writers.values()) / 1e6,
        "quarantined": float(sum(len(writer.quarantine) for writer in writers.values())),
    }
