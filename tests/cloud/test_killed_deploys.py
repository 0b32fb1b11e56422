"""deploy to SageMaker, killed by `kill -9` at any of its calls, and tried again."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_demo import ROOT
from made_endpoints import SETTINGS, deploy, names, register, served
from sagemaker_server.server import REGION, Server

from birdsong.aws import endpoint
from birdsong.golden_gate import GateError

pytestmark = [
    pytest.mark.usefixtures("in_deploy"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

STEP = """
import json, sys
from birdsong import deployment
from birdsong.aws import endpoint
from birdsong.config import DeployConfig
endpoint.POLL_SECONDS = 0.02
deployment.deploy(sys.argv[1], sys.argv[2], DeployConfig(**json.loads(sys.argv[3])))
"""

Moment = tuple[str, str, int]
"""A call, whether before or after it is carried out, and how many of the same pass first."""

ASKS = ("DescribeModelPackage", "DescribeModel", "DescribeEndpointConfig", "ListEndpointConfigs")
FIRST: list[Moment] = [
    *((call, "before", 0) for call in (*ASKS, "ListModels")),
    *((call, "before", n) for call in ("DescribeEndpoint", "InvokeEndpoint") for n in (0, 1)),
    *(
        (call, when, 0)
        for call in ("CreateModel", "CreateEndpointConfig", "CreateEndpoint", "AddTags")
        for when in ("before", "after")
    ),
]
UPDATE: list[Moment] = [
    *(one for one in FIRST if one[0] not in ("CreateEndpoint", "AddTags")),
    *(
        (call, when, 0)
        for call in ("AddTags", "UpdateEndpoint", "DeleteEndpointConfig", "DeleteModel")
        for when in ("before", "after")
    ),
    *(("AddTags", when, 1) for when in ("before", "after")),
]
GOING_BACK: list[Moment] = [
    ("InvokeEndpoint", "after", 1),
    *(
        (call, when, passed)
        for call, passed in (("UpdateEndpoint", 1), ("DeleteEndpointConfig", 0), ("DeleteModel", 0))
        for when in ("before", "after")
    ),
]
DELETING: list[Moment] = [
    (call, when, 0)
    for call in ("DeleteEndpoint", "DeleteEndpointConfig", "DeleteModel")
    for when in ("before", "after")
]


def moments(every: Sequence[Moment], quick: int = 1) -> list[Any]:
    """All of them, few of which, drawn by a seed, belong to the normal suite."""
    chosen = random.Random(6).sample(range(len(every)), quick)
    return [
        pytest.param(moment, id="-".join(map(str, moment)), marks=marks)
        for number, moment in enumerate(every)
        for marks in ([] if number in chosen else [pytest.mark.slow],)
    ]


def kill_at(server: Server, moment: Moment, version: Path, out: Path) -> None:
    """Start the step as a process and kill it there."""
    call, when, passed = moment
    started: list[subprocess.Popen[str]] = []
    server.faults.add(
        call,
        {"before": "lost", "after": "reset"}[when],
        after=passed,
        then=lambda: os.kill(started[0].pid, signal.SIGKILL),
    )
    server.pace = 0.3  # so that it is still Creating or Updating when it is looked at again
    process = subprocess.Popen(
        [sys.executable, "-c", STEP, str(version), str(out), json.dumps(SETTINGS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{os.environ['PYTHONPATH']}{os.pathsep}{ROOT}"},
    )
    started.append(process)
    said, _ = process.communicate(timeout=120)
    server.pace = 0.02
    assert process.returncode == -signal.SIGKILL, said
    assert [met[0] for met in server.faults.met] == [call]
    assert not out.exists()


@pytest.mark.parametrize("moment", moments(FIRST))
def test_a_first_deploy_that_is_killed_and_tried_again_leaves_one_endpoint(
    tmp_path: Path, server: Server, moment: Moment
) -> None:
    version = register(tmp_path / "a")
    kill_at(server, moment, version, tmp_path / "e")
    found = deploy(version, tmp_path / "e")
    assert found["state"] == "checked"
    assert [len(each) for each in names(server)] == [1, 1, 1]
    assert served(server) == found["config"]


@pytest.mark.parametrize("moment", moments(UPDATE))
def test_an_update_that_is_killed_and_tried_again_serves_the_new_one_and_keeps_the_one_before(
    tmp_path: Path, server: Server, moment: Moment
) -> None:
    for note in "ab":
        before = deploy(register(tmp_path / note, note=note), tmp_path / f"e-{note}")
    version = register(tmp_path / "c", note="c")
    kill_at(server, moment, version, tmp_path / "e")
    found = deploy(version, tmp_path / "e")
    assert (found["state"], found["previous"]) == ("checked", before["config"])
    assert served(server) == found["config"]
    assert [len(each) for each in names(server)] == [1, 2, 2]


@pytest.mark.parametrize("moment", moments(GOING_BACK))
def test_a_bad_model_whose_step_is_killed_while_it_goes_back_is_not_served_in_the_end(
    tmp_path: Path, server: Server, moment: Moment
) -> None:
    good = deploy(register(tmp_path / "a"), tmp_path / "e-a")
    before = names(server)
    version = register(tmp_path / "b", note="bad")
    kill_at(server, moment, version, tmp_path / "e")
    with pytest.raises(GateError, match="as before"):
        deploy(version, tmp_path / "e")
    assert served(server) == good["config"]
    assert names(server) == before


@pytest.mark.slow
@pytest.mark.parametrize("moment", moments(DELETING))
def test_a_first_bad_model_whose_step_is_killed_while_it_is_taken_away_leaves_nothing(
    tmp_path: Path, server: Server, moment: Moment
) -> None:
    version = register(tmp_path / "a", note="bad")
    kill_at(server, moment, version, tmp_path / "e")
    with pytest.raises(GateError, match="so it was deleted"):
        deploy(version, tmp_path / "e")
    assert names(server) == (set(), set(), set())


@pytest.mark.parametrize(
    "call", ["CreateModel", pytest.param("CreateEndpointConfig", marks=pytest.mark.slow)]
)
def test_what_a_killed_step_made_goes_with_the_endpoint_though_nobody_tries_again(
    tmp_path: Path, server: Server, call: str
) -> None:
    kill_at(server, (call, "after", 0), register(tmp_path / "a", note="a"), tmp_path / "e")
    deploy(register(tmp_path / "b", note="b"), tmp_path / "e-b")
    assert [len(each) for each in names(server)] == [1, 1, 1]
    server.faults.met.clear()
    kill_at(server, (call, "after", 0), register(tmp_path / "c", note="c"), tmp_path / "e")
    endpoint.Endpoint("birdsong", REGION).delete()
    assert names(server) == (set(), set(), set())
