"""SageMaker's contract of containers: `train` and `serve` as it starts them, and what can go wrong.

As root, with /opt/ml from outside and no ENTRYPOINT. What SageMaker adds to that (its agents, its
network, how long it waits) cannot be tried here.
"""

import io
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from made_demo import DemoRun
from made_features import Take, song, write_features

from birdsong import artifacts
from birdsong.runs import record
from components import images

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("engine")]

SMALL = {
    "backbone": "tiny",
    "weights": "none",
    "front_end": "small",
    "epochs": "1",
    "batch_size": "2",
}
LONGEST_FAILURE = 1024


@pytest.mark.parametrize("target", ["train", "serve"])
def test_sagemakers_image_is_the_same_but_for_its_user(engine: Any, target: str) -> None:
    plain = engine.api.inspect_image(images.reference(target))
    theirs = engine.api.inspect_image(images.for_sagemaker(target))
    assert theirs["RootFS"]["Layers"] == plain["RootFS"]["Layers"]
    assert theirs["Config"]["User"] == "0:0"
    assert not theirs["Config"]["Entrypoint"]
    assert theirs["Config"]["Labels"] == plain["Config"]["Labels"]


# --- train ----------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """What SageMaker lays out for a job; as there, only root may write into it."""
    takes = [
        Take(code, [song(hertz, 2, seed=n)], part="train" if n else "validation")
        for code, hertz in (("low", 700.0), ("high", 5000.0))
        for n in range(4)
    ]
    for folder in ("input/config", "input/data", "model", "output/data", "checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    write_features(tmp_path / "input/data/development", ["low", "high"], takes)
    channel = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
    tell(tmp_path, "hyperparameters", SMALL)
    tell(tmp_path, "inputdataconfig", {"development": channel})
    tell(tmp_path, "resourceconfig", {"current_host": "algo-1", "hosts": ["algo-1"]})
    tell(tmp_path, "checkpointconfig", {"LocalPath": "/opt/ml/checkpoints"})
    tmp_path.chmod(0o755)
    return tmp_path


def tell(root: Path, name: str, values: object) -> None:
    (root / "input" / "config" / f"{name}.json").write_text(json.dumps(values))


def train(root: Path, *options: str, stop_after: float | None = None) -> tuple[int, str]:
    """A job as SageMaker starts it; with `stop_after` it is stopped so long after its first epoch.

    Returns:
        Its exit code and what it printed.
    """
    name = f"birdsong-train-{os.getpid()}"
    start = ("docker", "run", "--name", name, "--network", "none", "--volume", f"{root}:/opt/ml")
    child = subprocess.Popen(
        [*start, *options, images.for_sagemaker("train"), "train"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        if stop_after is not None:
            deadline = time.monotonic() + 120
            while not any((root / "checkpoints").rglob("*.npz")) and child.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            time.sleep(stop_after)
            began = time.monotonic()
            subprocess.run(["docker", "stop", "--time", "120", name], check=True)
            assert time.monotonic() - began < 60
        said, _ = child.communicate(timeout=300)
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)
    return child.returncode, said


def failure(root: Path) -> str:
    """What SageMaker would tell as the job's reason."""
    text = (root / "output" / "failure").read_text()
    assert 0 < len(text) <= LONGEST_FAILURE
    return text


def test_a_job_that_is_stopped_goes_on_where_it_was(job: Path) -> None:
    (job / "input/data/notes").mkdir()
    (job / "input/data/notes/file").write_bytes(b"a channel that is not for it is left alone")
    tell(job, "hyperparameters", SMALL | {"epochs": "40"})
    code, said = train(job, stop_after=0.5)
    assert code == 143, said
    assert not (job / "output" / "failure").exists()
    assert any((job / "checkpoints").rglob("*.npz"))
    code, said = train(job)
    assert code == 0, said
    assert "metric best_epoch=" in said
    assert artifacts.verify(job / "model" / "model").kind == "model"
    first = next(line for line in said.splitlines() if line.endswith("/40 epochs"))
    assert " 0/40 " not in first, said


def test_a_missing_channel_is_told_by_its_name(job: Path) -> None:
    (job / "input/data/development").rename(job / "input/data/train")
    code, _ = train(job)
    assert code == 1
    assert "no channel development" in failure(job)
    assert not any((job / "model").iterdir())


def test_a_bad_hyperparameter_is_told_by_its_name(job: Path) -> None:
    tell(job, "hyperparameters", SMALL | {"epochs": "none"})
    code, _ = train(job)
    assert code == 1
    assert "epochs" in failure(job)


def test_a_full_disk_is_told_as_such(job: Path) -> None:
    code, said = train(job, "--tmpfs", "/opt/ml/model:size=64k")
    assert code == 1, said
    assert "disk is full" in failure(job), said
    assert "larger volume" in failure(job)


def test_where_not_even_the_reason_fits_the_log_tells_it(job: Path) -> None:
    tell(job, "hyperparameters", SMALL | {"epochs": "none"})
    code, said = train(job, "--volume", f"{job}/output:/opt/ml/output:ro")
    assert code == 1
    assert "epochs" in said.splitlines()[-1]


# --- serve ----------------------------------------------------------------------------------------


@pytest.fixture
def bundle(demo_run: DemoRun) -> Path:
    """The bundle of the demo run."""
    found = record.find(demo_run.runs, "latest")
    return Path(found.steps["register"].outputs["version"]["path"]) / "bundle"


@pytest.fixture
def server(engine: Any, bundle: Path) -> Iterator[str]:
    """The address of the image serve, as SageMaker starts it; it must also stop as it asks."""
    name = f"birdsong-serve-{os.getpid()}"
    start = ("docker", "run", "--detach", "--name", name, "--volume", f"{bundle}:/opt/ml/model:ro")
    port = ("--publish", "127.0.0.1::8080")
    subprocess.run(
        [*start, *port, images.for_sagemaker("serve"), "serve"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{engine.api.port(name, 8080)[0]['HostPort']}"
        began = time.monotonic()
        subprocess.run(["docker", "stop", "--time", "30", name], check=True, capture_output=True)
        assert time.monotonic() - began < 29
        assert engine.api.inspect_container(name)["State"]["ExitCode"] == 0
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)


def wait_until_ready(server: str) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(f"{server}/ping", timeout=2) as answer:  # noqa: S310
                assert answer.status == 200
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def invoke(server: str, data: bytes, kind: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(  # noqa: S310
        f"{server}/invocations", data=data, headers={"Content-Type": kind}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_serve_answers_recordings_and_refuses_what_is_none(server: str) -> None:
    wait_until_ready(server)
    status, found = invoke(server, tone(), "audio/flac")
    assert status == 200
    assert len(found["windows"]) == 1, found
    status, problem = invoke(server, b"not a recording", "application/octet-stream")
    assert (status, problem["code"]) == (422, "unreadable")


def test_serve_without_a_bundle_says_so_and_ends(tmp_path: Path) -> None:
    start = ("docker", "run", "--rm", "--network", "none", "--volume", f"{tmp_path}:/opt/ml/model")
    done = subprocess.run(
        [*start, images.for_sagemaker("serve"), "serve"],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 1
    assert "bundle.json" in done.stderr
    assert "Traceback" not in done.stderr


def tone() -> bytes:
    """Six seconds of a tone as FLAC."""
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.sin(np.arange(6 * 22_050) / 3), 22_050, format="FLAC")
    return file.getvalue()
