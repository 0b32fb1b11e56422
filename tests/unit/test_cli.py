"""The command line: what it refuses, what it says, how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from birdsong.cli import doctor, main, run
from birdsong.profiles import PROFILES
from birdsong.runs import plan, record
from birdsong.runs.record import State, Step
from birdsong.runs.recorder import Recorder

ROOT = Path(__file__).resolve().parents[2]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def birdsong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Command]:
    """Runs a command in this process, in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["birdsong", *arguments])
        code = main.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    yield command
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("epoch=3", "no such parameter. Did you mean epochs?"),
        ("zzzz=3", "Known: source, layout"),
        ("epochs", "write it as name=value"),
        ("=3", "write it as name=value"),
        ("epochs=three", "epochs: needs a whole number, got 'three'"),
        ("epochs=3.5", "epochs: needs a whole number"),
        ("epochs=0", "epochs: Input should be greater than or equal to 1"),
        ("trial_epochs=0", "trial_epochs: Input should be greater"),
        ("target_fpr=nan", "target_fpr: needs a finite number"),
        ("target_fpr=one", "target_fpr: needs a number"),
        ("target_fpr=1.5", "target_fpr: Input should be less than 1"),
        ("snapshot=perhaps", "snapshot: needs true or false"),
        ("backbone=resnet", "backbone: Input should be 'tiny'"),
        ("gate=open", "gate: Input should be 'none'"),
        ("group_by=moon", "group_by knows author, date and place"),
        ("test_fraction=0.99", "nothing is left to train on"),
        ("weights_sha256=abc", "weights_sha256"),
        ("target=sagemaker", "target: sagemaker deploys versions of SageMaker's registry"),
        ("target=sagemaker", "endpoint_role is empty"),
        ("registry=sagemaker://my-birds/x", "serve_image is ''"),
        ("registry=sagemaker://My_Birds/x", "sagemaker://BUCKET/PREFIX"),
        ('endpoint_options={"alarm": []}', "endpoint_options: alarm"),
        ("registry=mlruns", "registry 'mlruns' is not understood"),
        ("registry=sqlite:mlflow.db", "registry 'sqlite:mlflow.db' is not understood"),
        ("registry=http://[mlflow", "is no address"),
        ("registry=http://me:word@mlflow", "registry: a name or password does not belong"),
        ("source=ftp://me:word@host", "source: a name or password does not belong"),
        ("weights=nowhere/best.weights.h5", "nowhere/best.weights.h5 does not exist"),
        ("weights=imagenet", "backbone tiny has no ImageNet weights"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_before_anything_starts(
    birdsong: Command, setting: str, said: str
) -> None:
    code, _, err = birdsong("run", "--set", setting)
    assert code == 2
    assert "word@" not in err
    assert said in err
    assert "Traceback" not in err
    assert list(Path().iterdir()) == []


def test_several_findings_are_told_at_once(birdsong: Command) -> None:
    code, _, err = birdsong("run", "--set", "epochs=0", "--set", "seconds=1", "--set", "golden=0")
    assert code == 2
    assert all(f"{name}: Input" in err for name in ("epochs", "seconds", "golden"))


def test_pictures_too_small_for_the_network_are_refused(birdsong: Command) -> None:
    code, _, err = birdsong("run", "--set", "backbone=inception_v3", "--set", "front_end=small")
    assert code == 2
    assert "front_end: small is too small for inception_v3" in err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere", "there is nothing"),
        ("ftp://host/birds", "not a place that can be read"),
        ("s3://", "name a bucket"),
        ("demo:?birds=3", "'birds' is unknown"),
    ],
)
def test_a_source_that_cannot_be_is_refused_at_once(
    birdsong: Command, source: str, said: str
) -> None:
    code, _, err = birdsong("run", "--source", source)
    assert (code, said in err) == (2, True), err
    assert list(Path().iterdir()) == []


def test_a_folder_without_recordings_is_refused(birdsong: Command) -> None:
    Path("empty").mkdir()
    code, _, err = birdsong("run", "--source", "empty")
    assert code == 2
    assert "no recordings found" in err


def test_a_broken_zip_is_refused(birdsong: Command) -> None:
    Path("birds.zip").write_bytes(b"PK no zip")
    code, _, err = birdsong("run", "--source", "birds.zip", "--dry-run")
    assert code == 2
    assert "zip cannot be read" in err


