"""Fixtures of the tests on it: a server, and a process' environment that reaches nothing else."""

import os
import runpy
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made_jobs
import pytest

from birdsong.aws import endpoint
from birdsong.aws.settings import JOBS_OF, VARIABLE
from sagemaker_server.programs import HERE, MADE, RESOLVED, Process
from sagemaker_server.server import REGION, Server
from sagemaker_server.serving import MADE_SERVE


@pytest.fixture
def resolved(tmp_path: Path) -> Path:
    """The file with the names outside of this machine that somebody wanted to resolve."""
    return tmp_path / "resolved.txt"


@pytest.fixture
def surroundings(server: Server, resolved: Path) -> dict[str, str]:
    """Variables of a process for which the server is AWS, and nothing else is there."""
    search = [str(HERE / "offline"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "AWS_ENDPOINT_URL": server.address,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "SAGEMAKER_USER_CONFIG_OVERRIDE": os.devnull,
        RESOLVED: str(resolved),
        "PYTHONPATH": os.pathsep.join(search),
    }


@pytest.fixture
def only_here(resolved: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody may look for a name outside of this machine: not this process, in which steps run, and
    none of those that it starts with `surroundings`.
    """
    monkeypatch.setenv(RESOLVED, str(resolved))  # for the programs of the server's jobs
    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)  # which is put back
    runpy.run_path(str(HERE / "offline" / "sitecustomize.py"))
    yield
    assert not resolved.exists(), resolved.read_text()


@pytest.fixture
def server(only_here: None) -> Iterator[Server]:
    """The server, with the cheap program."""
    with Server(Process(MADE)).running() as one:
        yield one


@pytest.fixture(scope="session")
def job_inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artifacts that train and tune take."""
    return made_jobs.write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch, surroundings: dict[str, str]) -> Callable[..., None]:
    """Gives this process the environment of a step, with these settings of the jobs."""
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BIRDSONG_SAGEMAKER_INTERVAL", "0.1")
    monkeypatch.setenv("BIRDSONG_AWS_TIMEOUT", "1")
    monkeypatch.setenv(JOBS_OF, made_jobs.RUN)

    def set_up(**more: Any) -> None:
        monkeypatch.setenv(VARIABLE, made_jobs.settings(**more).model_dump_json())

    return set_up


@pytest.fixture
def in_deploy(
    server: Server,
    surroundings: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Gives this process the environment of register and deploy; endpoints run the cheap server."""
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BIRDSONG_AWS_TIMEOUT", "1")
    monkeypatch.setattr(endpoint, "POLL_SECONDS", 0.02)
    server.serves = MADE_SERVE
    yield
    assert not server.faults.waiting


@pytest.fixture
def step(in_step: Callable[..., None], job_inputs: dict[str, Path], tmp_path: Path) -> Any:
    """The step train in this process: a function of settings of the jobs."""

    def train(**more: Any) -> dict[str, float]:
        in_step(**more)
        return made_jobs.train(job_inputs, tmp_path / "out")

    return train


@pytest.fixture
def search_step(in_step: Callable[..., None], job_inputs: dict[str, Path], tmp_path: Path) -> Any:
    """The step tune in this process: a function of trials, space and settings of the jobs."""

    def tune(trials: int = 4, space: str = "", **more: Any) -> dict[str, float]:
        in_step(**more)
        return made_jobs.tune(job_inputs, tmp_path / "out", trials, space)

    return tune
