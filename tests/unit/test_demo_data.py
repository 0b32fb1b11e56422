"""Generated recordings: deterministic, varied, in BirdCLEF's layouts."""

import ast
import csv
import hashlib
import io

import numpy as np
import pytest
import soundfile

from birdsong import demo_data
from birdsong.errors import ConfigError, DataError


def test_the_default_source_is_six_species_of_forty_recordings() -> None:
    rows = demo_data.catalogue("demo:")
    assert len(rows) == 240
    assert len({row["primary_label"] for row in rows}) == 6
    assert len({row["filename"] for row in rows}) == 240


def test_a_recording_is_the_same_whenever_it_is_read() -> None:
    uri = demo_data.catalogue("demo:?species=3&recordings=2&seed=5")[3]["uri"]
    first = hashlib.sha256(demo_data.read(uri)).hexdigest()
    assert first == hashlib.sha256(demo_data.read(uri)).hexdigest()


def test_another_seed_gives_other_recordings() -> None:
    one, two = (demo_data.catalogue(f"demo:?seed={seed}")[0]["uri"] for seed in (0, 1))
    assert demo_data.read(one) != demo_data.read(two)


def test_no_two_recordings_of_a_source_are_the_same() -> None:
    rows = demo_data.catalogue("demo:?species=8&recordings=3")
    assert len({hashlib.sha256(demo_data.read(row["uri"])).digest() for row in rows}) == 24


def test_recordings_are_five_to_twenty_seconds_and_below_full_scale() -> None:
    for row in demo_data.catalogue("demo:?species=8&recordings=4"):
        samples, rate = soundfile.read(io.BytesIO(demo_data.read(row["uri"])))
        assert rate == demo_data.RATE
        assert 5 <= len(samples) / rate <= 20
        assert 0.1 < np.abs(samples).max() < 0.95


def test_some_recordings_name_a_second_species_that_sings_in_the_background() -> None:
    rows = demo_data.catalogue("demo:")
    codes = {row["primary_label"] for row in rows}
    secondary = [ast.literal_eval(row["secondary_labels"]) for row in rows]
    assert 0.08 < np.mean([len(labels) > 0 for labels in secondary]) < 0.28
    for row, labels in zip(rows, secondary, strict=True):
        assert set(labels) <= codes - {row["primary_label"]}


def test_one_species_alone_has_no_second_species() -> None:
    rows = demo_data.catalogue("demo:?species=1&recordings=30")
    assert {row["secondary_labels"] for row in rows} == {"[]"}


def test_recordings_of_one_visit_share_author_day_and_place() -> None:
    rows = demo_data.catalogue("demo:?species=1&recordings=40")
    visits = {(row["author"], row["date"], row["latitude"]) for row in rows}
    assert len(visits) == 20
    assert len({row["author"] for row in rows}) >= 5


def test_songs_of_the_kinds_differ_more_between_than_within_species() -> None:
    pictures: dict[str, list[np.ndarray]] = {}
    for row in demo_data.catalogue("demo:?species=6&recordings=8"):
        samples, _ = soundfile.read(io.BytesIO(demo_data.read(row["uri"])))
        frames = samples[: len(samples) // 1024 * 1024].reshape(-1, 1024)
        levels = np.log(np.abs(np.fft.rfft(frames * np.hanning(1024)))[:, 1:] + 1e-6)
        bands = levels.reshape(len(levels), 64, 8).mean(axis=2)
        spread = np.percentile(bands, 95, axis=0) - np.median(bands, axis=0)
        pictures.setdefault(row["primary_label"], []).append(spread)
    means = {code: np.mean(values, axis=0) for code, values in pictures.items()}
    right = [
        min(means, key=lambda other: float(np.linalg.norm(value - means[other]))) == code
        for code, values in pictures.items()
        for value in values
    ]
    assert np.mean(right) > 0.6


@pytest.mark.parametrize(
    "uri",
    [
        "demo:?species=0",
        "demo:?species=many",
        "demo:?birds=3",
        "demo:?seed=-1",
        "demo:?seed=",
        "demo:demtri1/DM00000000.flac",
        "s3://bucket",
    ],
)
def test_a_wrong_source_is_refused_with_what_is_known(uri: str) -> None:
    with pytest.raises(ConfigError):
        demo_data.catalogue(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "demo:",
        "demo:crow/DM00000000.flac",
        "demo:demtri1/DM00100000.flac",
        "demo:demtri1/DM000.flac",
        "demo:demtri1/../x.flac",
        "demo:demtri1/DM00000000.ogg",
    ],
)
def test_a_name_that_is_no_recording_is_refused(uri: str) -> None:
    with pytest.raises(DataError, match="names no generated recording"):
        demo_data.read(uri)


@pytest.mark.parametrize(
    ("layout", "table", "audio", "label"),
    [
        ("birdclef2020", "train.csv", "train_audio", "ebird_code"),
        ("birdclef2021", "train_metadata.csv", "train_short_audio", "primary_label"),
        ("birdclef2022", "train_metadata.csv", "train_audio", "primary_label"),
    ],
)
def test_a_written_folder_has_the_layout_asked_for(tmp_path, layout, table, audio, label) -> None:
    root = demo_data.write(tmp_path / "made", species=2, recordings=2, layout=layout)
    with (root / table).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for row in rows:
        below = row["filename"] if "/" in row["filename"] else f"{row[label]}/{row['filename']}"
        assert (root / audio / below).is_file()
    assert ("/" in rows[0]["filename"]) == (layout == "birdclef2022")


def test_an_unknown_layout_is_refused_before_anything_is_written(tmp_path) -> None:
    with pytest.raises(ConfigError, match="known are"):
        demo_data.write(tmp_path / "made", layout="birdclef1999")
    assert not (tmp_path / "made").exists()