def test_a_name_that_is_not_utf_8_does_not_stop_the_plan(birdsong: Command) -> None:
    write_songs(Path("songs"), 4, 3.0)
    Path(os.fsdecode(b"songs/sp0/bad\xe9.wav")).write_bytes(b"no song")
    code, out, err = birdsong("run", "--source", "songs", "--dry-run")
    assert (code, err) == (0, "")
    assert "recordings  5," in out


def test_the_plan_follows_links_to_folders_and_passes_by_links_to_nothing(
    birdsong: Command,
) -> None:
    write_songs(Path("elsewhere"), 6, 2.0)
    Path("songs").mkdir()
    for name in ("sp0", "sp1"):
        Path("songs", name).symlink_to(Path("elsewhere", name).absolute())
    Path("songs/gone.wav").symlink_to("nowhere.wav")
    Path("elsewhere/sp0/loop").symlink_to(Path("elsewhere").absolute())
    code, out, err = birdsong("run", "--source", "songs", "--dry-run")
    assert (code, err) == (0, "")
    assert "recordings  6," in out


def test_a_failed_ingest_names_its_audit_by_a_name_that_browsers_open(birdsong: Command) -> None:
    write_songs(Path("songs"), 2, 2.0)
    for number in range(4):
        Path(f"songs/sp0/broken{number}.wav").write_bytes(b"no sound")
    code, out, _ = birdsong("run", "--source", "songs")
    assert code == 1
    (page,) = Path("runs").glob("*/pages/ingest.audit.html")
    assert f"The audit lists them: {page.absolute()}" in out
    assert "page     " in out
    assert "broken3.wav" in page.read_text()
    assert "when that is mended" in out
    code, out, _ = birdsong("runs", "show", "latest")
    assert "audit: " in out


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_one_damaged_member_of_a_zip_does_not_stop_the_plan(birdsong: Command, method: int) -> None:
    write_songs(Path("songs"), 6, 2.0)
    with zipfile.ZipFile("songs.zip", "w", method) as archive:
        for place in sorted(Path("songs").rglob("*.wav")):
            archive.write(place)
        begin = archive.infolist()[2].header_offset
    data = bytearray(Path("songs.zip").read_bytes())
    data[begin + 50 : begin + 70] = b"\xff" * 20
    Path("songs.zip").write_bytes(data)
    code, out, err = birdsong("run", "--source", "songs.zip", "--dry-run")
    assert (code, err) == (0, "")
    assert "recordings  6," in out
    assert "5 of 6 recordings" in out


def test_a_huge_member_of_a_zip_is_not_read_for_its_duration(
    birdsong: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_songs(Path("songs"), 6, 2.0)
    soundfile.write("songs/long.wav", np.zeros(8000 * 20), 8000)
    with zipfile.ZipFile("songs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for place in sorted(Path("songs").rglob("*.wav")):
            archive.write(place)
    monkeypatch.setattr(plan, "_LARGEST_MEMBER", 100_000)
    code, out, _ = birdsong("run", "--source", "songs.zip", "--dry-run")
    assert code == 0
    assert "6 of 7 recordings" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--bogus"],
        ["run", "--profile", "huge"],
        ["fly"],
        ["compile"],
        ["runs", "show"],
        ["compile", "out.txt"],
        ["compile", "out.json"],
        ["compile", "out"],
        ["runs", "show", "latest"],
    ],
)
def test_wrong_use_ends_with_2_and_no_traceback(birdsong: Command, arguments: list[str]) -> None:
    code, _, err = birdsong(*arguments)
    assert code == 2
    assert err
    assert "Traceback" not in err


def test_the_profiles_of_the_option_are_those_of_the_settings() -> None:
    assert {profile.value for profile in run.Profile} == set(PROFILES)


def write_songs(folder: Path, count: int, seconds: float) -> None:
    for number in range(count):
        place = folder / f"sp{number % 2}" / f"{number}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(place, np.zeros(round(8000 * seconds)), 8000)


