"""The step train in the image `cloud`, as a run starts it, and its job in the image `train`, on the
server that stands for SageMaker.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_demo import ROOT, DemoRun
from sagemaker_server.programs import Container
from sagemaker_server.server import BUCKET, REGION, Server

from birdsong import artifacts
from birdsong.runs import record
from components import images

pytestmark = [
    pytest.mark.docker,
    pytest.mark.usefixtures("engine"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture
def runs(demo_run: DemoRun, tmp_path: Path) -> Path:
    """A copy of the undisturbed run's folder, whose records follow."""
    assert demo_run.exit_code == 0, demo_run.output
    shutil.copytree(demo_run.runs, tmp_path / "runs")
    (tmp_path / "jobs.yaml").write_text(
        "role: arn:aws:iam::123456789012:role/birdsong-job\n"
        f"place: s3://{BUCKET}/birds\nregion: {REGION}\n"
        f"image: {images.for_sagemaker('train')}\n"
    )
    return tmp_path / "runs"


@pytest.fixture
def birdsong(
    surroundings: dict[str, str], runs: Path
) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts a command whose containers see this machine's network, for the server is there."""
    files = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")  # which would be mounted
    here = {name: value for name, value in surroundings.items() if name not in files}
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "pipeline.py"), *arguments, "--runs", str(runs)],
            env={**os.environ, **here, "BIRDSONG_DOCKER_NETWORK": "host"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=runs.parent,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def rerun_train(runs: Path, *more: str) -> list[str]:
    """Train again as a job, its step in a container."""
    start = ["rerun", record.find(runs, "latest").id, "--only", "train", "--runner", "docker"]
    return [*start, "--sagemaker", str(runs.parent / "jobs.yaml"), *more]


def until(seconds: float, found: Callable[[], Any]) -> None:
    give_up = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < give_up
        time.sleep(0.2)


def test_a_step_in_its_container_drives_a_job_in_another_one_to_the_same_model(
    server: Server, birdsong: Callable[..., "subprocess.Popen[str]"], runs: Path
) -> None:
    before = record.find(runs, "latest").steps["train"]
    server.program = Container()
    done = birdsong(*rerun_train(runs))
    output, _ = done.communicate()
    assert done.returncode == 0, output
    run = record.find(runs, "latest")
    step = run.steps["train"]
    executors = artifacts.read_json(run.folder / record.PIPELINE)["deploymentSpec"]["executors"]
    assert executors["exec-train"]["container"]["image"] == images.reference("cloud")
    assert step.container
    [name] = server.names
    assert server.job(name).request["AlgorithmSpecification"]["TrainingImage"] == (
        images.for_sagemaker("train")
    )
    assert artifacts.verify(step.outputs["model"]["path"]).kind == "model"
    assert step.metrics["epochs"] == before.metrics["epochs"]
    # Another build of TensorFlow's libraries may round otherwise.
    assert step.metrics["validation_accuracy"] == pytest.approx(
        before.metrics["validation_accuracy"], abs=0.05
    )
    assert step.metrics["billed_seconds"] > 0
    log = Path(str(step.log)).read_text()
    assert "progress train 3/3 epochs" in log
    assert "testing" not in Path(run.folder, "run.json").read_text(), "a key is in the record"


def test_a_run_in_containers_that_is_interrupted_stops_its_job(
    server: Server, birdsong: Callable[..., "subprocess.Popen[str]"], runs: Path
) -> None:
    server.program = Container()
    started = birdsong(*rerun_train(runs, "--set", "epochs=5000", "--set", "patience=0"))
    until(120, lambda: server.names and server.job(server.names[0]).secondary == "Training")
    run = record.find(runs, "latest")
    started.send_signal(signal.SIGINT)
    output, _ = started.communicate()
    assert started.returncode == 130, output
    job = server.job(server.names[0])
    job.thread.join(60)
    assert job.status == "Stopped"
    log = Path(str(record.find(runs, run.id).steps["train"].log)).read_text()
    assert f"cancelled, stopped {job.name}" in log, log[-2000:]
    assert server.at_work == []
