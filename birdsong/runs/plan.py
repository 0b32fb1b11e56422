"""What a run would do: steps, bytes, seconds and free disk, before it starts.

Bytes of features follow from the audio's duration; durations are read from a sample of the files.
Seconds are estimates from rates that were measured on one machine, and say so.
"""

import io
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from birdsong.config import SAMPLE_RATE
from birdsong.errors import ConfigError
from birdsong.layouts import AUDIO, DECODED, is_junk
from birdsong.sources import list_files

BYTES_PER_SECOND = 2 * SAMPLE_RATE
"""Of stored features in PCM, 44,100."""

_SAMPLE = 40
_LARGEST_MEMBER = 32_000_000
"""Bytes of a zip's member that is read into memory for its duration."""
_FLAC_SHARE = 0.6
_MARGIN = 500_000_000
"""Bytes for models, reports, the registry and a little air."""

DECODE_SECONDS = 0.002
"""One core, for a second of audio: read, hash, decode and resample."""
TRAIN_SECONDS = {
    ("tiny", "small"): 0.04,
    ("tiny", "full"): 0.5,
    ("mobilenet_v3_small", "small"): 0.04,
    ("mobilenet_v3_small", "full"): 0.18,
    ("inception_v3", "full"): 1.1,
}
"""Two cores, for one minute of audio in one epoch, by backbone and front end; others unknown."""
START_SECONDS = 12
"""Of a step that imports TensorFlow."""
TRAIN_EXTRA_SECONDS = 30
"""Of train beside its epochs: graphs, the baseline, exporting."""


@dataclass
class Plan:
    """What is known before a run.

    Attributes:
        recordings: Number of recordings; None where only the source knows.
        source_bytes: Their size.
        audio_seconds: Their duration, estimated.
        features_bytes: What featurize will write, estimated.
        needed_bytes: What the run will write altogether, estimated.
        free_bytes: Free space where the runs folder is.
        step_seconds: Step to estimated seconds; None where unknown.
        basis: Where the estimates come from, one sentence each.
    """

    source: str
    runs: Path
    free_bytes: int
    recordings: int | None = None
    source_bytes: int | None = None
    audio_seconds: float | None = None
    features_bytes: int | None = None
    needed_bytes: int | None = None
    step_seconds: dict[str, float | None] = field(default_factory=dict)
    basis: list[str] = field(default_factory=list)


def make(values: Mapping[str, Any], runs: str | Path, steps: Iterable[str]) -> Plan:
    """Look at the source and estimate what a run would take.

    Args:
        values: Value of each parameter, as `arguments.resolve` gives them.
        runs: Folder of all runs.
        steps: Names of the steps in order.
    """
    source = str(values["source"])
    plan = Plan(source, Path(runs).absolute(), _free(Path(runs).absolute()))
    kept: float | None = None
    if source.startswith("demo:"):
        from birdsong import demo_data

        demo = demo_data.parse(source)
        plan.recordings = demo.species * demo.recordings
        plan.source_bytes = 0
        plan.audio_seconds = plan.recordings * 12.5
        kept = plan.audio_seconds
        plan.basis.append("Generated songs last 5 to 20 s; nothing is stored of them.")
    elif "://" not in source:
        kept = _look(plan, Path(source), float(values["seconds"]))
    else:
        plan.basis.append("A bucket is listed by ingest; its size is not known before.")
    if kept is not None:
        share = _FLAC_SHARE if values["encoding"] == "flac" else 1.0
        plan.features_bytes = round(kept * BYTES_PER_SECOND * share)
        snapshot = (plan.source_bytes or 0) if values["snapshot"] else 0
        plan.needed_bytes = plan.features_bytes + snapshot + _MARGIN
        plan.basis.append(
            f"Features take {BYTES_PER_SECOND:,} bytes for a second of audio"
            + (f", times {_FLAC_SHARE} as FLAC." if share < 1 else ".")
        )
    plan.step_seconds = dict.fromkeys(steps)
    if kept is not None and plan.recordings is not None:
        _estimate_seconds(plan, values, kept)
    return plan


