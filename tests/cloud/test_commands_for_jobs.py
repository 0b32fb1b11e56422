"""The commands that start, list and stop jobs on SageMaker."""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import made_jobs
import pytest
from fake_kfp import FakeKfp, serving
from made_demo import DemoRun
from made_jobs import RUN, With, leave_at_work, settings
from sagemaker_server.server import REGION, Server

from birdsong.aws.clients import Account
from birdsong.aws.settings import JOBS_OF
from birdsong.aws.settings import RUN as RUN_VARIABLE
from birdsong.runs import elsewhere, record

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    from birdsong.cli import main

    monkeypatch.setattr(sys, "argv", ["birdsong", *arguments])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return main.main()


def test_jobs_at_work_are_listed_with_what_they_cost_and_stopped_from_any_machine(
    surroundings: dict[str, str],
    step: Any,
    search_step: Any,
    server: Server,
    job_inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gate = tmp_path / "gate"
    monkeypatch.setattr(server, "program", With(server.program, {"MADE_GATE": str(gate)}))
    leave_at_work(search_step)
    monkeypatch.setenv(JOBS_OF, "another")
    leave_at_work(step)
    assert command(monkeypatch, "jobs") == 0
    text = capsys.readouterr().out
    assert "1 x ml.g5.4xlarge spot, 2.03 USD/h" in text
    assert "Together at most 6.09 USD/h" in text  # two trials and a training
    assert "trial of run" in text
    assert command(monkeypatch, "jobs", "--json", "--run", "another") == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["step"], row["run"], row["trial"]) == ("train", "another", False)
    # A job of somebody else, whose name begins in the same way, has no such tag.
    foreign = {**server.job(row["name"]).request, "TrainingJobName": "birdsong-of-others"}
    Account(REGION).sagemaker.create_training_job(**{**foreign, "Tags": []})
    assert command(monkeypatch, "stop", RUN, "--region", REGION) == 0
    text = capsys.readouterr().out
    assert text.count("Stopping birdsong-") == 1
    for _ in range(200):
        if len(server.at_work) == 2:
            break
        time.sleep(0.05)
    assert sorted(server.at_work) == sorted([row["name"], "birdsong-of-others"])
    assert command(monkeypatch, "stop", RUN, "--region", REGION) == 0
    assert f"No job of run {RUN} is at work" in capsys.readouterr().out
    gate.touch()


