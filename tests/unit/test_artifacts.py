import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from birdsong import artifacts
from birdsong.errors import DataError, StorageError


def _make(path: Path, text: str = "song", **inputs: Path) -> artifacts.Spec:
    with artifacts.create(path, "songs", {"rate": 1}, inputs) as folder:
        (folder.path / "deep").mkdir()
        (folder.path / "deep/song.txt").write_text(text)
    return artifacts.read_spec(path)


def test_an_artifact_tells_its_settings_inputs_and_the_hash_of_each_file(tmp_path: Path) -> None:
    first = _make(tmp_path / "first")
    second = _make(tmp_path / "second", upstream=tmp_path / "first")
    assert second.settings == {"rate": 1}
    assert second.inputs == {"upstream": first.sha256}
    assert second.files["deep/song.txt"]["bytes"] == 4
    assert artifacts.verify(tmp_path / "second") == second


def test_equal_contents_have_equal_hashes_and_other_contents_do_not(tmp_path: Path) -> None:
    one, same, other = (_make(tmp_path / name, text) for name, text in
                        (("a", "song"), ("b", "song"), ("c", "call")))  # fmt: skip
    assert one.sha256 == same.sha256 != other.sha256


def test_a_failed_writer_leaves_nothing_and_keeps_what_stood_there(tmp_path: Path) -> None:
    before = _make(tmp_path / "songs")

    def fail(folder: artifacts.Folder) -> None:
        (folder.path / "half.txt").write_text("half")
        raise RuntimeError("the disk is full")

    with (
        pytest.raises(RuntimeError),
        artifacts.create(tmp_path / "songs", "songs", {}) as folder,
    ):
        fail(folder)
    assert artifacts.verify(tmp_path / "songs") == before
    assert [path.name for path in tmp_path.iterdir()] == ["songs"]


def test_a_killed_writer_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from birdsong import artifacts\n"
        "with artifacts.create(sys.argv[1], 'songs', {}) as folder:\n"
        "    (folder.path / 'half.txt').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "songs")], check=False)
    assert ended.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="not a finished artifact"):
        artifacts.read_spec(tmp_path / "songs")
    _make(tmp_path / "songs")
    artifacts.verify(tmp_path / "songs")


def test_what_a_failed_attempt_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs/left.txt").write_text("left")
    spec = _make(tmp_path / "songs")
    assert set(spec.files) == {"deep/song.txt"}
    assert not (tmp_path / "songs/left.txt").exists()


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damage_is_found_and_named(tmp_path: Path, damage: str) -> None:
    _make(tmp_path / "songs")
    song = tmp_path / "songs/deep/song.txt"
    if damage == "changed":
        song.write_text("s0ng")
    else:
        song.unlink()
    with pytest.raises(DataError, match=r"deep/song\.txt"):
        artifacts.verify(tmp_path / "songs")


def test_another_kind_or_layout_version_is_refused(tmp_path: Path) -> None:
    _make(tmp_path / "songs")
    with pytest.raises(DataError, match="expected 'model'"):
        artifacts.read_spec(tmp_path / "songs", "model")
    spec = json.loads((tmp_path / "songs/spec.json").read_text())
    (tmp_path / "songs/spec.json").write_text(json.dumps(spec | {"version": 99}))
    with pytest.raises(DataError, match="layout version 99"):
        artifacts.read_spec(tmp_path / "songs")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "songs"}', "null"])
def test_a_broken_spec_is_a_data_error(tmp_path: Path, text: str) -> None:
    _make(tmp_path / "songs")
    (tmp_path / "songs/spec.json").write_text(text)
    with pytest.raises(DataError):
        artifacts.read_spec(tmp_path / "songs")


def test_json_refuses_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "good.json", {"value": 1.5})
    assert artifacts.read_json(tmp_path / "good.json") == {"value": 1.5}
    with pytest.raises(ValueError, match="JSON compliant"):
        artifacts.write_json(tmp_path / "good.json", {"value": float("nan")})
    assert artifacts.read_json(tmp_path / "good.json") == {"value": 1.5}
    assert os.listdir(tmp_path) == ["good.json"]  # noqa: PTH208


def test_what_the_disk_cannot_take_is_refused_with_both_sizes(tmp_path: Path) -> None:
    artifacts.ensure_room(tmp_path, 1)
    with pytest.raises(StorageError, match=r"MB are free .* needed are 1,000,000,000,000.0 MB"):
        artifacts.ensure_room(tmp_path, 10**18)