def _free(place: Path) -> int:
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _look(plan: Plan, source: Path, most_seconds: float) -> float:
    """Count a local source and read durations of a sample; returns the seconds that are kept."""
    sizes: list[int] = []
    sampled: list[tuple[int, float]] = []  # bytes and seconds
    if source.is_file():
        sizes, sampled = _look_into_zip(source)
    else:
        files = sorted(_audio_files(source))
        sizes = [size for _, size in files]
        for path, size in files[:: max(len(files) // _SAMPLE, 1)]:
            seconds = _duration(path)
            if seconds is not None and size:
                sampled.append((size, seconds))
    plan.recordings, plan.source_bytes = len(sizes), sum(sizes)
    if not sampled:
        plan.audio_seconds = 0.0
        return 0.0
    rate = sum(seconds for _, seconds in sampled) / sum(size for size, _ in sampled)
    plan.audio_seconds = rate * plan.source_bytes
    kept_share = sum(min(seconds, most_seconds) for _, seconds in sampled) / sum(
        seconds for _, seconds in sampled
    )
    plan.basis.append(f"Durations are read from {len(sampled)} of {len(sizes):,} recordings.")
    return plan.audio_seconds * kept_share


def _audio_files(folder: Path) -> Iterator[tuple[str, int]]:
    """Place and bytes of each recording, as ingest finds them."""
    for file in list_files(str(folder)):
        if _is_audio(file.path) and (file.size or not file.fault):
            yield file.uri, file.size


def _is_audio(name: str) -> bool:
    return Path(name).suffix.lower() in AUDIO and not is_junk(name)


def _look_into_zip(path: Path) -> tuple[list[int], list[tuple[int, float]]]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, EOFError, struct.error, ValueError) as error:
        raise ConfigError(
            f"source {path}: the zip cannot be read ({error}). Download or pack it again."
        ) from error
    with archive:
        entries = [entry for entry in archive.infolist() if _is_audio(entry.filename)]
        sampled = []
        for entry in entries[:: max(len(entries) // (_SAMPLE // 2), 1)]:
            seconds = _duration_in_zip(archive, entry)
            if seconds is not None and entry.file_size:
                sampled.append((entry.file_size, seconds))
        return [entry.file_size for entry in entries], sampled


def _duration_in_zip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> float | None:
    if entry.file_size > _LARGEST_MEMBER:
        return None
    try:
        return _duration(io.BytesIO(archive.read(entry)))
    except (
        OSError,
        ValueError,
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        struct.error,
        zlib.error,
    ):
        return None  # as a file that is unreadable


def _duration(file: str | io.BytesIO) -> float | None:
    import soundfile

    try:
        return float(soundfile.info(file).duration)
    except (OSError, RuntimeError, ValueError):  # the last one of a name that is not UTF-8
        return None  # ingest will say which ones are unreadable


def _estimate_seconds(plan: Plan, values: Mapping[str, Any], kept: float) -> None:
    cores = os.cpu_count() or 1
    recordings = plan.recordings or 0
    held_out = values["calibration_fraction"] + values["test_fraction"]
    rate = TRAIN_SECONDS.get((values["backbone"], values["front_end"]))
    known = {
        "ingest": 2 + (plan.audio_seconds or 0) * DECODE_SECONDS / cores,
        "split": 2 + recordings * 0.0005,
        "featurize": 5 + kept * DECODE_SECONDS / cores,
        "register": 10.0,
        "deploy": START_SECONDS * 2 if values["target"] == "local" else 1.0,
    }
    if values["trials"] == 0:
        known["tune"] = 2.0
    if rate is not None:
        # A short recording costs about as much as a quarter of a minute.
        minutes = max(kept / 60, recordings / 4)
        epoch = minutes * (1 - held_out) * rate * 2 / cores
        known["train"] = START_SECONDS + TRAIN_EXTRA_SECONDS + values["epochs"] * epoch
        known["evaluate-threshold"] = START_SECONDS + minutes * held_out * rate * 2 / cores
        if values["trials"] > 0:
            trial = values["trial_epochs"] * epoch
            known["tune"] = START_SECONDS + values["trials"] * trial
    for name in plan.step_seconds:
        plan.step_seconds[name] = known.get(name)
    plan.basis.append(
        f"Seconds are estimates from rates measured on 2 CPU cores, scaled to {cores}; training "
        "counts all epochs."
    )


def refuse_if_it_does_not_fit(plan: Plan) -> None:
    """Refuse a run that clearly has no room.

    Raises:
        ConfigError: It needs more than is free.
    """
    if plan.needed_bytes is not None and plan.needed_bytes > plan.free_bytes:
        raise ConfigError(
            f"The run needs about {size(plan.needed_bytes)}, {plan.runs} has "
            f"{size(plan.free_bytes)} free. Make room, choose another folder with --runs, or "
            "lower --set seconds=."
        )
    if plan.recordings == 0:
        raise ConfigError(
            f"source {plan.source}: no recordings found ({', '.join(sorted(DECODED))}). "
            "Give the folder that holds them, or one above it."
        )


def as_text(plan: Plan) -> str:
    """The plan for people."""

    def known(value: str | None) -> str:
        return value if value is not None else "unknown"

    lines = [
        f"source      {plan.source}",
        f"recordings  {known(f'{plan.recordings:,}' if plan.recordings is not None else None)}"
        + (f", {size(plan.source_bytes)}" if plan.source_bytes else "")
        + (f", about {duration(plan.audio_seconds)}" if plan.audio_seconds is not None else ""),
        "features    "
        + known(f"about {size(plan.features_bytes)}" if plan.features_bytes is not None else None),
        "needed      "
        + known(f"about {size(plan.needed_bytes)}" if plan.needed_bytes is not None else None)
        + f", free in {plan.runs}: {size(plan.free_bytes)}",
        "steps",
    ]
    for name, seconds in plan.step_seconds.items():
        lines.append(
            f"  {name:<20} {'unknown' if seconds is None else 'about ' + duration(seconds)}"
        )
    total = [seconds for seconds in plan.step_seconds.values() if seconds is not None]
    if total:
        at_least = "at least" if None in plan.step_seconds.values() else "about"
        lines.append(f"  {'together':<20} {at_least} {duration(sum(total))}")
    return "\n".join([*lines, *plan.basis])


def size(count: float) -> str:
    """Bytes for people, in decimal units."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
