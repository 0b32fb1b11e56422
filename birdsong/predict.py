"""Batch prediction: which birds are heard in many recordings of any length.

What is done is kept in a journal beside the output, a line for each recording, so that a killed
prediction goes on where it was. The output itself is written once, at the end.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from birdsong import audio, batch_reading, detections, layouts, sources, storage
from birdsong.bundle import Bundle
from birdsong.errors import ConfigError, DataError
from birdsong.journal import Journal
from birdsong.scoring import BATCH_FRAMES
from birdsong.serving.answers import ranked

Floats = npt.NDArray[np.float32]


class FrameScorer(Protocol):
    """What `birdsong.scoring.Scorer` gives."""

    def frames(self, frames: Floats) -> Floats:
        """Scores of frames, shape (frames, species), in [0, 1]."""


@dataclass(frozen=True)
class Rule:
    """What counts as heard.

    Attributes:
        least_probability: Calibrated probability from which a species counts, in [0, 1]; None for
            the thresholds of the bundle.
        codes: Species to look for; none for all.
        overlap_seconds: By which consecutive windows overlap.
    """

    least_probability: float | None = None
    codes: frozenset[str] = frozenset()
    overlap_seconds: float = 0.0


@dataclass
class Outcome:
    """What a prediction did.

    Attributes:
        recordings: Recordings that were listened to, in this and in earlier tries.
        resumed: Of these, how many an earlier try had done.
        problems: Recordings that could not be used, with the reason.
        audio_seconds: Seconds of audio that were listened to in this try.
        detections: How many there are of each species.
    """

    recordings: int = 0
    resumed: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    audio_seconds: float = 0.0
    detections: dict[str, int] = field(default_factory=dict)


class Listener(Protocol):
    """Hears how far a prediction is."""

    def __call__(self, done: int, total: int, audio_seconds: float) -> None:
        """Recordings done, of how many, and seconds of audio heard."""


def find(places: Sequence[str]) -> list[tuple[str, sources.File]]:
    """The recordings in files, folders and zips, here or in buckets.

    Returns:
        Each one's name, the place as given and the path within it, and its file; by name.

    Raises:
        ConfigError: Nothing was found, or two have the same name.
        StorageError: A place is absent or cannot be read.
    """
    found: dict[str, sources.File] = {}
    for place in places:
        before = len(found)
        for name, file in _in_place(place):
            if name in found:
                raise ConfigError(f"{name} was given twice.")
            found[name] = file
        if len(found) == before:
            raise ConfigError(
                f"{place} holds no recordings ({', '.join(sorted(layouts.DECODED))}). Give files, "
                "folders, zips, s3://bucket/prefix or gs://bucket/prefix."
            )
    return sorted(found.items())


def _in_place(place: str) -> Iterator[tuple[str, sources.File]]:
    scheme = storage.scheme_of(place)
    if layouts.is_audio(place) and not (scheme == "file" and storage.local_path(place).is_dir()):
        uri = str(storage.local_path(place)) if scheme == "file" else place
        yield place, sources.File(PurePosixPath(place).name, uri, storage.size_of(place))
        return
    for file in sources.list_files(place):
        if layouts.is_audio(file.path) and not layouts.is_junk(file.path):
            yield f"{place.rstrip('/')}/{file.path}", file


def predict(
    places: Sequence[str],
    out: Path,
    bundle: Bundle,
    scorer: Callable[[], FrameScorer],
    rule: Rule,
    wanted: str = "",
    tell: Listener = lambda done, total, audio_seconds: None,
) -> Outcome:
    """Listen to recordings and write what is heard in them.

    Args:
        places: Files, folders and zips, here or in buckets.
        out: File to write; for Audacity's labels a folder. Must not exist.
        bundle: Species, thresholds and calibration.
        scorer: Loads the network, once it is known that there is work for it.
        rule: What counts as heard.
        wanted: Format; empty for that of the ending of `out`.
        tell: Hears after each recording.

    Returns:
        What was done. Recordings that cannot be used are listed and stop nothing.

    Raises:
        ConfigError: Something asked for is not possible; nothing was started.
        BirdsongError: A place cannot be read, or all recordings are unusable.
    """
    kind = detections.format_of(out, wanted)
    _check(out, bundle, rule)
    files = find(places)
    if kind == detections.Format.AUDACITY:
        _refuse_same_labels(files)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with Journal(_journal_of(out, bundle.sha256, bundle.runtime, rule)) as journal:
        outcome = Outcome(resumed=sum(journal.holds(name, file) for name, file in files))
        todo = [(name, file) for name, file in files if not journal.holds(name, file)]
        done = outcome.resumed
        tell(done, len(files), 0.0)
        if todo:
            near = out.absolute().parent
            for name, file, entry in _listen(todo, near, scorer(), bundle, rule):
                journal.add(name, file, entry)
                done += 1
                outcome.audio_seconds += entry.get("seconds", 0.0)
                tell(done, len(files), outcome.audio_seconds)

        def recordings() -> Iterator[detections.Recording]:
            for name, file in files:
                entry = journal.read(name)
                if "error" in entry:
                    outcome.problems.append((name, entry["error"]))
                    continue
                outcome.recordings += 1
                for row in entry["rows"]:
                    code = row["code"]
                    outcome.detections[code] = outcome.detections.get(code, 0) + 1
                yield file.path, [{"file": name, **row} for row in entry["rows"]]

        if all("error" in journal.read(name) for name, _ in files):
            name = files[0][0]
            reason = journal.read(name)["error"]
            journal.remove()
            raise DataError(
                f"None of {len(files)} recordings can be used; the first is {name}: {reason}"
            )
        detections.write(out, kind, recordings(), bundle.features.sample_rate / 2)
        if outcome.problems:
            detections.write_problems(problems_of(out), outcome.problems)
        journal.remove()
    return outcome


def problems_of(out: Path) -> Path:
    """Where the recordings that could not be used are listed."""
    return out.with_name(f"{out.name}.problems.csv")


def _check(out: Path, bundle: Bundle, rule: Rule) -> None:
    if out.exists():
        raise ConfigError(f"{out} is there already. Give another --out, or move it away.")
    if rule.least_probability is not None and not 0 <= rule.least_probability <= 1:
        raise ConfigError(f"The least probability is {rule.least_probability:g}, not 0 to 1.")
    longest = bundle.features.window_seconds
    if not 0 <= rule.overlap_seconds < longest:
        raise ConfigError(
            f"The overlap is {rule.overlap_seconds:g} s; windows have {longest:g} s, so give 0 or "
            "more and less than that."
        )
    unknown = sorted(rule.codes - set(bundle.codes))
    if unknown:
        raise ConfigError(
            f"The model does not know {', '.join(unknown[:5])}; it knows {len(bundle.codes)} "
            f"species, such as {', '.join(bundle.codes[:5])}."
        )
    heard = [
        species
        for species in bundle.species
        if species.threshold is not None and (not rule.codes or species.code in rule.codes)
    ]
    if rule.least_probability is None and not heard:
        raise ConfigError(
            "None of the species asked for has a threshold in this model, so nothing could be "
            "heard. Ask for a probability instead: --min-probability 0.5"
        )


def _refuse_same_labels(files: Sequence[tuple[str, sources.File]]) -> None:
    seen: dict[PurePosixPath, str] = {}
    for name, file in files:
        label = PurePosixPath(file.path).with_suffix(".txt")
        if label in seen:
            raise ConfigError(
                f"{seen[label]} and {name} would both be labelled in {label}. Predict them one "
                "after another, or in another format."
            )
        seen[label] = name


def _listen(
    files: Sequence[tuple[str, sources.File]],
    near: Path,
    scorer: FrameScorer,
    bundle: Bundle,
    rule: Rule,
) -> Iterator[tuple[str, sources.File, dict[str, Any]]]:
    """What is heard in each recording, in order: its rows and seconds, or its error."""
    rows: list[dict[str, Any]] = []
    seconds = 0.0
    each = [file for _, file in files]
    decoded = batch_reading.windows(each, bundle.features, rule.overlap_seconds, near)
    with contextlib.closing(decoded):
        for number, window, scores, error in _score(scorer, decoded, bundle):
            if window is not None and scores is not None:
                length = len(window.samples) / bundle.features.sample_rate
                seconds += length
                rows += _rows(window, length, scores, bundle, rule)
                continue
            entry: dict[str, Any] = {"error": error} if error else {"rows": rows}
            yield *files[number], entry | {"seconds": round(seconds, 3)}
            rows, seconds = [], 0.0


def _score(
    scorer: FrameScorer, decoded: Iterable[batch_reading.Decoded], bundle: Bundle
) -> Iterator[tuple[int, audio.Window | None, Floats | None, str]]:
    """Windows with the scores of their frames; those of several recordings in one pass."""
    held: list[tuple[int, audio.Window | None, Floats | None, str]] = []
    count = 0
    for number, window, error in decoded:
        frames = None if window is None else audio.frames(window.samples, bundle.features)
        held.append((number, window, frames, error))
        count += 0 if frames is None else len(frames)
        if count >= BATCH_FRAMES:
            yield from _scored(scorer, held)
            held, count = [], 0
    yield from _scored(scorer, held)


def _scored(
    scorer: FrameScorer, held: Sequence[tuple[int, audio.Window | None, Floats | None, str]]
) -> Iterator[tuple[int, audio.Window | None, Floats | None, str]]:
    parts = [frames for _, _, frames, _ in held if frames is not None]
    scores = scorer.frames(np.concatenate(parts)) if parts else np.empty((0, 0), np.float32)
    start = 0
    for number, window, frames, error in held:
        if frames is None:
            yield number, None, None, error
        else:
            yield number, window, scores[start : start + len(frames)], ""
            start += len(frames)


def _rows(
    window: audio.Window, length: float, scores: Floats, bundle: Bundle, rule: Rule
) -> Iterator[dict[str, Any]]:
    end = window.start_seconds + length
    for species, score, frame in ranked(scores, bundle):
        if rule.codes and species.code not in rule.codes:
            continue
        threshold = species.threshold if rule.least_probability is None else None
        if rule.least_probability is None and (threshold is None or score <= threshold):
            continue
        probability = bundle.calibration.probability(score)
        if rule.least_probability is not None and probability < rule.least_probability:
            continue
        start = window.start_seconds + frame * audio.FRAME_SECONDS
        yield {
            "start_seconds": round(start, 3),
            "end_seconds": round(min(start + audio.FRAME_SECONDS, end), 3),
            "code": species.code,
            "common_name": species.common_name,
            "scientific_name": species.scientific_name,
            "score": round(score, 6),
            "probability": round(probability, 6),
            "threshold": threshold,
            "window_start_seconds": round(window.start_seconds, 3),
            "window_end_seconds": round(end, 3),
        }


def begun_with(out: Path, sha256: str, names: Iterable[str], rule: Rule) -> str:
    """The runtime of a prediction that was begun and not finished; empty where none was.

    Args:
        out: The output.
        sha256: Hash of the bundle.
        names: Runtimes that it may have been.
        rule: What counts as heard.
    """
    journals = {name: _journal_of(out, sha256, name, rule) for name in names}
    held = {name: place.stat() for name, place in journals.items() if place.is_file()}
    begun = {name: one.st_mtime_ns for name, one in held.items() if one.st_size}
    return max(begun, key=lambda name: begun[name], default="")


def _journal_of(out: Path, sha256: str, runtime: str, rule: Rule) -> Path:
    """Another model or rule has another journal; another format of the output has the same."""
    told = [
        sha256,
        runtime,
        rule.least_probability,
        sorted(rule.codes),
        rule.overlap_seconds,
    ]
    identity = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]
    return out.with_name(f".{out.name}.{identity}.journal")
