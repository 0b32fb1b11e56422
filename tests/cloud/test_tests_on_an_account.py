"""`make test-aws` on the server that stands for AWS: what an account is asked to show can pass."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_demo import ROOT, DemoRun
from sagemaker_server.programs import TRAINING, Process
from sagemaker_server.server import BUCKET, REGION, Server

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]

REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com/birdsong-python"


def run(surroundings: dict[str, str], file: str, **more: str) -> "subprocess.CompletedProcess[str]":
    given = {
        "BIRDSONG_AWS_PLACE": f"sagemaker://{BUCKET}/birds",
        "BIRDSONG_AWS_REGION": REGION,
        "BIRDSONG_AWS_ROLE": "arn:aws:iam::123456789012:role/birdsong-job",
        "BIRDSONG_AWS_TRAIN_IMAGE": f"{REGISTRY}-train:test-sagemaker",
        "BIRDSONG_AWS_SERVE_IMAGE": f"{REGISTRY}-serve:test-sagemaker",
        "BIRDSONG_AWS_RATE": "0.2",
        "BIRDSONG_SAGEMAKER_INTERVAL": "0.3",
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-m", "aws", f"tests/aws/{file}"],
        env={**os.environ, **surroundings, **given, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        check=False,
    )


def test_jobs_are_paid_once_after_a_kill_listed_and_stopped(
    server: Server, surroundings: dict[str, str]
) -> None:
    server.program = Process(TRAINING)
    done = run(surroundings, "test_jobs.py")
    assert "2 passed" in done.stdout, done.stdout
    assert len(server.names) == 4
    assert len(server.store.tuning) == 1
    assert server.at_work == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"BIRDSONG_AWS_BUDGET": "0.1"}, "above the budget of 0.10 USD, so nothing was started"),
        ({"BIRDSONG_AWS_RATE": ""}, "no rate is known for ml.m5.xlarge in us-east-1"),
        ({"BIRDSONG_AWS_ROLE": ""}, "Set BIRDSONG_AWS_ROLE (ARN of the role birdsong-job)"),
    ],
)
def test_above_the_budget_or_without_what_is_needed_no_job_is_started(
    server: Server, surroundings: dict[str, str], more: dict[str, str], words: str
) -> None:
    done = run(surroundings, "test_jobs.py", **more)
    assert words in done.stdout, done.stdout
    assert "passed" not in done.stdout.splitlines()[-1]
    assert server.names == []


def test_a_model_is_registered_served_and_its_endpoint_deleted(
    server: Server, surroundings: dict[str, str], demo_run: DemoRun, tmp_path: Path
) -> None:
    more = {"BIRDSONG_AWS_RUNS": str(demo_run.runs), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = run(surroundings, "test_registry_and_endpoint.py", **more)
    assert "1 passed" in done.stdout, done.stdout
    assert server.hosting.endpoints == server.hosting.configs == server.hosting.models == {}
    assert len(server.registry.packages) == 1
