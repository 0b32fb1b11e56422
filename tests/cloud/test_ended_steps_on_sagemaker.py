"""The step train as a process that is cancelled or killed while its job is at work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from made_jobs import RUN, With, settings
from sagemaker_server.server import Server

from birdsong import artifacts
from birdsong.aws.settings import JOBS_OF, VARIABLE

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


STEP = """
import sys
from birdsong.aws import train_step
from birdsong.config import TrainConfig
train_step.train(*sys.argv[1:], TrainConfig(backbone="tiny", weights="none", front_end="small",
    epochs=3))
"""


def _start(
    surroundings: dict[str, str],
    inputs: dict[str, Path],
    out: Path,
    **more: Any,
) -> "subprocess.Popen[str]":
    places = [inputs["development"], inputs["hyperparameters"], out / "model", out / "curves.html"]
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", STEP, *map(str, places)],
        env={
            **os.environ,
            **surroundings,
            "PYTHONPATH": f"{surroundings['PYTHONPATH']}{os.pathsep}{root}",
            "PYTHONUNBUFFERED": "1",
            "BIRDSONG_SAGEMAKER_INTERVAL": "0.1",
            JOBS_OF: RUN,
            VARIABLE: settings(**more).model_dump_json(),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _until_it_trains(server: Server) -> None:
    for _ in range(900):
        if server.names and server.job(server.names[-1]).secondary == "Training":
            return
        time.sleep(0.1)
    raise AssertionError("the job did not start")


@pytest.mark.parametrize("on_cancel", ["stop", pytest.param("leave", marks=pytest.mark.slow)])
def test_a_cancelled_step_stops_its_job_or_leaves_it_as_told(
    surroundings: dict[str, str],
    server: Server,
    job_inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    on_cancel: str,
) -> None:
    monkeypatch.setattr(server, "program", With(server.program, {"MADE_SECONDS": "20"}))
    process = _start(surroundings, job_inputs, tmp_path, on_cancel=on_cancel)
    _until_it_trains(server)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    job = server.job(server.names[0])
    if on_cancel == "stop":
        assert f"cancelled, stopped {job.name}" in output
        job.thread.join(20)
        assert job.status == "Stopped"
    else:
        assert f"{job.name} goes on" in output
        assert job.status == "InProgress"
    assert not (tmp_path / "model").exists()


@pytest.mark.slow  # of a whole run: test_dag_on_sagemaker.py
def test_a_killed_step_finds_its_job_again_so_that_there_is_exactly_one(
    surroundings: dict[str, str],
    server: Server,
    job_inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = tmp_path / "gate"
    monkeypatch.setattr(server, "program", With(server.program, {"MADE_GATE": str(gate)}))
    process = _start(surroundings, job_inputs, tmp_path)
    _until_it_trains(server)
    process.kill()
    process.communicate()
    assert server.at_work == server.names
    again = _start(surroundings, job_inputs, tmp_path)
    output = ""
    while f"found the training job {server.names[0]} (InProgress)" not in output:
        assert again.stdout is not None
        line = again.stdout.readline()
        assert line, output
        output += line
    gate.touch()
    rest, _ = again.communicate(timeout=120)
    output += rest
    assert again.returncode == 0, output
    assert "progress train 1/3 epochs" in output, "the log is told from its beginning"
    assert len(server.names) == 1
    assert artifacts.verify(tmp_path / "model").kind == "model"