def test_a_dry_run_counts_a_folder_and_starts_nothing(birdsong: Command) -> None:
    write_songs(Path("songs"), 10, 3.0)
    (Path("songs") / "notes.txt").write_text("no song")
    code, out, _ = birdsong("run", "--source", "songs", "--dry-run", "--set", "seconds=30")
    assert code == 0
    assert "recordings  10," in out
    assert "about 30.0 s" in out
    assert "about 1.3 MB" in out  # 30 s of 44,100 bytes
    assert "estimates" in out
    assert all(name in out for name in ("ingest", "evaluate-threshold", "deploy", "free"))
    assert sorted(place.name for place in Path().iterdir()) == ["songs"]


def test_a_dry_run_counts_a_zip_as_it_counts_the_folder(birdsong: Command) -> None:
    write_songs(Path("songs"), 6, 2.0)
    with zipfile.ZipFile("songs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for place in sorted(Path("songs").rglob("*.wav")):
            archive.write(place)
    _, of_folder, _ = birdsong("run", "--source", "songs", "--dry-run")
    _, of_zip, _ = birdsong("run", "--source", "songs.zip", "--dry-run")
    assert of_folder.splitlines()[1:4] == of_zip.splitlines()[1:4]


def test_only_the_seconds_that_are_kept_count_for_the_disk(tmp_path: Path) -> None:
    write_songs(tmp_path / "songs", 2, 20.0)
    values = {"source": str(tmp_path / "songs"), "seconds": 5.0, "encoding": "pcm"}
    values |= {"snapshot": False, "backbone": "tiny", "front_end": "small", "epochs": 1}
    values |= {"trials": 0, "trial_epochs": 1, "target": "none"}
    values |= {"calibration_fraction": 0.1, "test_fraction": 0.1}
    made = plan.make(values, tmp_path / "runs", ["ingest"])
    assert made.audio_seconds == pytest.approx(40, rel=0.01)
    assert made.features_bytes == pytest.approx(2 * 5 * 44_100, rel=0.01)


def test_a_run_that_does_not_fit_on_the_disk_is_refused(
    birdsong: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_free", lambda place: 1_000_000)
    for more in (["--dry-run"], []):
        code, _, err = birdsong("run", *more)
        assert code == 2
        assert "1.0 MB free" in err
        assert not Path("runs").exists()


def test_a_bucket_is_not_asked_by_a_dry_run(birdsong: Command) -> None:
    code, out, _ = birdsong("run", "--source", "s3://birds/2021", "--dry-run")
    assert code == 0
    assert "recordings  unknown" in out
    assert "listed by ingest" in out


@pytest.mark.parametrize("name", ["dag.yaml", "dag.yml", "new/dag.yaml"])
def test_compile_writes_the_pipeline(birdsong: Command, name: str) -> None:
    code, out, _ = birdsong("compile", name)
    assert code == 0
    assert name in out
    document = next(yaml.safe_load_all(Path(name).read_text()))
    assert document["pipelineInfo"]["name"] == "birdsong"
    assert [place.name for place in Path(name).parent.iterdir()] == [Path(name).name]


def some_runs(folder: Path) -> Recorder:
    steps = {name: Step(name=name) for name in ("one", "evaluate-threshold")}
    ir: dict[str, Any] = {"pipelineInfo": {"name": "p"}, "root": {}}
    recorder = Recorder(folder, ir, {"source": "demo:[x]"}, steps)
    now = record.now()
    recorder.update("one", state=State.SUCCEEDED, started=now, ended=now, metrics={"x": 0.25})
    recorder.update(
        "evaluate-threshold", state=State.FAILED, started=now, ended=now, error="[no] birds"
    )
    recorder.finish(State.FAILED, "evaluate-threshold: [no] birds")
    return recorder


def test_runs_are_listed_and_shown(birdsong: Command) -> None:
    recorder = some_runs(Path("runs"))
    code, out, _ = birdsong("runs", "list")
    assert code == 0
    assert all(text in out for text in (recorder.run.id, "FAILED", "demo:[x]"))
    assert "at evaluate-threshold" in out
    code, out, _ = birdsong("runs", "show", recorder.run.id[:-1])
    assert code == 0
    assert "x = 0.25" in out
    assert "[no] birds" in out
    code, out, _ = birdsong("runs", "show", "latest", "--json")
    assert json.loads(out)["steps"][1]["error"] == "[no] birds"


def test_no_runs_are_said_to_be_none(birdsong: Command) -> None:
    Path("none").mkdir()
    code, out, _ = birdsong("runs", "list", "--runs", "none")
    assert (code, out) == (0, "No runs in none.\n")


def test_a_place_that_is_no_folder_of_runs_is_not_said_to_hold_none(birdsong: Command) -> None:
    Path("file").write_text("")
    for name, said in (("file", "it is a file"), ("gone", "it is not there")):
        code, out, err = birdsong("runs", "list", "--runs", name)
        assert (code, out) == (2, "")
        assert said in err


def test_serve_looks_for_its_registry_in_the_runs_folder_of_the_environment(
    birdsong: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIRDSONG_RUNS", "my-runs")
    code, _, err = birdsong("serve")
    assert code == 2
    assert "my-runs/registry/mlflow.db" in err


def test_a_console_that_knows_only_ascii_gets_words(tmp_path: Path) -> None:
    some_runs(tmp_path)
    done = subprocess.run(
        [sys.executable, str(ROOT / "pipeline.py"), "runs", "show", "latest"],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "BIRDSONG_RUNS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ok one" in done.stdout
    assert "FAILED evaluate-threshold" in done.stdout


def test_doctor_says_that_runs_work_here_and_what_else_is_missing(birdsong: Command) -> None:
    code, out, _ = birdsong("doctor", "--json")
    findings = json.loads(out)
    assert code == 0, findings["ways"]["processes"]
    assert findings["packages"]["kfp"].startswith("2.17.")
    assert set(findings["ways"]) == {"processes", "docker", "kubeflow", "sagemaker"}
    assert findings["machine"]["cores"] >= 1
    code, out, _ = birdsong("doctor")
    assert code == 0
    assert "ready    run here, a process per step" in out
    lacks = findings["ways"]["sagemaker"]
    assert bool(lacks) == (not findings["credentials"]["aws"])
    assert out.count("ready  ") == sum(not lacks for lacks in findings["ways"].values())


def test_doctor_says_what_is_missing_for_containers(
    birdsong: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/docker.sock")
    code, out, _ = birdsong("doctor")
    assert code == 0
    assert "not yet  run here, a container per step" in out
    assert "No container engine answers at /no/such/docker.sock" in out


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_run_in_containers_without_an_engine_is_refused_before_it_starts(
    birdsong: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: list[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/docker.sock")
    runs = tmp_path / "runs"
    code, _, err = birdsong("run", "--runner", "docker", "--runs", str(runs), *more)
    assert code == 2
    assert "No container engine answers" in err
    assert not runs.exists()


def test_doctor_never_prints_a_credential(
    birdsong: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    code, out, err = birdsong("doctor")
    assert code == 0
    assert "SECRET" not in (out + err).upper().replace("CREDENTIALS", "")
    assert "aws credentials" in out


@pytest.mark.parametrize(
    ("environment", "files", "present"),
    [
        ({}, [], False),
        ({"AWS_ACCESS_KEY_ID": "x"}, [], False),
        ({"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}, [], True),
        ({"AWS_PROFILE": "birds"}, [], True),
        ({}, [".aws/credentials"], True),
    ],
)
def test_credentials_are_seen_by_their_place(
    tmp_path: Path, environment: dict[str, str], files: list[str], present: bool
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    assert doctor.aws_credentials(environment, tmp_path) is present


def test_packages_that_do_not_fit_are_named_with_what_is_needed() -> None:
    installed: dict[str, str | None] = dict.fromkeys(doctor.FITTING, "2.0")
    installed |= {"kfp": "2.99.0", "soxr": None}
    problems = doctor.package_problems(installed)
    assert any(text.startswith("kfp is 2.99.0, 2.17.x is needed") for text in problems)
    assert "soxr is not installed (resampling)." in problems


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_run_is_there_ends_with_130(
    tmp_path: Path, number: signal.Signals
) -> None:
    child = subprocess.Popen(
        [sys.executable, str(ROOT / "pipeline.py"), "run", "--runs", str(tmp_path / "runs")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # kfp's first compiled module is mapped: the handlers stand, and there is no run yet.
    deadline = time.monotonic() + 60
    while "_message" not in Path(f"/proc/{child.pid}/maps").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert not (tmp_path / "runs").exists()
    child.send_signal(number)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 130, out
    assert "Traceback" not in out
