"""Featurize over real files: the same bytes for any number of workers, bad ones set aside."""

import hashlib
import io
import os
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from birdsong import artifacts, audio, features, shards
from birdsong.config import FeatureConfig
from birdsong.errors import BirdsongError, DataError
from birdsong.features import FeatureSet, featurize

PARTS = ("train", "validation", "calibration", "test")
PLACES = ("development", "calibration", "test")


def make_sound(seed: int, seconds: float, rate: int = 32_000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * rng.uniform(1000, 4000) * time)
    return (0.3 * tone + 0.02 * rng.standard_normal(len(time))).astype(np.float32)


def make_file(samples: np.ndarray, form: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 32_000, format=form)
    return buffer.getvalue()


def make_stages(
    folder: Path, files: Mapping[str, bytes], parts: Mapping[str, str] | None = None
) -> Path:
    """Artifacts of ingest and split over files of one's own, parts in turn."""
    (folder / "audio").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number, (name, data) in enumerate(files.items()):
        path = folder / "audio" / name.replace("/", "-")
        path.write_bytes(data)
        rows.append(
            {
                "id": name,
                "label": f"s{number % 2}",
                "secondary": ["other"] if number == 0 else [],
                "author": "Ada" if number else None,
                "licence": None,
                "rating": 4.5 if number else None,
                "sha256": hashlib.sha256(data).hexdigest(),
                "seconds": 1.0,
                "rate": 32_000,
                "channels": 1,
                "uri": str(path),
                "member": None,
                "offset": None,
                "size": len(data),
                "compression": None,
            }
        )
    schema = pa.schema(
        {
            **dict.fromkeys(("id", "label", "author", "licence", "sha256", "uri"), pa.string()),
            "secondary": pa.list_(pa.string()),
            **dict.fromkeys(("rating", "seconds"), pa.float64()),
            "rate": pa.int32(),
            "channels": pa.int16(),
            **dict.fromkeys(("member", "compression"), pa.string()),
            **dict.fromkeys(("offset", "size"), pa.int64()),
        }
    )
    with artifacts.create(folder / "recordings", "recordings", {}) as made:
        pq.write_table(pa.Table.from_pylist(rows, schema), made.path / "recordings.parquet")
    shares = [
        {
            "id": row["id"],
            "part": (parts or {}).get(row["id"], PARTS[number % 4]),
            "group": f"g{number}",
            "grouped_by": "alone",
        }
        for number, row in enumerate(rows)
    ]
    classes = [{"code": f"s{n}", "scientific_name": "", "common_name": ""} for n in range(2)]
    inputs = {"recordings": folder / "recordings"}
    with artifacts.create(folder / "splits", "splits", {}, inputs) as made:
        text = pa.schema(dict.fromkeys(("id", "part", "group", "grouped_by"), pa.string()))
        pq.write_table(pa.Table.from_pylist(shares, text), made.path / "splits.parquet")
        artifacts.write_json(made.path / "classes.json", classes)
    return folder


def run(
    folder: Path, config: FeatureConfig | None = None, workers: int = 1, out: str = ""
) -> dict[str, float]:
    places = [folder / out / name for name in PLACES]
    return featurize(
        folder / "recordings",
        folder / "splits",
        *places,
        folder / out / "preview.html",
        config or FeatureConfig(),
        workers,
    )


@pytest.fixture(scope="module")
def songs() -> dict[str, bytes]:
    return {f"s{n % 2}/r{n}.wav": make_file(make_sound(n, 1 + n % 5)) for n in range(8)}


@pytest.mark.parametrize("encoding", ["pcm", "flac"])
def test_any_number_of_workers_writes_the_same_bytes(tmp_path, songs, encoding):
    folder = make_stages(tmp_path, songs)
    config = FeatureConfig(encoding=encoding)
    first = run(folder, config, 1, "one")
    second = run(folder, config, 3, "three")
    assert first == second
    for name in PLACES:
        one, three = (artifacts.read_spec(folder / out / name) for out in ("one", "three"))
        assert one == three
        artifacts.verify(folder / "three" / name)


@pytest.mark.parametrize("encoding", ["pcm", "flac"])
def test_each_part_reaches_its_artifact_with_the_samples_of_audio(tmp_path, songs, encoding):
    folder = make_stages(tmp_path, songs)
    config = FeatureConfig(encoding=encoding)
    summary = run(folder, config)
    development = FeatureSet(folder / "development")
    assert development.config == config
    assert development.codes == ["s0", "s1"]
    assert len(development) == 4
    assert summary["windows_train"] == summary["windows_test"] == 2
    assert set(development.index["part"]) == {"train", "validation"}
    assert len(development.select("train")) == 2
    for name, parts in [("calibration", {"calibration"}), ("test", {"test"})]:
        assert set(FeatureSet(folder / name).index["part"]) == parts
    for row, record in enumerate(development.index.to_dict("records")):
        (window,) = audio.windows(songs[record["id"]], config)
        waveform = development.waveform(row)
        assert waveform.dtype == np.int16
        assert np.array_equal(waveform, window.samples)
        assert record["samples"] == len(window.samples)
        assert record["sha256"] == hashlib.sha256(songs[record["id"]]).hexdigest()
    first = development.index.iloc[0]
    assert list(first["secondary"]) == ["other"]
    assert np.isnan(first["rating"])


