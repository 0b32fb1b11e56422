"""The demo on a real cluster: submitted, followed, rerun from a step, and alone.

BIRDSONG_TEST_HOST=http://localhost:8080 BIRDSONG_CLUSTER=k8s/clusters/kind.yaml pytest -m kind
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from birdsong.kubeflow.settings import STEPS

ROOT = Path(__file__).resolve().parents[2]
HOST = os.environ.get("BIRDSONG_TEST_HOST", "")

pytestmark = [
    pytest.mark.kind,
    pytest.mark.skipif(not HOST, reason="BIRDSONG_TEST_HOST names no Kubeflow Pipelines"),
]
SMALL = ("epochs=3", "target_fpr=0.3", "gate=none", "golden=2")


def birdsong(*arguments: str) -> str:
    command = [sys.executable, str(ROOT / "pipeline.py"), *arguments, "--host", HOST]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def states(run: str) -> dict[str, str]:
    document = json.loads(birdsong("runs", "show", run, "--json"))
    return {step["name"]: step["state"] for step in document["steps"]}


def test_the_demo_runs_and_is_rerun_with_the_rest_from_the_cache() -> None:
    settings = [part for text in SMALL for part in ("--set", text)]
    source = "demo:?species=3&recordings=12&seed=0"
    out = birdsong("submit", "--source", source, *settings, "--again", "--wait")
    assert "✓ Done in" in out
    run = next(line.split()[1] for line in out.splitlines() if line.startswith("run "))
    assert set(states(run)) == set(STEPS)
    assert set(states(run).values()) <= {"SUCCEEDED", "REUSED"}
    out = birdsong("rerun", run, "--from", "register", "--yes", "--wait")
    again = next(line.split()[1] for line in out.splitlines() if line.startswith("run "))
    found = states(again)
    assert found["register"] == found["deploy"] == "SUCCEEDED"
    assert {found[step] for step in STEPS[:6]} == {"REUSED"}
    out = birdsong("rerun", run, "--only", "tune", "--yes", "--wait")
    alone = next(line.split()[1] for line in out.splitlines() if line.startswith("run "))
    assert list(states(alone)) == list(STEPS[:4])
