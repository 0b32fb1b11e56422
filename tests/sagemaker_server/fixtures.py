"""Fixtures of the tests on it: a server, and a process' environment that reaches nothing else."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sagemaker_server.programs import HERE, MADE, Process
from sagemaker_server.server import REGION, Server


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
        "BIRDSONG_TEST_RESOLVED": str(resolved),
        "PYTHONPATH": os.pathsep.join(search),
    }


@pytest.fixture
def server(resolved: Path) -> Iterator[Server]:
    """The server, with the cheap program; at its end nobody may have looked for a name outside."""
    with Server(Process(MADE)).running() as one:
        yield one
    assert not resolved.exists(), resolved.read_text()
