"""Batch prediction: formats, rules, bad files, and going on after a kill at any moment."""

import csv
import io
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_bundles
import numpy as np
import pandas as pd
import pytest
import soundfile
from made_bundles import CODES, RATE, TONES_HZ, BandScorer, band_scores, tone
from made_servers import at_once

from birdsong import audio, batch_reading, bundle, detections, predict, sources
from birdsong.decoding import Decoder
from birdsong.errors import ConfigError, DataError, StorageError, UnreachableError
from birdsong.journal import Journal
from birdsong.predict import Rule
from birdsong.serving.answers import heard

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    root = tmp_path_factory.mktemp("bundle")
    stages = made_bundles.write_stages(root, thresholds=[0.5, 0.5, None])
    bundle.write_bundle(root / "bundle", stages.model, stages.thresholds, stages.evaluation)
    return bundle.read_bundle(root / "bundle")


def sound(*parts: np.ndarray, form: str = "FLAC", rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.concatenate(parts), rate, format=form)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tones of three species, a long one, silence, and files that cannot be used."""
    place = tmp_path / "songs"
    (place / "deep").mkdir(parents=True)
    (place / "low.flac").write_bytes(sound(tone(TONES_HZ[0])))
    (place / "deep/middle.ogg").write_bytes(sound(tone(TONES_HZ[1], 12), form="OGG"))
    (place / "deep/high.wav").write_bytes(sound(tone(TONES_HZ[2]), form="WAV"))
    long = [tone(TONES_HZ[1], 63), tone(TONES_HZ[0], 30)]
    (place / "long.flac").write_bytes(sound(*long))
    (place / "silent.wav").write_bytes(sound(np.zeros(RATE), form="WAV"))
    (place / "broken.mp3").write_bytes(b"no music")
    (place / "empty.wav").write_bytes(b"")
    (place / "notes.txt").write_text("not audio")
    (place / "._low.flac").write_bytes(b"of a Mac")
    return place


def run(
    places: list[str], out: Path, made: bundle.Bundle, rule: Rule | None = None, wanted: str = ""
) -> predict.Outcome:
    return predict.predict(places, out, made, BandScorer, rule or Rule(), wanted)


def test_each_window_says_what_the_server_says_of_it(
    folder: Path, made: bundle.Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "found.csv"
    outcome = run([str(folder)], out, made)
    table = pd.read_csv(out)
    assert list(table.columns) == list(detections.COLUMNS)
    whole = made.features.model_copy(update={"seconds": 3600.0})
    assert outcome.recordings == 5
    assert outcome.detections == table["code"].value_counts().to_dict()
    for name in ("low.flac", "deep/middle.ogg", "deep/high.wav", "long.flac", "silent.wav"):
        rows = table[table["file"] == f"{folder}/{name}"]
        expected = [
            (window.start_seconds, one.code, one.score, one.probability, one.frame_start_seconds)
            for window in heard(audio.windows(folder / name, whole), made, at_once(band_scores))
            for one in window.detections
        ]
        columns = ["window_start_seconds", "code", "score", "probability", "start_seconds"]
        said = sorted(rows[columns].itertuples(index=False, name=None))
        assert len(said) == len(expected)
        for ours, theirs in zip(said, sorted(expected), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)
    # The species without a threshold is never reported.
    assert set(table["code"]) == set(CODES[:2])
    long = table[table["file"] == f"{folder}/long.flac"]
    assert long["window_start_seconds"].tolist() == [0, 60, 60]
    assert (long["end_seconds"] <= 93.001).all()


def test_a_bad_file_is_listed_and_stops_nothing(
    folder: Path, made: bundle.Bundle, tmp_path: Path
) -> None:
    outcome = run([str(folder)], tmp_path / "found.csv", made)
    with (tmp_path / "found.csv.problems.csv").open() as file:
        told = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert set(told) == {f"{folder}/broken.mp3", f"{folder}/empty.wav"}
    assert dict(outcome.problems) == told
    assert all(reason.startswith("unreadable") for reason in told.values())
    assert not list(tmp_path.glob(".found*"))


def test_only_unusable_recordings_are_an_error_and_write_nothing(
    folder: Path, made: bundle.Bundle, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"None of 1 recordings can be used.*broken"):
        run([str(folder / "broken.mp3")], tmp_path / "found.csv", made)
    assert {path.name for path in tmp_path.iterdir()} == {"songs"}


def test_every_format_holds_the_same_detections(
    folder: Path, made: bundle.Bundle, tmp_path: Path
) -> None:
    places = [str(folder)]
    run(places, tmp_path / "a.csv", made)
    run(places, tmp_path / "a.parquet", made)
    run(places, tmp_path / "a.txt", made)
    run(places, tmp_path / "labels", made, wanted="audacity")
    table = pd.read_csv(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / "a.parquet"), check_dtype=False)
    raven = pd.read_csv(tmp_path / "a.txt", sep="\t")
    assert raven["Selection"].tolist() == list(range(1, len(table) + 1))
    assert raven["Begin Path"].tolist() == table["file"].tolist()
    assert raven["End Time (s)"].tolist() == table["end_seconds"].tolist()
    assert raven["Species Code"].tolist() == table["code"].tolist()
    assert set(raven["High Freq (Hz)"]) == {RATE / 2}
    label = (tmp_path / "labels/deep/middle.txt").read_text().splitlines()
    middle = table[table["file"] == f"{folder}/deep/middle.ogg"]
    assert len(label) == len(middle)
    assert label[0].split("\t")[2].startswith("Barn | Swallow ")
    # A recording in which nothing is heard has labels too: none.
    assert (tmp_path / "labels/silent.txt").read_text() == ""


def test_a_probability_and_a_list_of_species_take_the_place_of_thresholds(
    folder: Path, made: bundle.Bundle, tmp_path: Path
) -> None:
    rule = Rule(least_probability=0.4, codes=frozenset({CODES[2]}))
    run([str(folder)], tmp_path / "found.csv", made, rule)
    table = pd.read_csv(tmp_path / "found.csv")
    assert set(table["code"]) == {CODES[2]}
    assert (table["probability"] >= 0.4).all()
    assert table["threshold"].isna().all()
    everything = Rule(least_probability=0.0)
    run([str(folder / "low.flac")], tmp_path / "all.csv", made, everything)
    assert set(pd.read_csv(tmp_path / "all.csv")["code"]) == set(CODES)


def test_overlapping_windows_are_heard_twice(
    folder: Path, made: bundle.Bundle, tmp_path: Path
) -> None:
    run([str(folder / "long.flac")], tmp_path / "found.csv", made, Rule(overlap_seconds=30))
    table = pd.read_csv(tmp_path / "found.csv")
    assert sorted(set(table["window_start_seconds"])) == [0, 30, 60]


def test_a_zip_is_read_without_unpacking_it(
    folder: Path, made: bundle.Bundle, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "songs.zip", "w") as archive:
        archive.write(folder / "low.flac", "a/low.flac")
        archive.write(folder / "broken.mp3", "a/broken.mp3")
    outcome = run([str(tmp_path / "songs.zip")], tmp_path / "found.csv", made)
    table = pd.read_csv(tmp_path / "found.csv")
    assert set(table["file"]) == {f"{tmp_path}/songs.zip/a/low.flac"}
    assert len(outcome.problems) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"out": "there.csv"}, "is there already"),
        ({"out": "found.xls"}, "does not tell a format"),
        ({"wanted": "xml"}, "choose csv, parquet, raven, audacity"),
        ({"rule": Rule(codes=frozenset({"dodo"}))}, "does not know dodo"),
        ({"rule": Rule(codes=frozenset({CODES[2]}))}, "--min-probability"),
        ({"rule": Rule(overlap_seconds=60)}, "overlap is 60 s"),
        ({"places": ["songs", "songs/low.flac", "songs"]}, "was given twice"),
        ({"places": ["nothing"]}, "holds no recordings"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_listened_to(
    folder: Path,
    made: bundle.Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "there.csv").write_text("mine")
    given = {"places": ["songs"], "out": "found.csv", "rule": Rule(), "wanted": "", **change}

    def never() -> BandScorer:
        raise AssertionError("the network was loaded")

    with pytest.raises(ConfigError, match=told):
        predict.predict(
            given["places"], Path(str(given["out"])), made, never, given["rule"], given["wanted"]
        )
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert not list(tmp_path.glob(".*"))


def test_a_place_that_is_absent_is_an_error(made: bundle.Bundle, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="gone"):
        run([str(tmp_path / "gone")], tmp_path / "found.csv", made)
    with pytest.raises(StorageError, match=r"gone\.wav"):
        run([str(tmp_path / "gone.wav")], tmp_path / "found.csv", made)


def test_two_recordings_with_one_label_file_are_refused(
    made: bundle.Bundle, tmp_path: Path
) -> None:
    for name in ("a.wav", "a.flac"):
        (tmp_path / name).write_bytes(sound(tone(1000), form=name[2:].upper()))
    with pytest.raises(ConfigError, match=r"would both be labelled in a\.txt"):
        run([str(tmp_path)], tmp_path / "labels", made, wanted="audacity")


UNTIL_KILLED = """
import os, signal, sys
from pathlib import Path

