"""Reading places: files, zips by ranges, generated data; the clouds are in tests/cloud."""

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from birdsong import clouds, sources, storage
from birdsong.errors import ConfigError, DataError, StorageError


def zip_of(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("/data/birds", "file"),
        ("birds.zip", "file"),
        ("file:///data", "file"),
        ("s3://bucket/prefix", "s3"),
        ("gs://bucket", "gs"),
        ("demo:?species=3", "demo"),
    ],
)
def test_a_uri_tells_where_it_leads(uri: str, scheme: str) -> None:
    assert storage.scheme_of(uri) == scheme


@pytest.mark.parametrize(
    "uri", ["http://x/y.zip", "minio://b/c", "s3:/bucket/x", "s3://", "gs:///key", "S3://bucket"]
)
def test_a_wrong_uri_is_refused_with_what_is_read(uri: str) -> None:
    with pytest.raises(ConfigError, match=uri):
        storage.scheme_of(uri)


@pytest.mark.parametrize(
    "name",
    ["../x.ogg", "/x.ogg", "a//b.ogg", "a/./b.ogg", "a\\b.ogg", "C:/x.ogg", "a\nb.ogg", "a/..", ""],
)
def test_a_hostile_name_is_no_clean_path(name: str) -> None:
    assert sources.clean_path(name) is None


@pytest.mark.parametrize("name", ["a/b.ogg", "Turdus merula/song 1.wav", "é/ß.ogg", "a..b/c...d"])
def test_an_odd_but_harmless_name_is_a_clean_path(name: str) -> None:
    assert sources.clean_path(name) == name