def test_windows_can_be_read_from_many_threads_at_once(tmp_path, songs):
    folder = make_stages(tmp_path, songs)
    run(folder, FeatureConfig(encoding="flac"))
    development = FeatureSet(folder / "development")
    expected = [development.waveform(row) for row in range(4)]
    again = FeatureSet(folder / "development")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: again.waveform(n % 4), range(200)))
    assert all(np.array_equal(wave, expected[n % 4]) for n, wave in enumerate(found))


def test_bad_recordings_are_set_aside_with_their_reasons(tmp_path, songs):
    nan = make_sound(1, 1)
    nan[100] = np.nan
    buffer = io.BytesIO()
    soundfile.write(buffer, nan, 32_000, format="WAV", subtype="FLOAT")
    bad = {
        "bad/a-text.wav": b"this is no sound",
        "bad/b-silent.wav": make_file(np.zeros(32_000, np.float32)),
        "bad/c-nan.wav": buffer.getvalue(),
        "bad/d-changed.wav": make_file(make_sound(2, 1)),
        "bad/e-gone.wav": make_file(make_sound(3, 1)),
    }
    files = {**songs, **bad}
    folder = make_stages(tmp_path, files, dict.fromkeys(bad, "test"))
    (folder / "audio/bad-d-changed.wav").write_bytes(make_file(make_sound(4, 1)))
    (folder / "audio/bad-e-gone.wav").unlink()
    summary = run(folder, FeatureConfig(max_bad_share=0.5))
    assert summary["quarantined"] == 5
    table = pq.read_table(folder / "test/quarantine.parquet").to_pylist()
    kinds = {row["id"]: row["reason"].partition(":")[0] for row in table}
    assert kinds == {
        "bad/a-text.wav": "unreadable",
        "bad/b-silent.wav": "silent",
        "bad/c-nan.wav": "not finite",
        "bad/d-changed.wav": "changed since ingest",
        "bad/e-gone.wav": "unread",
    }
    assert not set(FeatureSet(folder / "test").index["id"]) & set(bad)
    assert pq.read_table(folder / "development/quarantine.parquet").num_rows == 0


def test_too_many_bad_recordings_fail_with_counted_reasons_and_leave_nothing(tmp_path, songs):
    files = {**songs, "a.wav": b"no", "b.wav": b"no", "c.wav": make_file(np.zeros(9, np.float32))}
    folder = make_stages(tmp_path, files)
    before = set(folder.iterdir())
    with pytest.raises(DataError, match=r"2 of 11 recordings.*2 unreadable.*max_bad_share = 0\.1"):
        run(folder, FeatureConfig(max_bad_share=0.1))
    assert set(folder.iterdir()) == before


def test_a_killed_worker_fails_the_stage_and_leaves_nothing(tmp_path, songs, monkeypatch):
    folder = make_stages(tmp_path, songs)
    before = set(folder.iterdir())
    monkeypatch.setattr(features, "decode_recording", die)
    with pytest.raises(BirdsongError, match="worker processes died"):
        run(folder, workers=2)
    assert set(folder.iterdir()) == before


def die(task: object, **settings: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_audio_without_birds_stands_beside_the_recordings_for_training(tmp_path, songs):
    folder = make_stages(tmp_path, songs)
    place = tmp_path / "wind"
    (place / "deep").mkdir(parents=True)
    random = np.random.default_rng(0)
    (place / "deep/gale.wav").write_bytes(make_file(random.normal(size=32_000 * 7) * 0.1))
    (place / "breeze.wav").write_bytes(make_file(random.normal(size=32_000 * 3) * 0.01))
    (place / "broken.wav").write_bytes(b"no")
    (place / "notes.txt").write_text("not audio")
    without = run(folder, out="without")
    summary = run(folder, FeatureConfig(no_call_source=str(place), max_bad_share=0.5))
    assert "windows_no_call" not in without
    assert summary["windows_no_call"] == 2
    development = FeatureSet(folder / "development")
    index = development.index[development.index["part"] == "no_call"]
    assert index["id"].tolist() == ["no_call/breeze.wav", "no_call/deep/gale.wav"]
    assert set(index["label"]) == {""}
    assert index["samples"].tolist() == pytest.approx([3 * 22_050, 7 * 22_050], abs=3)
    assert all(len(name) == 64 for name in index["sha256"])
    quarantine = pq.read_table(folder / "development/quarantine.parquet").to_pylist()
    assert [row["id"] for row in quarantine] == ["no_call/broken.wav"]
    for name in ("calibration", "test"):
        assert "no_call" not in set(FeatureSet(folder / name).index["part"])
    assert "no_call" not in (folder / "preview.html").read_text()


def test_a_place_without_audio_is_an_error_that_says_what_to_give(tmp_path, songs):
    folder = make_stages(tmp_path, songs)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"no_call_source .*nothing holds no audio"):
        run(folder, FeatureConfig(no_call_source=str(tmp_path / "nothing")))


