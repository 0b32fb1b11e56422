"""train as a job: started once, found again, followed, stopped; on the server of ours."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from made_costs import NO_SEARCH
from made_jobs import CONFIG, RUN, With, settings
from sagemaker_server.server import REGION, Server

from birdsong import artifacts, cost, hyperparameters
from birdsong.aws import jobs, names
from birdsong.aws.cancelling import Guard
from birdsong.aws.clients import Account
from birdsong.aws.settings import JOBS_OF, VARIABLE
from birdsong.config import TrainConfig
from birdsong.errors import BirdsongError, ConfigError, JobError, RefusedError, UnreachableError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def account() -> Account:
    return Account(REGION, patience=5)


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
    _start_jobs(step)
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
        own = account()
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


REFUSED = [
    (
        "CreateTrainingJob",
        "ResourceLimitExceeded",
        "The account-level service limit 'ml.g5.4xlarge for spot training job usage' is 0 "
        "Instances, with current utilization of 0 Instances and a request delta of 1 Instances.",
        RefusedError,
        "ml.g5.4xlarge for spot training job usage.*Service Quotas",
    ),
    (
        "CreateTrainingJob",
        "AccessDeniedException",
        "User: arn:aws:iam::1:user/me is not authorized to perform: sagemaker:CreateTrainingJob",
        RefusedError,
        "need the permission sagemaker:CreateTrainingJob",
    ),
    (
        "CreateTrainingJob",
        "AccessDeniedException",
        "User is not authorized to perform: iam:PassRole on resource: role",
        RefusedError,
        "need the permission iam:PassRole",
    ),
    (
        "DescribeTrainingJob",
        "ExpiredTokenException",
        "The security token included in the request is expired",
        RefusedError,
        "no longer valid.*Log in again",
    ),
    (
        "DescribeTrainingJob",
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
        RefusedError,
        "no valid AWS credentials",
    ),
    (
        "GetBucketLocation|GetBucket",
        "AccessDenied",
        "Access Denied",
        RefusedError,
        "not one of the account 123456789012",
    ),
    (
        "CreateTrainingJob",
        "ValidationException",
        "The instance type ml.g5.4xlarge is not supported in this region",
        ConfigError,
        "AWS refuses the request: The instance type",
    ),
]


@pytest.mark.parametrize(
    ("action", "code", "message", "kind", "words"), REFUSED, ids=lambda v: str(v)[:24]
)
def test_a_refusal_says_what_is_missing_and_leaves_no_job(
    step: Any,
    server: Server,
    action: str,
    code: str,
    message: str,
    kind: type[BirdsongError],
    words: str,
) -> None:
    server.faults.add(action, code, message=message, times=99)
    with pytest.raises(kind, match=words):
        step()
    assert server.names == []


def test_a_bucket_in_another_region_is_refused_before_anything_is_sent(
    step: Any,
    server: Server,
) -> None:
    place = {"LocationConstraint": "eu-west-1"}
    client = server.client("s3", "eu-west-1")
    client.create_bucket(Bucket="far-away", CreateBucketConfiguration=place)
    with pytest.raises(ConfigError, match="is in region eu-west-1, the jobs would run in us-east"):
        step(place="s3://far-away/birds")
    assert server.names == []
    assert "PutObject" not in server.faults.calls


def test_above_the_budget_nothing_is_started(step: Any, server: Server) -> None:
    with pytest.raises(ConfigError, match=r"above the budget of 1\.00 USD, so nothing was started"):
        step(budget_usd=1)
    assert server.names == []


def test_a_bucket_that_is_not_there_is_told(step: Any, server: Server) -> None:
    with pytest.raises(ConfigError, match="Check place in the file of --sagemaker"):
        step(place="s3://nobody-has-this/birds")


def test_throttling_is_waited_out(
    step: Any,
    server: Server,
) -> None:
    for action in ("DescribeTrainingJob", "CreateTrainingJob", "GetLogEvents"):
        server.faults.add(action, "throttle", times=2)
    step()
    assert len(server.faults.met) == 6
    assert len(server.names) == 1


@pytest.mark.slow
def test_a_question_is_asked_for_long_and_in_the_end_given_up(
    step: Any,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step()
    monkeypatch.setattr("birdsong.aws.clients.ATTEMPTS", 2)
    server.faults.add("DescribeTrainingJob", "throttle", times=999)
    slow = Account(REGION, patience=4.0)
    with pytest.raises(UnreachableError, match="takes no more requests now"):
        jobs.Job(slow, jobs.TRAINING, server.names[0]).describe()
    assert "Asking again" in capsys.readouterr().out


def test_without_a_machine_another_job_follows_and_in_the_end_the_way_on_is_told(
    step: Any,
    server: Server,
) -> None:
    server.no_capacity.add("ml.g5.4xlarge")
    with pytest.raises(JobError, match=r"no spot machine ml\.g5\.4xlarge now.*take another"):
        step()
    assert [name[-2:] for name in server.names] == ["a1", "a2", "a3"]


def test_a_job_at_its_longest_run_time_is_told_as_such(
    step: Any,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "program", With(server.program, {"MADE_SECONDS": "60"}))
    monkeypatch.setattr("birdsong.aws.training_request.math.ceil", lambda value: 1)
    with pytest.raises(JobError, match=r"(?s)longest run time .*Raise that limit"):
        step()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"role": "birdsong"}, "role"),
        ({"place": "MY-BUCKET/birds"}, "place"),
        ({"count": 2}, "spread over the GPUs of one machine"),
        ({"max_wait_hours": 1}, "below max_runtime_hours"),
        ({"subnets": ["subnet-1"]}, "give both or neither"),
        ({"instnace": "ml.g5.xlarge"}, "instnace"),
        ({"on_cancel": "maybe"}, "on_cancel"),
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings(**wrong)


@pytest.mark.parametrize("weights", ["weights.h5", "models:/birds/3", "file:///x.h5"])
def test_weights_that_a_job_cannot_see_are_refused(
    weights: str,
) -> None:
    from birdsong.aws import training_request

    with pytest.raises(ConfigError, match="sees no file of this machine"):
        training_request.check(TrainConfig(weights=weights))


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


def test_a_search_gives_the_best_values_and_the_page_though_one_trial_fails(
    search_step: Any,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(server, "program", With(server.program, {"MADE_FAIL": "0.0001"}))
    space = '{"pos_weight": {"low": 1, "high": 9, "log": true}, "front_end": ["full", "small"]}'
    found = search_step(space=space)
    assert found["trials_failed"] >= 1
    assert found["trials_finished"] + found["trials_failed"] == 4
    [job] = server.store.tuning.values()
    assert len(job.name) <= 32
    config = job.request["HyperParameterTuningJobConfig"]
    assert config["Strategy"] == "Bayesian"
    assert config["ResourceLimits"] == {
        "MaxNumberOfTrainingJobs": 4,
        "MaxParallelTrainingJobs": 2,
    }
    assert job.request["TrainingJobDefinition"]["EnableManagedSpotTraining"] is True
    rows = artifacts.read_json(tmp_path / "out" / "hyperparameters" / "trials.json")
    best = max((row for row in rows if row["accuracy"]), key=lambda row: row["accuracy"])
    chosen = artifacts.read_json(tmp_path / "out" / "hyperparameters" / "hyperparameters.json")
    assert {name: chosen[name] for name in best["values"]} == best["values"]
    assert isinstance(chosen["pos_weight"], float)
    assert chosen["front_end"] in ("full", "small")
    assert found["best_validation_accuracy"] == best["accuracy"]
    [spent] = cost.read(tmp_path / "out" / "hyperparameters")
    assert (spent.trials, spent.seconds) == (4, found["trained_seconds"])
    assert spent.billed is not None
    assert (spent.billed.job, spent.billed.jobs) == (job.name, 4)
    assert spent.usd == pytest.approx(found["usd"], abs=1e-4)
    told = [row["error"] for row in rows if row["state"] == "failed"]
    assert all("is above 0.0001" in text for text in told)
    page = (tmp_path / "out" / "trials.html").read_text()
    assert job.name in page
    assert "The first tried the given values" not in page
    output = capsys.readouterr().out
    assert "progress search 4/4 trials" in output
    hyperparameters.read(tmp_path / "out" / "hyperparameters", CONFIG)
    search_step(space=space)
    assert len(server.store.tuning) == 1
    assert len(server.names) == 4


def test_a_search_none_of_whose_trials_works_says_why_and_is_paid_for_with_the_next_one(
    search_step: Any, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = server.program
    monkeypatch.setattr(server, "program", With(made, {"MADE_FAIL": "1e-9"}))
    with pytest.raises(JobError, match=r"is above 1e-09") as caught:
        search_step(trials=2)
    assert "No objective metrics found" in str(caught.value)
    monkeypatch.setattr(server, "program", made)
    search_step(trials=2)
    assert [name[-2:] for _, name in server.store.tuning] == ["a1", "a2"]
    [spent] = cost.read(tmp_path / "out" / "hyperparameters")
    assert spent.billed is not None
    assert (spent.trials, spent.billed.jobs) == (4, 4)


@pytest.mark.slow
def test_a_search_learns_from_an_earlier_one_and_none_starts_no_job(
    search_step: Any, server: Server, tmp_path: Path
) -> None:
    search_step(trials=0)
    assert server.store.tuning == {}
    search_step(trials=1, strategy="Hyperband")
    [first] = server.store.tuning.values()
    config = first.request["HyperParameterTuningJobConfig"]
    assert config["TrainingJobEarlyStoppingType"] == "Off"
    assert config["StrategyConfig"]["HyperbandStrategyConfig"]["MaxResource"] == 2
    search_step(trials=1, warm_start=[first.name])
    second = list(server.store.tuning.values())[-1]
    parents = second.request["WarmStartConfig"]["ParentHyperParameterTuningJobs"]
    assert parents == [{"HyperParameterTuningJobName": first.name}]


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
    _start_jobs(search_step)
    monkeypatch.setenv(JOBS_OF, "another")
    _start_jobs(step)
    assert _command(monkeypatch, "jobs") == 0
    text = capsys.readouterr().out
    assert "1 x ml.g5.4xlarge spot, 2.03 USD/h" in text
    assert "Together at most 6.09 USD/h" in text  # two trials and a training
    assert "trial of run" in text
    assert _command(monkeypatch, "jobs", "--json", "--run", "another") == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["step"], row["run"], row["trial"]) == ("train", "another", False)
    # A job of somebody else, whose name begins in the same way, has no such tag.
    foreign = {**server.job(row["name"]).request, "TrainingJobName": "birdsong-of-others"}
    account().sagemaker.create_training_job(**{**foreign, "Tags": []})
    assert _command(monkeypatch, "stop", RUN, "--region", REGION) == 0
    text = capsys.readouterr().out
    assert text.count("Stopping birdsong-") == 1
    for _ in range(200):
        if len(server.at_work) == 2:
            break
        time.sleep(0.05)
    assert sorted(server.at_work) == sorted([row["name"], "birdsong-of-others"])
    assert _command(monkeypatch, "stop", RUN, "--region", REGION) == 0
    assert f"No job of run {RUN} is at work" in capsys.readouterr().out
    gate.touch()


def _start_jobs(step: Any) -> None:
    """Let a step start its job and be gone."""

    class GoneError(Exception):
        pass

    def gone(*_: Any) -> Any:
        raise GoneError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "wait", gone)
        with pytest.raises(GoneError):
            step()
    time.sleep(1.0)  # a search has its trials


def _command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    from birdsong.cli import main

    monkeypatch.setattr(sys, "argv", ["birdsong", *arguments])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return main.main()


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
    command = ["run", "--dry-run", "--runs-on", "sagemaker", "--sagemaker", str(file)]
    command += ["--runs", str(tmp_path / "runs"), "--set", "trials=3"]
    assert _command(monkeypatch, *command) == 0
    text = capsys.readouterr().out
    assert "tune   At most 3 x 1 h of ml.g5.4xlarge in us-east-1: 6.09 USD" in text
    assert "train  At most 4 h of ml.g5.4xlarge in us-east-1: 8.12 USD" in text
    assert _command(monkeypatch, *command, "--budget", "7") == 2
    assert "above the budget of 7.00 USD" in capsys.readouterr().err
    assert _command(monkeypatch, "run", "--dry-run", "--budget", "7") == 2
    assert "are for --runs-on sagemaker" in capsys.readouterr().err
    assert _command(monkeypatch, "run", "--dry-run", "--runs-on", "sagemaker") == 2
    assert "needs --sagemaker FILE" in capsys.readouterr().err
    assert server.faults.calls == []