def test_a_folder_is_listed_through_links_and_a_loop_of_links_ends(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    (root / "a").mkdir(parents=True)
    other.mkdir()
    (root / "a/1.ogg").write_bytes(b"one")
    (other / "2.ogg").write_bytes(b"two")
    (root / "loop").symlink_to(root)
    (root / "a/up").symlink_to("..")
    (root / "linked").symlink_to(other)
    (root / "broken.ogg").symlink_to("nowhere")
    found = {file.path: file for file in sources.list_files(str(root))}
    assert set(found) == {"a/1.ogg", "linked/2.ogg", "broken.ogg"}
    assert found["broken.ogg"].fault == "it is a link to nothing"
    assert sources.read_file(found["linked/2.ogg"]) == (b"two", None)


def test_a_name_that_is_no_text_is_told_not_passed_by(tmp_path: Path) -> None:
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff.ogg", os.O_CREAT | os.O_WRONLY))
    (file,) = sources.list_files(str(tmp_path))
    assert "\\" in file.path
    assert file.fault


def test_an_absent_folder_and_a_file_that_is_no_zip_are_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        list(sources.list_files(str(tmp_path / "none")))
    with pytest.raises(StorageError, match="does not exist"):
        list(sources.list_files(str(tmp_path / "none.zip")))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(StorageError, match="neither a folder nor"):
        list(sources.list_files(str(tmp_path / "notes.txt")))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_of_a_zip_is_read_and_read_again_by_its_row(tmp_path: Path, method: int) -> None:
    data = {f"a/{number}.ogg": os.urandom(1000 * number) * 2 for number in range(4)}
    place = zip_of(tmp_path / "x.zip", data, method)
    for file in sources.list_files(str(place)):
        original, offset = sources.read_file(file)
        assert original == data[file.path]
        row = {"uri": file.uri, "offset": offset, "size": file.size}
        row["compression"] = file.compression
        assert storage.read_recording(row, tmp_path) == original


def test_a_local_header_longer_than_the_directory_says_is_read(tmp_path: Path) -> None:
    place = tmp_path / "x.zip"
    info = zipfile.ZipInfo("a/1.ogg")
    info.extra = b"\xfe\xca" + (400).to_bytes(2, "little") + bytes(400)
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr(info, b"song" * 50)
        info.extra = b""
    (file,) = sources.list_files(str(place))
    assert sources.read_file(file)[0] == b"song" * 50


def test_hostile_names_in_a_zip_are_told_and_nothing_is_unpacked(tmp_path: Path) -> None:
    place = zip_of(
        tmp_path / "x.zip", {"../../evil.ogg": b"x", "/etc/evil.ogg": b"x", "a/good.ogg": b"x"}
    )
    faults = {file.path: bool(file.fault) for file in sources.list_files(str(place))}
    assert faults == {"../../evil.ogg": True, "/etc/evil.ogg": True, "a/good.ogg": False}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.zip"]


@pytest.mark.parametrize("part", [0.0, 0.3, 0.97])
def test_a_zip_that_was_cut_off_is_told(tmp_path: Path, part: float) -> None:
    place = zip_of(tmp_path / "x.zip", {f"a/{i}.ogg": os.urandom(5000) for i in range(9)})
    data = place.read_bytes()
    place.write_bytes(data[: int(part * len(data))])
    with pytest.raises(DataError, match="not a whole zip"):
        list(sources.list_files(str(place)))


def test_a_damaged_member_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    place = zip_of(tmp_path / "x.zip", {"a.ogg": b"one" * 99, "b.ogg": b"two" * 99}, 0)
    data = bytearray(place.read_bytes())
    data[data.index(b"oneone")] ^= 1
    place.write_bytes(data)
    first, second = sources.list_files(str(place))
    with pytest.raises(DataError, match="checksum"):
        sources.read_file(first)
    assert sources.read_file(second)[0] == b"two" * 99


def test_a_zip_bomb_is_refused_before_it_fills_memory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(storage, "LARGEST_MEMBER", 100_000)
    place = zip_of(tmp_path / "x.zip", {"a.ogg": bytes(10_000_000)})
    (file,) = sources.list_files(str(place))
    with pytest.raises(DataError, match="more than 100,000 bytes"):
        sources.read_file(file)


def test_another_compression_is_told(tmp_path: Path) -> None:
    place = zip_of(tmp_path / "x.zip", {"a.ogg": b"x" * 100}, zipfile.ZIP_BZIP2)
    (file,) = sources.list_files(str(place))
    assert "not supported" in (file.fault or "")


def test_a_row_of_pandas_with_absent_values_is_read(tmp_path: Path) -> None:
    import pandas as pd

    (tmp_path / "x.ogg").write_bytes(b"song")
    row = {"uri": str(tmp_path / "x.ogg"), "size": 4, "offset": float("nan"), "compression": pd.NA}
    assert storage.read_recording(row, tmp_path) == b"song"


def test_a_relative_place_lies_in_the_artifact(tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot/0.tar").write_bytes(b"....song....")
    row = {"uri": "snapshot/0.tar", "offset": 4, "size": 4, "compression": "stored"}
    assert storage.read_recording(row, tmp_path) == b"song"


def test_a_recording_that_became_shorter_after_ingest_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.ogg").write_bytes(b"song")
    row = {"id": "a/x.ogg", "uri": str(tmp_path / "x.ogg"), "size": 9}
    with pytest.raises(DataError, match=r"a/x\.ogg.*Run ingest again"):
        storage.read_recording(row, tmp_path)


def test_a_fetched_file_is_whole_and_has_the_hash_asked_for(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"weights" * 1000)
    right = hashlib.sha256(b"weights" * 1000).hexdigest()
    target = tmp_path / "deep/w.h5"
    assert storage.fetch(str(tmp_path / "w.h5"), target, right).read_bytes() == b"weights" * 1000
    with pytest.raises(DataError, match="expected 0000"):
        storage.fetch(str(tmp_path / "w.h5"), tmp_path / "other.h5", "0" * 64)
    with pytest.raises(StorageError):
        storage.fetch(str(tmp_path / "none.h5"), tmp_path / "other.h5")
    assert sorted(path.name for path in tmp_path.rglob("*.h5")) == ["w.h5", "w.h5"]


def test_a_fetched_file_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "here.h5").write_bytes(b"x")
    sha256 = hashlib.sha256(b"x").hexdigest()
    assert storage.fetch("s3://nowhere/w.h5", tmp_path / "here.h5", sha256).read_bytes() == b"x"


def test_an_error_that_passes_is_tried_again_and_another_is_not(monkeypatch) -> None:
    monkeypatch.setattr(clouds, "_WAITS_SECONDS", (0.0, 0.0))
    calls = []

    def flaky() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("reset by peer")
        return "done"

    def wrong() -> str:
        calls.append(1)
        raise KeyError("no such thing")

    assert clouds.attempt("s3://b/k", flaky) == "done"
    calls.clear()
    with pytest.raises(StorageError, match="no such thing"):
        clouds.attempt("s3://b/k", wrong)
    assert len(calls) == 1


def test_a_range_reader_seeks_and_reads_like_a_file(tmp_path: Path, monkeypatch) -> None:
    data = os.urandom(3 * 2**20 + 17)
    monkeypatch.setattr(storage, "size_of", lambda uri: len(data))
    monkeypatch.setattr(storage, "read_range", lambda uri, at, size: data[at : at + size])
    with storage.open_for_reading("s3://b/k") as far:
        near = io.BytesIO(data)
        for offset, whence, size in [(0, 0, 10), (-20, 2, 100), (2**20 - 3, 0, 2**20), (5, 1, 7)]:
            assert far.seek(offset, whence) == near.seek(offset, whence)
            assert far.read(size) == near.read(size)


def test_importing_storage_loads_no_cloud_sdk() -> None:
    program = (
        "import sys, birdsong.storage, birdsong.recordings\n"
        "print([name for name in ('boto3', 'google.cloud.storage', 'matplotlib', 'pandas',"
        " 'tensorflow', 'kfp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