sys.path.insert(0, "tests")
from made_bundles import BandScorer

from birdsong import bundle, predict

folder, out, made, last = sys.argv[1:]


class Listed(BandScorer):
    heard = 0

    def frames(self, frames):
        Listed.heard += len(frames)
        return super().frames(frames)


def tell(done, total, seconds):
    if done == int(last):
        os.kill(os.getpid(), signal.SIGKILL)


# One window at a time, so that recordings end one after another.
predict.BATCH_FRAMES = 1
outcome = predict.predict(
    [folder], Path(out), bundle.read_bundle(made), Listed, predict.Rule(), tell=tell
)
print(outcome.resumed, Listed.heard)
"""


def test_a_killed_prediction_goes_on_without_doing_or_losing_a_recording_twice(
    folder: Path, made: bundle.Bundle, tmp_path: Path
) -> None:
    undisturbed = tmp_path / "undisturbed.csv"
    whole = run([str(folder)], undisturbed, made)
    total = whole.recordings + len(whole.problems)
    out = tmp_path / "found.csv"

    def listen(last: int) -> subprocess.CompletedProcess[str]:
        arguments = [str(folder), str(out), str(made.path), str(last)]
        return subprocess.run(
            [sys.executable, "-c", UNTIL_KILLED, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    for last in (2, 5):
        assert listen(last).returncode == -signal.SIGKILL
        assert not out.exists()
    (journal,) = tmp_path.glob(".found.csv.*.journal")
    with journal.open("ab") as file:
        file.write(b'{"file": "half a li')
    # One that was changed meanwhile is listened to again.
    os.utime(folder / "broken.mp3", (1, 1))
    ended = listen(-1)
    assert ended.returncode == 0, ended.stderr
    resumed, frames = map(int, ended.stdout.split())
    assert resumed == 4
    endless = made.features.model_copy(update={"seconds": 1e4})
    left = [
        len(audio.frames(window.samples, endless))
        for name in ("long.flac", "low.flac", "silent.wav")
        for window in audio.windows(folder / name, endless)
    ]
    assert total == 7
    assert frames <= sum(left)
    assert out.read_text() == undisturbed.read_text()
    assert not journal.exists()


def test_of_two_tries_with_different_runtimes_the_later_one_is_gone_on_with(tmp_path: Path) -> None:
    out, rule = tmp_path / "found.csv", Rule()
    names = ("onnx", "tensorflow", "openvino-int8")
    assert predict.begun_with(out, "a" * 64, names, rule) == ""
    for age, name in enumerate(names):
        place = predict._journal_of(out, "a" * 64, name, rule)
        # The first call of `predict` may have been killed before it noted a recording.
        place.write_bytes(b"" if name == "openvino-int8" else b"{}\n")
        os.utime(place, (1000 + age, 1000 + age))
    assert predict.begun_with(out, "a" * 64, names, rule) == "tensorflow"
    assert predict.begun_with(out, "a" * 64, ["onnx"], rule) == "onnx"
    assert predict.begun_with(out, "b" * 64, names, rule) == ""
    assert predict.begun_with(out, "a" * 64, names, Rule(overlap_seconds=5)) == ""


def test_two_predictions_into_one_output_do_not_mix(
    folder: Path, made: bundle.Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "found.csv"
    with (
        Journal(predict._journal_of(out, made.sha256, made.runtime, Rule())),
        pytest.raises(ConfigError, match="Another prediction is writing"),
    ):
        run([str(folder)], out, made)
    run([str(folder)], out, made)
    assert out.exists()


def test_windows_of_many_short_recordings_share_a_pass(made: bundle.Bundle, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(60):
        (tmp_path / f"many/{number:02d}.flac").write_bytes(sound(tone(1000, 2)))
    passes: list[int] = []

    class Counting(BandScorer):
        def frames(self, frames: np.ndarray) -> np.ndarray:
            passes.append(len(frames))
            return super().frames(frames)

    outcome = predict.predict(
        [str(tmp_path / "many")], tmp_path / "found.csv", made, Counting, Rule()
    )
    assert outcome.recordings == 60
    assert passes == [48, 12]


def test_a_recording_that_crashes_its_codec_is_listed_and_stops_nothing(
    made: bundle.Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "crash.flac").write_bytes(sound(np.tile(tone(1000, 10.0), 30)))

    class Crashing(Decoder):
        def windows(self, recording: Any, *arguments: Any) -> Iterator[audio.Window]:
            def kill() -> bool:
                children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
                for child in map(int, children):
                    os.kill(child, signal.SIGSEGV)
                return False

            doomed = isinstance(recording, Path) and recording.name == "crash.flac"
            return super().windows(recording, *arguments, **({"stopped": kill} if doomed else {}))

    monkeypatch.setattr(batch_reading, "Decoder", Crashing)
    monkeypatch.setattr(batch_reading, "RECORDINGS_AHEAD", 1)
    outcome = run([str(folder)], tmp_path / "found.csv", made)
    reasons = {Path(name).name: reason for name, reason in outcome.problems}
    assert reasons["crash.flac"].startswith("crashed: ")
    others = run([str(folder / "low.flac"), str(folder / "long.flac")], tmp_path / "o.csv", made)
    assert others.detections["aldfly"] == outcome.detections["aldfly"]


def test_a_place_that_stops_answering_stops_the_work_and_marks_no_recording_as_bad(
    made: bundle.Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as zipped:
        for name in ("low.flac", "deep/middle.ogg", "deep/high.wav", "long.flac"):
            zipped.write(folder / name, name)
    read = sources.read_file
    down = True

    def sometimes(file: sources.File) -> tuple[bytes, int | None]:
        if down and file.path == "long.flac":
            raise UnreachableError("the place does not answer")
        return read(file)

    monkeypatch.setattr(predict.sources, "read_file", sometimes)
    out = tmp_path / "found.csv"
    with pytest.raises(UnreachableError):
        run([str(tmp_path / "all.zip")], out, made)
    assert not out.exists()
    down = False
    outcome = run([str(tmp_path / "all.zip")], out, made)
    assert (outcome.recordings, outcome.problems) == (4, [])
    run([str(tmp_path / "all.zip")], tmp_path / "whole.csv", made)
    assert out.read_text() == (tmp_path / "whole.csv").read_text()


LONG = """
import resource, sys
from pathlib import Path
import numpy as np
from birdsong import bundle, predict

