"""Ingest: what comes of a source, good or bad."""

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from birdsong import artifacts, audit, demo_data, recordings, snapshot, storage
from birdsong.config import IngestConfig
from birdsong.errors import BirdsongError, DataError, StorageError

SHARED = Path(__file__).parents[2] / "../shared/data"


def song(seed: int, seconds: float = 0.5, rate: int = 22_050, channels: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    return 0.2 * random.standard_normal((int(seconds * rate), channels)).clip(-3, 3)


def save(path: Path, samples: np.ndarray, rate: int = 22_050, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def run(source: Path | str, tmp_path: Path, **settings: Any) -> dict[str, float]:
    config = IngestConfig(source=str(source), **{"max_bad_share": 1.0, **settings})
    return recordings.ingest(str(tmp_path / "out/rec"), str(tmp_path / "out/audit.html"), config)


def rows(tmp_path: Path, table: str = "recordings") -> list[dict[str, Any]]:
    return pq.read_table(tmp_path / f"out/rec/{table}.parquet").to_pylist()


def problems(tmp_path: Path) -> dict[str, tuple[str, bool]]:
    return {row["id"]: (row["problem"], row["excluded"]) for row in rows(tmp_path, "problems")}


def table(
    root: Path, *lines: str, columns: str = "primary_label,secondary_labels,filename"
) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "train_metadata.csv").write_text("\n".join([columns, *lines]) + "\n")


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short recordings of two species in folders."""
    root = tmp_path_factory.mktemp("birds")
    for number in range(6):
        save(root / f"species{number % 2}/{number}.flac", song(number))
    return root


def test_each_kind_of_recording_is_described_as_it_is(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(root / "a/low.wav", song(1, 1.0, 8_000), 8_000)
    save(root / "a/high.wav", song(2, 1.0, 96_000, 2), 96_000, subtype="PCM_24")
    save(root / "b/one.flac", song(3, 1.0, 44_100, 3), 44_100)
    save(root / "b/two.ogg", song(4, 1.0, 32_000), 32_000, format="OGG", subtype="VORBIS")
    save(root / "b/THREE.MP3", song(5, 1.0, 44_100), 44_100, format="MP3")
    run(root, tmp_path)
    found = {row["id"]: (row["rate"], row["channels"]) for row in rows(tmp_path)}
    assert found == {
        "a/high.wav": (96_000, 2),
        "a/low.wav": (8_000, 1),
        "b/THREE.MP3": (44_100, 1),
        "b/one.flac": (44_100, 3),
        "b/two.ogg": (32_000, 1),
    }
    assert all(abs(row["seconds"] - 1) < 0.1 for row in rows(tmp_path))
    artifacts.verify(tmp_path / "out/rec")


def test_what_is_wrong_with_a_recording_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(root / "a/good.wav", song(1))
    save(root / "a/silent.wav", np.zeros(9_000))
    save(root / "a/cancels.wav", song(2) * [[1, -1]])
    save(root / "a/clipped.wav", (9 * song(3)).clip(-1, 1))
    save(root / "a/no_samples.wav", np.zeros(0))
    bad = song(4)
    bad[100] = np.nan
    save(root / "a/nan.wav", bad, subtype="FLOAT")
    (root / "a/empty.ogg").write_bytes(b"")
    (root / "a/text.mp3").write_text("not a sound")
    (root / "a/phone.m4a").write_bytes(os.urandom(500))
    (root / "a/cut.flac").write_bytes(save(tmp_path / "x.flac", song(5)).read_bytes()[:3_000])
    (root / "a/locked.wav").symlink_to("nowhere")
    save(root / "lost.wav", song(6))
    summary = run(root, tmp_path)
    assert problems(tmp_path) == {
        "a/silent.wav": ("silent", True),
        "a/cancels.wav": ("silent", True),
        "a/clipped.wav": ("clipped", False),
        "a/no_samples.wav": ("empty", True),
        "a/nan.wav": ("unreadable", True),
        "a/empty.ogg": ("empty", True),
        "a/text.mp3": ("unreadable", True),
        "a/phone.m4a": ("unreadable", True),
        "a/cut.flac": ("unreadable", True),
        "a/locked.wav": ("unreadable", True),
        "lost.wav": ("file without label", True),
    }
    assert [row["id"] for row in rows(tmp_path)] == ["a/clipped.wav", "a/good.wav"]
    assert summary["bad_share"] == pytest.approx(10 / 12)
    assert (summary["clipped"], summary["excluded"]) == (1, 10)


def test_of_the_same_bytes_the_first_is_kept_and_other_labels_become_secondary(
    tmp_path: Path,
) -> None:
    root = tmp_path / "in"
    for name in ("a/1.wav", "a/2.wav", "b/1.wav", "c/1.wav"):
        save(root / f"train_short_audio/{name}", song(1))
    save(root / "train_short_audio/a/3.wav", song(2))
    table(root, "b,['d'],1.wav", "a,[],1.wav", "a,['b'],2.wav", "c,['a'],1.wav", "a,[],3.wav")
    summary = run(root, tmp_path, max_bad_share=0.0)
    first, other = rows(tmp_path)
    assert (first["id"], first["label"], first["secondary"]) == ("a/1.wav", "a", ["b", "d", "c"])
    assert (other["id"], other["secondary"]) == ("a/3.wav", [])
    assert (summary["duplicate"], summary["bad_share"]) == (3, 0)
    details = {row["id"]: row["detail"] for row in rows(tmp_path, "problems")}
    assert "labelled 'a', this one 'c'" in details["c/1.wav"]
    assert "c added to its secondary labels" in details["c/1.wav"]


def test_a_row_that_comes_twice_keeps_both_labels(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(root / "train_audio/a/1.wav", song(1))
    table(root, "a,[],a/1.wav", "b,['c'],a/1.wav", "a,[],a/1.wav")
    run(root, tmp_path)
    (row,) = rows(tmp_path)
    assert (row["label"], row["secondary"]) == ("a", ["b", "c"])
    assert [row["problem"] for row in rows(tmp_path, "problems")] == ["duplicate", "duplicate"]


def test_labels_without_files_and_files_without_labels_are_told(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(root / "train_short_audio/a/1.wav", song(1))
    save(root / "train_short_audio/a/unlisted.wav", song(2))
    save(root / "train_short_audio/a/faulty.wav", song(3))
    save(root / "train_soundscapes/other.wav", song(4))
    table(root, "a,[],1.wav", "a,[],missing.wav", "a,oops(,faulty.wav", "a,[],", ",[],x.wav")
    run(root, tmp_path)
    assert problems(tmp_path) == {
        "a/missing.wav": ("label without file", True),
        "a/unlisted.wav": ("file without label", True),
        "a/faulty.wav": ("bad metadata", True),
        "line 5": ("bad metadata", True),
        "x.wav": ("bad metadata", True),
    }
    assert [row["id"] for row in rows(tmp_path)] == ["a/1.wav"]


def test_odd_days_are_left_empty_but_the_recording_is_kept(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(root / "train_short_audio/a/1.wav", song(1))
    table(root, "a,1.wav,2013-00-00,7pm,train", columns="primary_label,filename,date,time,part")
    run(root, tmp_path, max_bad_share=0.0)
    (row,) = rows(tmp_path)
    assert row["date"] is None
    assert dict(row["extra"]) == {"date": "2013-00-00", "time": "7pm", "part": "train"}
    assert problems(tmp_path) == {"a/1.wav": ("bad metadata", False)}


def test_secondary_species_of_2020_are_translated_to_codes(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(root / "train_audio/aldfly/1.wav", song(1))
    save(root / "train_audio/robin/2.wav", song(2))
    (root / "train.csv").write_text(
        "ebird_code,filename,sci_name,secondary_labels\n"
        "aldfly,1.wav,Empidonax alnorum,\"['Erithacus rubecula_Robin', 'Parus x_Other']\"\n"
        "robin,2.wav,Erithacus rubecula,[]\n"
    )
    run(root, tmp_path)
    assert rows(tmp_path)[0]["secondary"] == ["robin", "Parus x_Other"]


@pytest.mark.parametrize("layout", ["birdclef2020", "birdclef2021", "birdclef2022", "folders"])
def test_the_layouts_give_the_same_recordings_as_folder_and_as_zip(
    tmp_path: Path, layout: str
) -> None:
    root = demo_data.write(tmp_path / "in", species=2, recordings=2, layout=layout)
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as pack:
        for file in sorted(root.rglob("*.*")):
            pack.write(file, f"wrapped/{file.relative_to(root)}")
    seen = []
    for source in (root, tmp_path / "in.zip"):
        run(source, tmp_path, max_bad_share=0.0)
        found = rows(tmp_path)
        seen.append([(row["id"], row["label"], row["sha256"]) for row in found])
        for row in found:
            data = storage.read_recording(row, tmp_path / "out/rec")
            assert hashlib.sha256(data).hexdigest() == row["sha256"]
    assert seen[0] == seen[1]
    assert next(row[0] for row in seen[0]) == "demswe1/DM00100000.flac"
    if layout != "folders":
        assert rows(tmp_path)[0]["author"]


def test_generated_recordings_are_ingested_like_others(tmp_path: Path) -> None:
    summary = run("demo:?species=3&recordings=2", tmp_path, max_bad_share=0.0)
    assert (summary["recordings"], summary["species"]) == (6, 3)
    row = rows(tmp_path)[0]
    assert len(storage.read_recording(row, tmp_path)) == row["size"]
    assert row["date"]
    assert row["author"]


def test_two_runs_over_the_same_source_give_the_same_bytes(birds: Path, tmp_path: Path) -> None:
    run(birds, tmp_path)
    first = artifacts.read_spec(tmp_path / "out/rec").sha256
    run(birds, tmp_path)
    assert artifacts.read_spec(tmp_path / "out/rec").sha256 == first


def test_a_snapshot_holds_the_bytes_when_the_source_is_gone(
    birds: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(snapshot, "SNAPSHOT_BYTES", 30_000)
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as pack:
        for file in sorted(birds.rglob("*.flac")):
            pack.write(file, file.relative_to(birds))
    run(tmp_path / "in.zip", tmp_path, snapshot=True)
    (tmp_path / "in.zip").unlink()
    artifact = artifacts.verify(tmp_path / "out/rec")
    assert sum(name.endswith(".tar") for name in artifact.files) > 1
    (tmp_path / "out/rec").rename(tmp_path / "moved")
    found = pq.read_table(tmp_path / "moved/recordings.parquet").to_pylist()
    for row in found:
        original = (birds / row["id"]).read_bytes()
        assert storage.read_recording(row, tmp_path / "moved") == original


def test_too_many_bad_recordings_fail_the_stage_with_reasons_and_leave_only_the_audit(
    birds: Path, tmp_path: Path
) -> None:
    root = tmp_path / "in"
    for number in range(8):
        save(root / f"a/{number}.wav", song(number))
    (root / "a/bad.wav").write_bytes(b"")
    (root / "a/worse.wav").write_text("text")
    with pytest.raises(DataError, match=r"20\.0 % .* 1 unreadable .*1 empty") as caught:
        run(root, tmp_path, max_bad_share=0.19)
    assert "max_bad_share" in str(caught.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["audit.html"]
    assert "worse.wav" in (tmp_path / "out/audit.html").read_text()
    run(root, tmp_path, max_bad_share=0.2)


def test_a_source_with_no_usable_recording_fails_whatever_is_borne(tmp_path: Path) -> None:
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/a/1.wav").write_bytes(b"")
    with pytest.raises(DataError, match="none of the recordings"):
        run(tmp_path / "in", tmp_path, max_bad_share=1.0)


def _no_recordings(root: Path) -> str:
    table(root, "a,[],1.ogg")
    return str(root)


def _no_column(root: Path) -> str:
    save(root / "train_audio/a/1.wav", song(1))
    table(root, "a,1.wav", columns="bird,file")
    return str(root)


def _not_text(root: Path) -> str:
    save(root / "train_audio/a/1.wav", song(1))
    (root / "train_metadata.csv").write_bytes(b"primary_label,filename\n\xff\xfe,1.wav\n")
    return str(root)


def _broken_zip(root: Path) -> str:
    root.mkdir()
    (root / "x.zip").write_bytes(b"PK\x03\x04" + bytes(500))
    return str(root / "x.zip")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_no_recordings, "holds no recordings"),
        (_no_column, "no column 'primary_label'"),
        (_not_text, "not a CSV table in UTF-8"),
        (_broken_zip, "not a whole zip"),
        (lambda root: str(root / "nowhere"), "does not exist"),
        (lambda root: "https://example.org/x.zip", "no place that birdsong reads"),
        (lambda root: "demo:?species=0", "must be a whole number"),
    ],
)
def test_a_wrong_source_gives_one_clear_error_and_nothing_half_written(
    tmp_path: Path, make, says: str
) -> None:
    with pytest.raises(BirdsongError, match=says):
        run(make(tmp_path / "in"), tmp_path)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_failed_run_keeps_the_artifact_of_the_run_before(birds: Path, tmp_path: Path) -> None:
    run(birds, tmp_path)
    before = artifacts.read_spec(tmp_path / "out/rec")
    with pytest.raises(StorageError):
        run(tmp_path / "nowhere", tmp_path)
    assert artifacts.read_spec(tmp_path / "out/rec") == before


def test_a_name_that_is_not_utf_8_is_listed_and_the_others_go_on(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for number in range(3):
        save(root / f"a/{number}.wav", song(number))
    (root / "a/2.wav").rename(root / os.fsdecode(b"a/bad\xe9.wav"))
    assert run(root, tmp_path)["recordings"] == 2
    assert problems(tmp_path) == {"a/bad\\udce9.wav": ("unreadable", True)}


def test_the_audit_shows_hostile_names_as_text(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(root / "a/1.wav", song(1))
    (root / "a/<script>alert(1)</script>.wav".replace("/script", "script")).write_bytes(b"")
    run(root, tmp_path)
    page = (tmp_path / "out/audit.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_audit_names_what_is_wrong_and_limits_long_lists(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(audit, "SHOWN_PROBLEMS", 3)
    monkeypatch.setattr(audit, "SHOWN_LICENCES", 2)
    root = tmp_path / "in"
    for number in range(4):
        save(root / f"train_audio/a/{number}.wav", song(number))
    lines = [f"a,a/{number}.wav,licence {number}" for number in range(9)]
    table(root, *lines, columns="primary_label,filename,license")
    run(root, tmp_path)
    page = (tmp_path / "out/audit.html").read_text()
    assert "The first 3 of 5" in page
    assert "2 other wordings" in page
    assert "listed in the table, but the file is not there" in page
    assert page.count('<svg role="img"') == 2


def test_results_come_in_order_and_few_are_under_way() -> None:
    started = []

    def items():
        for number in range(200):
            started.append(number)
            yield number

    for place, value in enumerate(recordings.in_order(lambda x: x * x, items(), workers=3)):
        assert value == place * place
        assert len(started) <= place + 7


def test_an_error_in_a_worker_ends_the_work() -> None:
    with pytest.raises(ZeroDivisionError):
        list(recordings.in_order(lambda x: 1 // (x - 50), range(10_000), workers=2))


_PROGRAM = """
import sys
from birdsong import recordings
from birdsong.config import IngestConfig
recordings.ingest(sys.argv[2], sys.argv[3], IngestConfig(source=sys.argv[1], max_bad_share=0))
lines = open("/proc/self/status").read().splitlines()
print("peak", next(line.split()[1] for line in lines if line.startswith("VmHWM")))
print("anonymous", next(line.split()[1] for line in lines if line.startswith("RssAnon")))
"""


def test_memory_does_not_grow_with_the_number_of_recordings(tmp_path: Path) -> None:
    used = {}
    for count in (600, 2_600):
        root = tmp_path / str(count)
        (root / "a").mkdir(parents=True)
        buffer = io.BytesIO()
        soundfile.write(buffer, song(1, 0.05), 22_050, format="WAV", subtype="PCM_16")
        data = bytearray(buffer.getvalue())
        for number in range(count):
            data[-4:] = number.to_bytes(4, "little")
            (root / f"a/{number}.wav").write_bytes(data)
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, root, tmp_path / "rec", tmp_path / "audit.html"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        used[count] = {
            line.split()[0]: int(line.split()[1])
            for line in done.stdout.splitlines()
            if line.startswith(("peak", "anonymous"))
        }
    # 2,000 more recordings may cost less than 3 kB each; their rows alone are kept on disk.
    assert used[2_600]["anonymous"] - used[600]["anonymous"] < 6_000, used
    assert used[2_600]["peak"] - used[600]["peak"] < 12_000, used


@pytest.mark.real
def test_real_recordings_are_all_found_with_their_metadata(tmp_path: Path) -> None:
    source = SHARED / "birds_real"
    if not source.is_dir():
        pytest.skip("shared data are absent")
    summary = run(source, tmp_path, max_bad_share=0.0)
    assert (summary["recordings"], summary["species"]) == (231, 25)
    assert summary["hours"] == pytest.approx(1.323, abs=0.01)
    found = rows(tmp_path)
    assert all(row["licence"] for row in found)
    assert sum(bool(row["secondary"]) for row in found) > 20


@pytest.mark.real
def test_a_real_table_without_its_audio_is_told_as_labels_without_files(tmp_path: Path) -> None:
    csv = SHARED / "birdclef2022_train_metadata.csv"
    if not csv.is_file():
        pytest.skip("shared data are absent")
    root = tmp_path / "in"
    root.mkdir()
    (root / "train_metadata.csv").write_bytes(csv.read_bytes())
    save(root / "train_audio/afrsil1/XC125458.ogg", song(1), format="OGG", subtype="VORBIS")
    summary = run(root, tmp_path)
    assert summary["label_without_file"] == 14_851
    assert summary["recordings"] == 1
    assert rows(tmp_path)[0]["common_name"] == "African Silverbill"
