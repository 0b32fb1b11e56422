"""train as a job: started once, found again, followed to its end; on the server of ours."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from made_costs import NO_SEARCH
from made_jobs import RUN, With, leave_at_work
from sagemaker_server.server import REGION, Server

from birdsong import artifacts, cost
from birdsong.aws import jobs, names
from birdsong.aws.cancelling import Guard
from birdsong.aws.clients import Account
from birdsong.errors import JobError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def test_a_job_gives_the_artifact_its_metrics_and_its_log_as_it_grows(
    step: Any,
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = step()
    assert artifacts.verify(tmp_path / "out" / "model").kind == "model"
    assert (tmp_path / "out" / "history.html").read_text() == "<p>curves</p>"
    assert sorted(place.name for place in (tmp_path / "out").iterdir()) == ["history.html", "model"]
    assert found["epochs"] == 3
    assert found["trained_seconds"] >= found["billed_seconds"] > 0
    searched, trained = cost.read(tmp_path / "out" / "model")
    assert searched == NO_SEARCH
    assert trained.machine == "SageMaker, ml.g5.4xlarge in us-east-1, managed spot"
    assert trained.seconds == found["trained_seconds"]
    assert trained.billed is not None
    assert [trained.billed.job] == server.names
    assert trained.usd == pytest.approx(found["usd"], abs=1e-4)
    told = capsys.readouterr().out
    for text in (
        "channels development hyperparameters",
        "progress train 3/3 epochs",
        "SageMaker: Downloading (Downloading input data)",
        "SageMaker: Completed",
        "https://us-east-1.console.aws.amazon.com/sagemaker/home?region=us-east-1#/jobs/birdsong-",
        "input mode File: ",
        "SageMaker: At most 4 h of ml.g5.4xlarge in us-east-1",
        "SageMaker: Trained ",
    ):
        assert told.count(text) == 1, told
    [name] = server.names
    assert len(name) <= 63
    asked = server.job(name).request
    assert asked["EnableManagedSpotTraining"] is True
    assert asked["StoppingCondition"] == {
        "MaxRuntimeInSeconds": 4 * 3600,
        "MaxWaitTimeInSeconds": 8 * 3600,
    }
    assert asked["CheckpointConfig"]["S3Uri"].endswith("/")
    assert asked["ResourceConfig"]["InstanceType"] == "ml.g5.4xlarge"
    assert {tag["Key"]: tag["Value"] for tag in asked["Tags"]}[names.TAG_RUN] == RUN


def test_the_same_step_again_takes_the_finished_job_and_sends_nothing(
    step: Any,
    server: Server,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step()
    sent = server.faults.calls.count("PutObject")
    assert sent > 3
    step()
    assert server.faults.calls.count("PutObject") == sent
    assert len(server.names) == 1
    assert "(Completed)" in capsys.readouterr().out


def test_an_interrupted_job_is_followed_over_all_its_machines(
    step: Any,
    server: Server,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.interrupt_at("epoch 1/3")
    server.interrupt_at("epoch 2/3", hard=True)
    step()
    told = capsys.readouterr().out
    assert told.count("SageMaker: Interrupted") == 2
    assert "train: goes on after epoch" in told
    assert server.job(server.names[0]).attempts == 3


def test_a_failure_is_told_with_its_reason_its_last_lines_and_the_way_on(
    step: Any,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = server.program
    monkeypatch.setattr(server, "program", With(made, {"MADE_FAIL": "1e-9"}))
    with pytest.raises(JobError) as caught:
        step()
    text = str(caught.value)
    assert "learning_rate 0.0003819 is above 1e-09" in text
    assert "error: it went wrong" in text
    assert "resume the run" in text
    monkeypatch.setattr(server, "program", made)
    step()
    assert [name[-2:] for name in server.names] == ["a1", "a2"]
    paid = cost.read(tmp_path / "out" / "model")[-1].billed
    assert paid is not None
    assert (paid.jobs, paid.job) == (2, server.names[-1])
    assert "The next attempt follows." in capsys.readouterr().out
    places = {server.job(name).request["CheckpointConfig"]["S3Uri"] for name in server.names}
    assert len(places) == 1, "the second attempt must find the checkpoints of the first"


def test_a_job_of_the_same_step_with_other_settings_is_stopped_before_the_next_one(
    step: Any, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, gate = server.program, str(tmp_path / "never")
    monkeypatch.setattr(server, "program", With(made, {"MADE_GATE": gate}))
    leave_at_work(step)
    monkeypatch.setattr(server, "program", made)
    step(instance="ml.g5.xlarge")
    assert [server.job(name).status for name in server.names] == ["Stopped", "Completed"]
    places = {server.job(name).request["CheckpointConfig"]["S3Uri"] for name in server.names}
    assert len(places) == 1


@pytest.mark.slow
def test_attempts_come_to_an_end(
    step: Any,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "program", With(server.program, {"MADE_FAIL": "1e-9"}))
    for _ in range(2):
        with pytest.raises(JobError, match="it went wrong"):
            step(attempts=2)
    with pytest.raises(JobError, match="All 2 attempts are used up"):
        step(attempts=2)
    assert len(server.names) == 2


def test_a_stopping_job_is_waited_out_and_the_next_attempt_follows_at_once(
    step: Any,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "program", With(server.program, {"MADE_SECONDS": "0.5"}))
    stopped = threading.Event()

    def stop_first() -> None:
        while not server.names or server.job(server.names[0]).secondary != "Training":
            time.sleep(0.02)
        server.job(server.names[0]).stop()
        stopped.set()

    thread = threading.Thread(target=stop_first)
    thread.start()
    with pytest.raises(JobError, match="Somebody stopped it"):
        step()
    thread.join()
    assert stopped.is_set()
    step()
    assert [server.job(name).status for name in server.names] == ["Stopped", "Completed"]


def test_two_racing_steps_start_one_job(
    step: Any,
    server: Server,
) -> None:
    step(on_cancel="leave")  # sets the environment; its job is another one
    request = {key: v for key, v in server.job(server.names[0]).request.items() if key != "Tags"}
    del request["TrainingJobName"]
    ready = threading.Barrier(4)
    made: list[str] = []

    def race() -> None:
        own = Account(REGION, patience=5)
        _ = own.sagemaker
        ready.wait()
        job, _found = jobs.start_or_attach(
            own, jobs.TRAINING, "another run", request, 3, Guard(), lambda line: None
        )
        made.append(job.name)

    racers = [threading.Thread(target=race) for _ in range(4)]
    for one in racers:
        one.start()
    for one in racers:
        one.join()
    assert len(made) == 4
    assert len(set(made)) == 1
    assert server.names.count(made[0]) == 1
    assert len(server.names) == 2


def test_a_job_at_its_longest_run_time_is_told_as_such(
    step: Any,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "program", With(server.program, {"MADE_SECONDS": "60"}))
    monkeypatch.setattr("birdsong.aws.training_request.math.ceil", lambda value: 1)
    with pytest.raises(JobError, match=r"(?s)longest run time .*Raise that limit"):
        step()
