"""tune and train as spot jobs on a real account of AWS: a part of `make test-aws`.

Needed: the variables of `NEEDED`, and credentials with the policy `pipeline`; for the instance a
quota of 1 for spot training jobs (AWS gives new accounts 0 of many).

    BIRDSONG_AWS_INSTANCE   ml.m5.xlarge; a cheap machine without GPUs is enough
    BIRDSONG_AWS_RATE       its US dollars an hour, where birdsong/aws/prices.json has none
    BIRDSONG_AWS_BUDGET     US dollars for all of this file, 0.50
    BIRDSONG_AWS_SPOT       no: on demand

Costs: four jobs of generated songs, two trials and two trainings, each a minute or two of one
machine. None may run longer than 15 minutes and none is tried again, so they cost at most an hour
at the on-demand rate (0.26 USD for ml.m5.xlarge in eu-west-1); above the budget, or without a known
rate, nothing is started. S3 and logs come on top, cents at most. Takes: as long as AWS needs to
find four machines one after another, at best 20 minutes.

Leaves: four jobs in the account's list, where AWS keeps them; their logs in CloudWatch,
/aws/sagemaker/TrainingJobs; a few MB below the given place. No job is left at work.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import made_account
import pytest
from made_demo import ROOT, DemoRun

from birdsong.aws import at_work, jobs, money, names, prices
from birdsong.aws.clients import Account
from birdsong.runs import record

pytestmark = pytest.mark.aws

NEEDED = {
    "BIRDSONG_AWS_PLACE": "sagemaker://BUCKET/PREFIX",
    "BIRDSONG_AWS_REGION": "the bucket's region",
    "BIRDSONG_AWS_ROLE": "ARN of the role birdsong-job",
    "BIRDSONG_AWS_TRAIN_IMAGE": "the image train in ECR, TAG-sagemaker",
}
HOURS, TRIALS, TRAININGS = 0.25, 2, 2
LONGEST_WAIT = 3600.0
"""Seconds that a machine is waited for."""


@dataclass
class Demo:
    """A run of generated songs whose tune and train go to the account.

    Attributes:
        account: Clients of this process.
        runs: Its runs folder; the newest one computed here.
        file: Of `--sagemaker`.
        start: Starts a command in that folder.
    """

    account: Account
    runs: Path
    file: Path
    start: Callable[..., "subprocess.Popen[str]"]

    @property
    def newest(self) -> record.Run:
        return record.find(self.runs, "latest")

    def at_work(self, run: record.Run) -> list[at_work.AtWork]:
        return at_work.find(self.account, prices.load(), run.jobs_of or run.id)

    def made(self, kind: jobs.Kind, run: record.Run) -> list[str]:
        """Names of all jobs of a step that were ever made for a run."""
        start = names.job_start(run.jobs_of or run.id, kind.step)
        pages = self.account.sagemaker.get_paginator(kind.list).paginate(NameContains=start)
        return [one[kind.key] for page in pages for one in page[kind.listed]]


@pytest.fixture
def demo(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Demo]:
    """A finished run to go on from, and the file of the jobs, within the budget."""
    given = made_account.told(NEEDED)
    region = given["BIRDSONG_AWS_REGION"]
    instance = os.environ.get("BIRDSONG_AWS_INSTANCE", "ml.m5.xlarge")
    budget = float(os.environ.get("BIRDSONG_AWS_BUDGET", "0.50"))
    table = rates(tmp_path / "prices.json", region, instance)
    bound = money.estimate(
        prices.load(table), region, instance, round(HOURS * 3600), jobs=TRIALS + TRAININGS
    )
    print(f"\nAll jobs of this file: {bound}")
    bound.check(budget)
    # A minute of work here, so only now.
    local: DemoRun = request.getfixturevalue("demo_run")
    assert local.exit_code == 0, local.output
    runs = tmp_path / "runs"
    shutil.copytree(local.runs, runs)
    settings = {
        "role": given["BIRDSONG_AWS_ROLE"],
        "place": given["BIRDSONG_AWS_PLACE"].replace("sagemaker://", "s3://", 1),
        "region": region,
        "image": given["BIRDSONG_AWS_TRAIN_IMAGE"],
        "instance": instance,
        "spot": os.environ.get("BIRDSONG_AWS_SPOT", "yes") != "no",
        "max_runtime_hours": HOURS,
        "trial_max_runtime_hours": HOURS,
        "max_wait_hours": LONGEST_WAIT / 3600,
        "attempts": 1,  # or the bound would not be one
        "budget_usd": budget,
        "prices": table,
    }
    file = tmp_path / "jobs.yaml"
    file.write_text(json.dumps(settings))
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, folder: Path = runs) -> "subprocess.Popen[str]":
        print(f"$ python pipeline.py {' '.join(arguments)}")
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "pipeline.py"), *arguments],
            env={**os.environ, "BIRDSONG_RUNS": str(folder)},
            stdin=subprocess.DEVNULL,  # or it would ask
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
        )
        started.append(process)
        return process

    found = Demo(Account(region), runs, file, start)
    try:
        yield found
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for run in record.list_runs(runs):
            for name in at_work.stop(found.account, prices.load(), run.jobs_of or run.id):
                print(f"Stopped {name}, which was left at work.")


def rates(file: Path, region: str, instance: str) -> str:
    """A price table with the rate that the caller gives; nothing where none is given."""
    rate = os.environ.get("BIRDSONG_AWS_RATE")
    if not rate:
        return ""
    source = {"date": f"{time.gmtime().tm_year}-01-01", "what": "BIRDSONG_AWS_RATE", "where": "-"}
    one = {"region": region, "use": "training", "instance": instance, "source": "caller"}
    table = {"sources": {"caller": source}, "rates": [{**one, "usd_per_hour": float(rate)}]}
    file.write_text(json.dumps(table))
    return str(file)


def until(what: str, found: Callable[[], Any], seconds: float = LONGEST_WAIT) -> Any:
    """Wait for something."""
    give_up = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > give_up:
            raise AssertionError(f"in {seconds:.0f} s did not come: {what}")
        time.sleep(float(os.environ.get("BIRDSONG_SAGEMAKER_INTERVAL", "5")))
    return value


def ended(process: "subprocess.Popen[str]", code: int) -> str:
    """What a command said, which must end with this code."""
    output, _ = process.communicate()
    print(output)
    assert process.returncode == code
    return output


def test_a_step_that_is_killed_finds_its_job_again_and_a_search_and_a_training_are_paid_once(
    demo: Demo,
) -> None:
    before = demo.newest
    settings = [f"trials={TRIALS}", "trial_workers=1", "trial_epochs=1"]
    asked = [part for text in settings for part in ("--set", text)]
    first = demo.start("rerun", before.id, "--from", "tune", "--sagemaker", str(demo.file), *asked)

    def trains() -> bool:
        assert first.poll() is None, first.communicate()[0]
        run = demo.newest
        step = run.steps.get("train")
        return run.id != before.id and bool(
            step and step.pid and any(one.step == "train" for one in demo.at_work(run))
        )

    until("the training job", trains)
    killed = demo.newest
    os.killpg(int(killed.steps["train"].pid or 0), signal.SIGKILL)
    ended(first, 1)
    [job] = demo.made(jobs.TRAINING, killed)
    ended(demo.start("resume", killed.id), 0)
    run = demo.newest
    assert {step.state for step in run.steps.values()} <= record.USABLE
    assert demo.made(jobs.TRAINING, run) == [job]
    assert len(demo.made(jobs.TUNING, run)) == 1
    assert demo.at_work(run) == []
    log = Path(str(run.steps["train"].log)).read_text()
    assert f"found the training job {job}" in log
    assert "progress train" in log, "the job's own log did not come"
    assert run.steps["tune"].metrics["trials_finished"] == TRIALS
    train = run.steps["train"].metrics
    assert train["trained_seconds"] >= train["billed_seconds"] > 0
    assert train["validation_accuracy"] > 0
    for name in ("tune", "train"):
        figures = run.steps[name].metrics
        print(f"{name}: billed {figures['billed_seconds']:.0f} s, {figures['usd']:.4f} USD")


def test_a_job_at_work_is_listed_with_its_rate_and_stopped_from_another_machine(
    demo: Demo, tmp_path: Path
) -> None:
    before = demo.newest
    process = demo.start(
        *("rerun", before.id, "--only", "train", "--sagemaker", str(demo.file)),
        *("--set", "epochs=10000", "--set", "patience=0"),
    )

    def trains() -> list[at_work.AtWork]:
        assert process.poll() is None, process.communicate()[0]
        run = demo.newest
        found = demo.at_work(run) if run.id != before.id else []
        return [one for one in found if one.state == "Training"]

    [one] = until("a job that trains", trains)
    run = demo.newest
    region, empty = demo.account.region, tmp_path / "nothing-here"
    listed = ended(
        demo.start("jobs", "--sagemaker", str(demo.file), "--run", run.id, folder=empty), 0
    )
    assert one.job.name in listed
    assert "Together at most" in listed
    said = ended(demo.start("stop", run.id, "--region", region, folder=empty), 0)
    assert f"Stopping {one.job.name}" in said
    output = ended(process, 1)
    assert "Somebody stopped it" in output
    told = one.job.describe()
    assert told is not None
    assert told["TrainingJobStatus"] == "Stopped"
    assert demo.at_work(run) == []
    assert demo.made(jobs.TRAINING, run) == [one.job.name]