def test_a_dry_run_says_what_the_jobs_may_cost_and_starts_nothing(
    in_step: Any,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    in_step()
    file = tmp_path / "jobs.yaml"
    named = settings(region=REGION).model_dump(include={"role", "place", "image", "region"})
    file.write_text(json.dumps(named))
    words = ["run", "--dry-run", "--runs-on", "sagemaker", "--sagemaker", str(file)]
    words += ["--runs", str(tmp_path / "runs"), "--set", "trials=3"]
    assert command(monkeypatch, *words) == 0
    text = capsys.readouterr().out
    assert "tune   At most 3 x 1 h of ml.g5.4xlarge in us-east-1: 6.09 USD" in text
    assert "train  At most 4 h of ml.g5.4xlarge in us-east-1: 8.12 USD" in text
    assert command(monkeypatch, *words, "--budget", "7") == 2
    assert "above the budget of 7.00 USD" in capsys.readouterr().err
    assert command(monkeypatch, "run", "--dry-run", "--budget", "7") == 2
    assert "are for --runs-on sagemaker" in capsys.readouterr().err
    assert command(monkeypatch, "run", "--dry-run", "--runs-on", "sagemaker") == 2
    assert "needs --sagemaker FILE" in capsys.readouterr().err
    assert server.faults.calls == []


def test_a_file_that_a_variable_names_is_no_wish_to_compute_on_sagemaker(
    in_step: Any,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    in_step()
    file = tmp_path / "jobs.yaml"
    file.write_text(json.dumps(settings(region=REGION).model_dump()))
    words = ["run", "--dry-run", "--runs", str(tmp_path / "runs")]
    monkeypatch.setenv("BIRDSONG_SAGEMAKER_FILE", str(file))
    assert command(monkeypatch, *words) == 0
    assert "SageMaker" not in capsys.readouterr().out
    assert command(monkeypatch, *words, "--runs-on", "sagemaker") == 0
    assert "train  At most 4 h" in capsys.readouterr().out
    for given in (["--sagemaker", str(file)], [f"--sagemaker={file}"]):
        assert command(monkeypatch, *words, *given) == 2
        assert "are for --runs-on sagemaker" in capsys.readouterr().err
    assert server.faults.calls == []


def test_stop_of_a_run_on_a_cluster_ends_the_run_and_its_jobs_on_sagemaker(
    in_step: Any,
    job_inputs: dict[str, Path],
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    in_step()
    file = tmp_path / "jobs.yaml"
    file.write_text(json.dumps(settings(region=REGION).model_dump()))
    made = server.program
    monkeypatch.setattr(server, "program", With(made, {"MADE_GATE": str(tmp_path / "never")}))
    monkeypatch.setenv("BIRDSONG_KFP_INTERVAL", "0.01")
    with serving(FakeKfp()) as fake:
        fake.slow = True
        host = ("--host", fake.host)
        asked = ("--runs-on", "sagemaker", "--sagemaker", str(file))
        registry = ("--set", "registry=http://mlflow.kubeflow:5000")
        for name in ("first", "second"):
            words = (*host, *registry, *asked, "--name", name)
            assert command(monkeypatch, "submit", *words) == 0
        ids = list(fake.runs)
        # What the pod of train does, with the id that its label gives it.
        [version] = fake.versions.values()
        told = elsewhere.of_pipeline(version["pipeline_spec"]["pipeline_spec"])
        assert told is not None
        in_step(**told.model_dump())
        monkeypatch.delenv(JOBS_OF)  # of runs on one machine
        for number in ids:
            monkeypatch.setenv(RUN_VARIABLE, number)
            leave_at_work(lambda: made_jobs.train(job_inputs, tmp_path / "out"))
        assert len(server.at_work) == 2
        capsys.readouterr()
        assert command(monkeypatch, "stop", ids[0], *host) == 0
        said = capsys.readouterr().out
        assert f"Run {ids[0]} is {record.State.CANCELLED}." in said
        [stopped, left] = server.names
        assert f"Stopping {stopped}." in said
        server.job(stopped).thread.join(20)
        assert server.job(stopped).status == "Stopped"
        assert server.at_work == [left]
        # Again, when the run is over: nothing is left to stop.
        assert command(monkeypatch, "stop", ids[0], *host) == 0
        assert f"No job of run {ids[0]} is at work" in capsys.readouterr().out


def test_a_rerun_says_what_its_jobs_may_cost_and_a_variable_moves_no_run_there(
    demo_run: DemoRun,
    in_step: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert demo_run.exit_code == 0, demo_run.output
    in_step()
    file = tmp_path / "jobs.yaml"
    named = settings(region=REGION).model_dump(include={"role", "place", "image", "region"})
    file.write_text(json.dumps(named))
    words = ["rerun", "latest", "--runs", str(demo_run.runs), "--dry-run"]
    monkeypatch.setenv("BIRDSONG_SAGEMAKER_FILE", str(file))
    assert command(monkeypatch, *words, "--from", "train") == 0
    assert "SageMaker" not in capsys.readouterr().out
    words += ["--sagemaker", str(file)]
    assert command(monkeypatch, *words, "--only", "train") == 0
    text = capsys.readouterr().out
    assert "train  At most 4 h of ml.g5.4xlarge in us-east-1: 8.12 USD" in text
    assert "tune   " not in text.partition("SageMaker")[2]
    assert command(monkeypatch, *words, "--from", "register") == 0
    assert "At most" not in capsys.readouterr().out