class Cheap:
    def frames(self, frames):
        return np.full((len(frames), 3), 0.1, np.float32)

made, sound, out = map(Path, sys.argv[1:])
outcome = predict.predict([str(sound)], out, bundle.read_bundle(made), Cheap, predict.Rule())
both = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
kib = max(resource.getrusage(who).ru_maxrss for who in both)
print(outcome.audio_seconds, kib)
"""


def listened(made: bundle.Bundle, folder: Path, hours: float) -> tuple[float, float]:
    """Hours heard of a recording of so many, and the most MiB that a process took for it."""
    rng = np.random.default_rng(0)
    minute = rng.normal(0, 0.1, 60 * 1000)
    # Few samples a second, so that it is made quickly; heard are 22,050 all the same.
    with soundfile.SoundFile(folder / f"{hours}.flac", "w", 1000, 1) as file:
        for _ in range(round(60 * hours)):
            file.write(minute)
    done = subprocess.run(
        [sys.executable, "-c", LONG, made.path, folder / f"{hours}.flac", folder / f"{hours}.csv"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    seconds, kib = map(float, done.stdout.split())
    return seconds / 3600, kib / 1024


@pytest.mark.slow
def test_a_day_of_sound_takes_no_more_memory_than_ten_minutes(
    made: bundle.Bundle, tmp_path: Path
) -> None:
    (short, little), (long, much) = (listened(made, tmp_path, hours) for hours in (1 / 6, 24))
    print(f"{short:.2f} h: {little:.0f} MiB, {long:.2f} h: {much:.0f} MiB")
    assert long == pytest.approx(24, abs=0.01)
    assert much < little + 32
