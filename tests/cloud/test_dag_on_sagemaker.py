"""The DAG with `--runs-on sagemaker`, by the command line, on the server of ours."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_demo import DemoRun
from sagemaker_server.programs import MADE, TRAINING, Process, Running
from sagemaker_server.server import BUCKET, REGION, Server

from birdsong import artifacts, cost
from birdsong.runs import record

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

ROOT = Path(__file__).parents[2]
SETTINGS = f"""
role: arn:aws:iam::123456789012:role/birdsong-job
place: s3://{BUCKET}/birds
image: 123456789012.dkr.ecr.us-east-1.amazonaws.com/birdsong-python-train:test
region: {REGION}
budget_usd: 50
"""


@pytest.fixture
def runs(demo_run: DemoRun, tmp_path: Path) -> Path:
    """A copy of the undisturbed run's folder, so that its first steps are reused."""
    assert demo_run.exit_code == 0, demo_run.output
    shutil.copytree(demo_run.runs, tmp_path / "runs")
    (tmp_path / "jobs.yaml").write_text(SETTINGS)
    return tmp_path / "runs"


@pytest.fixture
def birdsong(surroundings: dict[str, str], runs: Path) -> Iterator[Any]:
    """Starts a command; what is left of it at the end is ended."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "pipeline.py"), *arguments, "--runs", str(runs)],
            env={**os.environ, **surroundings, "BIRDSONG_SAGEMAKER_INTERVAL": "0.3"},
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
            process.wait()
        if process.stdout and not process.stdout.closed:
            process.stdout.close()


def demo(*more: str) -> list[str]:
    """The settings of `demo_run`, on SageMaker."""
    settings = ["epochs=3", "target_fpr=0.3", "gate=none", "golden=2", *more]
    return [
        *("run", "--profile", "demo", "--source", "demo:?species=3&recordings=12&seed=0"),
        *("--runs-on", "sagemaker", "--sagemaker", "jobs.yaml"),
        *(part for text in settings for part in ("--set", text)),
    ]


def until(seconds: float, found: Any) -> Any:
    for _ in range(round(seconds * 10)):
        value = found()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError("it did not come")


def newest(runs: Path) -> record.Run:
    return record.find(runs, "latest")


def test_a_training_that_loses_its_machine_twice_ends_like_an_undisturbed_one(
    server: Server, birdsong: Any, runs: Path
) -> None:
    server.program = Process(TRAINING)
    undisturbed = newest(runs)
    server.interrupt_at("epoch 1/3")
    server.interrupt_at("epoch 2/3", hard=True)
    done = birdsong("rerun", undisturbed.id, "--only", "train", "--sagemaker", "jobs.yaml")
    output, _ = done.communicate()
    assert done.returncode == 0, output
    [name] = server.names
    assert server.job(name).attempts == 3
    before, after = undisturbed.steps["train"], newest(runs).steps["train"]
    for metric in ("validation_accuracy", "best_epoch", "epochs"):
        assert after.metrics[metric] == before.metrics[metric], metric
    histories = [
        artifacts.read_json(Path(step.outputs["model"]["path"]) / "history.json")
        for step in (before, after)
    ]
    for epoch in histories[0]["epochs"] + histories[1]["epochs"]:
        del epoch["seconds"]
    assert histories[0]["epochs"] == histories[1]["epochs"]
    assert artifacts.verify(after.outputs["model"]["path"]).kind == "model"
    assert after.metrics["billed_seconds"] <= after.metrics["trained_seconds"]
    spent = cost.read(after.outputs["model"]["path"])[-1]
    assert spent.billed is not None
    assert spent.billed.interruptions == 2
    assert spent.machine.startswith("SageMaker, ml.g5.4xlarge in us-east-1, managed spot (")
    log = Path(str(after.log)).read_text()
    assert log.count("SageMaker: Interrupted") == 2
    assert re.search(r"SageMaker: Trained \d+ s, billed \d+ s, .* 2 interruptions", log)


def test_a_step_that_is_killed_finds_its_job_again_in_a_resumed_run(
    server: Server, birdsong: Any, runs: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    server.program = _Gated(gate)
    first = birdsong(*demo("trials=0"))
    until(120, lambda: server.names and server.job(server.names[0]).secondary == "Training")
    killed = newest(runs)
    os.killpg(int(killed.steps["train"].pid or 0), signal.SIGKILL)  # all of the step at once
    output, _ = first.communicate()
    assert first.returncode == 1, output
    assert server.at_work == server.names
    second = birdsong("resume", killed.id)
    until(120, lambda: newest(runs).id != killed.id and _log(runs, "(InProgress)"))
    gate.touch()
    output, _ = second.communicate()
    # The stages after it find no network in the cheap program's model.
    assert newest(runs).steps["train"].state == record.State.SUCCEEDED, output
    assert len(server.names) == 1
    assert server.job(server.names[0]).status == "Completed"


def _log(runs: Path, text: str) -> bool:
    log = newest(runs).steps["train"].log
    return log is not None and Path(log).exists() and text in Path(log).read_text()


class _Gated:
    """The cheap program, which waits for a file."""

    def __init__(self, gate: Path) -> None:
        self._gate = gate

    def start(self, image: str, root: Path, environment: Any) -> Running:
        more = {**environment, "MADE_GATE": str(self._gate)}
        return Process(MADE).start(image, root, more)


@pytest.mark.slow  # the step: test_ended_steps_on_sagemaker.py, stop: test_commands_for_jobs.py
def test_a_cancelled_run_leaves_no_job_behind(
    server: Server, birdsong: Any, runs: Path, tmp_path: Path
) -> None:
    server.program = _Gated(tmp_path / "gate")
    first = birdsong(*demo("trials=0"))
    until(120, lambda: server.names and server.job(server.names[0]).secondary == "Training")
    stopped = birdsong("stop", newest(runs).id)
    said, _ = stopped.communicate()
    assert stopped.returncode == 0, said
    output, _ = first.communicate()
    assert first.returncode == 130, output
    assert until(20, lambda: not server.at_work)
    assert server.job(server.names[0]).status == "Stopped"


@pytest.mark.slow
def test_the_whole_dag_with_a_search_of_four_trials_one_of_which_fails(
    server: Server, birdsong: Any, runs: Path
) -> None:
    program = _OneTrialFails()
    server.program = program
    server.interrupt_at(r"train: epoch 1/3")
    more = ("trials=4", "trial_epochs=1", "trial_workers=2")
    done = birdsong(*demo(*more))
    output, _ = done.communicate()
    assert done.returncode == 0, output
    found = newest(runs)
    assert {step.state for step in found.steps.values()} <= record.USABLE
    tuned = found.steps["tune"]
    assert (tuned.metrics["trials_finished"], tuned.metrics["trials_failed"]) == (3, 1)
    rows = json.loads((Path(tuned.outputs["hyperparameters"]["path"]) / "trials.json").read_text())
    [failed] = [row for row in rows if row["state"] == "failed"]
    assert "The job has no channel development" in failed["error"]
    assert len(server.names) == 5
    assert len(server.store.tuning) == 1
    assert server.at_work == []
    report = Path(found.steps["evaluate-threshold"].outputs["report"]["path"]).read_text()
    card = Path(found.steps["register"].outputs["version"]["path"]) / "model_card.md"
    for text in (report, card.read_text(encoding="utf-8")):
        for told in ("tune, 4 trials", "together", "2.03 USD per hour of ml.g5.4xlarge"):
            assert told in text
        assert "train lost its spot machine once." in text


class _OneTrialFails:
    """The real training; the second trial finds no features."""

    def __init__(self) -> None:
        self.started = 0

    def start(self, image: str, root: Path, environment: Any) -> Running:
        self.started += 1
        if self.started == 2:
            shutil.rmtree(root / "input/data/development")
        return Process(TRAINING).start(image, root, environment)


@pytest.mark.slow
def test_a_run_is_registered_deployed_and_served_as_it_was_measured(
    server: Server, birdsong: Any, runs: Path
) -> None:
    settings = (
        f"registry=sagemaker://{BUCKET}/birds",
        "approval=gate",
        "serve_image=123456789012.dkr.ecr.us-east-1.amazonaws.com/birdsong-python-serve:test",
        "target=sagemaker",
        "endpoint_role=arn:aws:iam::123456789012:role/birdsong-job",
        "instance=serverless",
    )
    asked = [part for text in settings for part in ("--set", text)]
    for action in ("created", "unchanged"):
        done = birdsong("rerun", newest(runs).id, "--from", "register", *asked)
        output, _ = done.communicate()
        assert done.returncode == 0, output
        step = newest(runs).steps["deploy"]
        made = artifacts.read_json(Path(step.outputs["endpoint"]["path"]) / "endpoint.json")
        assert (made["state"], made["action"]) == ("checked", action)
        assert made["largest_difference"] < 1e-3
        assert len(made["golden"]) == 2
    assert len(server.registry.packages) == len(server.hosting.endpoints) == 1
    assert len(server.hosting.configs) == len(server.hosting.models) == 1