def test_parts_without_recordings_are_valid_artifacts(tmp_path, songs):
    folder = make_stages(tmp_path, songs, dict.fromkeys(songs, "train"))
    summary = run(folder)
    for name in ("calibration", "test"):
        empty = FeatureSet(folder / name)
        assert len(empty) == 0
        assert empty.codes == ["s0", "s1"]
        assert empty.select("test") == []
        assert list(empty.index.columns) == list(FeatureSet(folder / "development").index.columns)
        artifacts.verify(folder / name)
    assert summary["windows_calibration"] == summary["hours_test"] == 0


def test_development_without_recordings_still_has_a_preview(tmp_path, songs):
    folder = make_stages(tmp_path, songs, dict.fromkeys(songs, "test"))
    run(folder)
    assert "no windows to show" in (folder / "preview.html").read_text()


def test_a_long_recording_gives_windows_in_order_and_goes_through_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SPOOL_BYTES", 1000)
    long = make_sound(0, 150)
    folder = make_stages(tmp_path, {"long.wav": make_file(long), "short.wav": make_file(long[:99])})
    run(folder, FeatureConfig(seconds=140))
    development = FeatureSet(folder / "development")
    index = development.index[development.index["id"] == "long.wav"]
    assert index["window"].tolist() == [0, 1, 2]
    assert index["start_seconds"].round().tolist() == [0, 60, 120]
    assert index["samples"].iloc[2] == pytest.approx(20 * 22_050, abs=20)
    windows = audio.windows(make_file(long), FeatureConfig(seconds=140))
    for row, window in zip(index.index, windows, strict=True):
        assert np.array_equal(development.waveform(row), window.samples)
    assert not list(folder.glob(".*"))


def test_a_full_shard_is_followed_by_another(tmp_path, songs, monkeypatch):
    monkeypatch.setattr(shards.ShardWriter.__init__, "__defaults__", (100_000,))
    folder = make_stages(tmp_path, songs, dict.fromkeys(songs, "train"))
    run(folder)
    development = FeatureSet(folder / "development")
    assert development.index["shard"].nunique() > 2
    for row, name in enumerate(development.index["id"]):
        (window,) = audio.windows(songs[name], FeatureConfig())
        assert np.array_equal(development.waveform(row), window.samples)


def test_a_missing_or_cut_off_shard_is_a_clear_error(tmp_path, songs):
    folder = make_stages(tmp_path, songs)
    run(folder)
    shard = folder / "development/shards/00000.pcm"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(DataError, match="cut off"):
        FeatureSet(folder / "development").waveform(3)
    shard.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        FeatureSet(folder / "development").waveform(3)


def test_splits_of_other_recordings_are_refused(tmp_path, songs):
    first = make_stages(tmp_path / "a", songs)
    second = make_stages(tmp_path / "b", {"x.wav": make_file(make_sound(1, 1))})
    (first / "splits").rename(first / "old")
    (second / "splits").rename(first / "splits")
    with pytest.raises(DataError, match="made from other recordings"):
        run(first)


def test_progress_is_told_and_ends_at_the_total(tmp_path, songs, capfd):
    run(make_stages(tmp_path, songs))
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("progress")]
    assert lines[0] == "progress decode 0/8 recordings"
    assert lines[-1] == "progress decode 8/8 recordings"


def test_the_preview_shows_and_plays_and_names_authors_safely(tmp_path):
    name = "s0/<b>&.wav"
    files = {name: make_file(make_sound(1, 12)), "s1/x.wav": make_file(make_sound(2, 0.001))}
    folder = make_stages(tmp_path, files, dict.fromkeys(files, "train"))
    run(folder)
    page = (folder / "preview.html").read_text()
    assert page.count("data:image/jpeg;base64,") == page.count("data:audio/ogg;base64,") == 2
    assert "s0/&lt;b&gt;&amp;.wav" in page
    assert "<b>&.wav" not in page
    assert "author not given" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_recording_of_one_sample_becomes_one_finite_frame(tmp_path):
    folder = make_stages(tmp_path, {"one.wav": make_file(np.full(1, 0.5, np.float32))})
    run(folder)
    waveform = FeatureSet(folder / "development").waveform(0)
    frames = audio.frames(waveform, FeatureConfig())
    assert waveform.shape == (1,)
    assert np.isfinite(frames).all()
