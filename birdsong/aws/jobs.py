"""A job of SageMaker: found by its name, started once, waited for, stopped."""

import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from birdsong.aws import names, refusals
from birdsong.aws.cancelling import Guard
from birdsong.aws.clients import Account
from birdsong.aws.log_tail import LogTail, last_lines
from birdsong.errors import BirdsongError, JobError

Json = dict[str, Any]

OVER = ("Completed", "Failed", "Stopped")
AT_WORK = ("InProgress", "Stopping")
CAPACITY_WAITS = (60.0, 300.0)
"""Seconds before another job, where AWS had no machine for the one before."""


@dataclass(frozen=True)
class Kind:
    """How SageMaker's API names one kind of job."""

    step: str
    noun: str
    create: str
    describe: str
    stop: str
    key: str
    status: str
    page: str
    list: str
    listed: str


TRAINING = Kind(
    step="train",
    noun="training job",
    create="create_training_job",
    describe="describe_training_job",
    stop="stop_training_job",
    key="TrainingJobName",
    status="TrainingJobStatus",
    page="jobs",
    list="list_training_jobs",
    listed="TrainingJobSummaries",
)
TUNING = Kind(
    step="tune",
    noun="tuning job",
    create="create_hyper_parameter_tuning_job",
    describe="describe_hyper_parameter_tuning_job",
    stop="stop_hyper_parameter_tuning_job",
    key="HyperParameterTuningJobName",
    status="HyperParameterTuningJobStatus",
    page="hyper-tuning-jobs",
    list="list_hyper_parameter_tuning_jobs",
    listed="HyperParameterTuningJobSummaries",
)


def poll_seconds() -> float:
    """Between two looks at a job."""
    return float(os.environ.get("BIRDSONG_SAGEMAKER_INTERVAL", "15"))


class Job:
    """One job, whether it is there or not.

    Attributes:
        kind: What it is.
        name: Its name, unique in account and region.
    """

    def __init__(self, account: Account, kind: Kind, name: str) -> None:
        self.account, self.kind, self.name = account, kind, name

    def describe(self) -> Json | None:
        """As SageMaker describes it; None where it is not there."""

        def question() -> Json | None:
            try:
                call = getattr(self.account.sagemaker, self.kind.describe)
                found: Json = call(**{self.kind.key: self.name})
            except Exception as error:
                if refusals.is_absent(error):
                    return None
                raise
            return found

        return self.account.ask(_action(self.kind.describe), question)

    def create(self, request: Mapping[str, Any]) -> bool:
        """Start it; False where the name is used, by a racing step or a request that was lost."""
        call = getattr(self.account.sagemaker, self.kind.create)
        try:
            self.account.make(
                _action(self.kind.create), lambda: call(**request, **{self.kind.key: self.name})
            )
        except BirdsongError:
            raise
        except Exception:
            return False
        return True

    def stop(self) -> bool:
        """Ask for its end; False where it is over or was never there."""
        call = getattr(self.account.sagemaker, self.kind.stop)

        def wish() -> bool:
            try:
                call(**{self.kind.key: self.name})
            except Exception as error:
                if refusals.is_over(error) or refusals.is_absent(error):
                    return False
                raise
            return True

        return self.account.ask(_action(self.kind.stop), wish)  # to stop twice is no harm

    @property
    def link(self) -> str:
        """The job in AWS' console."""
        region = self.account.region
        return (
            f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}"
            f"#/{self.kind.page}/{self.name}"
        )


def _action(method: str) -> str:
    return "".join(part.capitalize() for part in method.split("_"))


def at_work(account: Account, kind: Kind, start: str) -> list[str]:
    """Names of the jobs at work whose name begins so."""

    def question() -> list[str]:
        found = []
        for state in AT_WORK:
            pages = account.sagemaker.get_paginator(kind.list).paginate(
                NameContains=start, StatusEquals=state
            )
            found += [one[kind.key] for page in pages for one in page[kind.listed]]
        return [name for name in dict.fromkeys(found) if name.startswith(start)]

    return account.ask(_action(kind.list), question)


def stop_strays(
    account: Account, kind: Kind, run: str, request: Mapping[str, Any], tell: Callable[[str], None]
) -> None:
    """End what earlier tries of the step started with other settings, such as another machine.

    Both would write their checkpoints to one place, and both cost.
    """
    start = names.job_start(run, kind.step)
    own = names.job(run, kind.step, request, 1).removesuffix("1")
    strays = [name for name in at_work(account, kind, start) if not name.startswith(own)]
    for name in strays:
        tell(f"SageMaker: {name} was started with other settings; it is stopped first.")
        Job(account, kind, name).stop()
    for name in strays:
        stray = Job(account, kind, name)
        while (found := stray.describe()) is not None and found[kind.status] not in OVER:
            time.sleep(poll_seconds())


def start_or_attach(
    account: Account,
    kind: Kind,
    run: str,
    request: Mapping[str, Any],
    attempts: int,
    guard: Guard,
    tell: Callable[[str], None] = print,
) -> tuple[Job, Json]:
    """The job of a step: the one that an earlier try made, or a new one.

    One that is at work or has completed is taken; one that stops is waited for; after one that
    failed or was stopped comes the next attempt. Of two steps that race for a name, one starts the
    job and both have it.

    Args:
        account: Clients.
        kind: Of the job.
        run: Id of the run.
        request: All of it but the name; the same in each try of the step.
        attempts: Most jobs.
        guard: Stops the job when the step is cancelled.
        tell: Takes lines for people.

    Returns:
        The job and its description.

    Raises:
        JobError: All attempts are used up.
        BirdsongError: AWS refuses.
    """
    last: Json = {}
    for attempt in range(1, attempts + 1):
        job = Job(account, kind, names.job(run, kind.step, request, attempt))
        found = job.describe()
        if found is None:
            stop_strays(account, kind, run, request, tell)
            with guard.watching(job):
                made = job.create({**request, "Tags": names.tags(run, kind.step)})
            tell(f"SageMaker: {'started' if made else 'found'} the {kind.noun} {job.name}")
            tell(f"SageMaker: {job.link}")
            # However soon it has ended: that is for this try of the step to tell.
            return job, job.describe() or {kind.status: "InProgress"}
        guard.job = job
        tell(f"SageMaker: found the {kind.noun} {job.name} ({found[kind.status]})")
        while found[kind.status] == "Stopping":
            time.sleep(poll_seconds())
            found = job.describe() or found
        if found[kind.status] in ("InProgress", "Completed"):
            tell(f"SageMaker: {job.link}")
            return job, found
        tell(f"SageMaker: {job.name} {why(kind, found)} The next attempt follows.")
        last = found
    raise JobError(
        f"All {attempts} attempts are used up; the last {kind.noun} {job.name} "
        f"{why(kind, last)} Start the step in a new run, or raise attempts in the file of "
        "--sagemaker."
    )


def attempts_of(job: Job) -> list[Json]:
    """Descriptions of this job and of the attempts before it."""
    base, _, last = job.name.rpartition("-a")
    every = [Job(job.account, job.kind, f"{base}-a{number}") for number in range(1, int(last))]
    return [found for found in (one.describe() for one in [*every, job]) if found is not None]


def why(kind: Kind, found: Mapping[str, Any]) -> str:
    """How a job ended, as the rest of a sentence."""
    state, reason = found[kind.status], str(found.get("FailureReason") or "").strip()
    if state == "Failed":
        return f"failed: {reason or 'AWS gives no reason'}" + ("" if reason[-1:] == "." else ".")
    secondary = found.get("SecondaryStatus", "")
    told = {
        "MaxRuntimeExceeded": "was stopped at its longest run time (max_runtime_hours).",
        "MaxWaitTimeExceeded": "was stopped at its longest wait for spot (max_wait_hours).",
    }
    return told.get(secondary, "was stopped.")


def wait(job: Job, found: Json, tell: Callable[[str], None] = print) -> Json:
    """Follow a job to its end: its states, and the lines of its log as they come.

    Returns:
        Its last description, whatever its end was.
    """
    tail = LogTail(job.account, job.name) if job.kind is TRAINING else None
    seen: set[tuple[str, str]] = set()
    while True:
        for line in states(job, found, seen):
            tell(line)
        if tail:
            tail.drain(tell)
        if found[job.kind.status] in OVER:
            break
        time.sleep(poll_seconds())
        found = job.describe() or found
    if tail:
        tail.finish(tell)
    return found


def states(job: Job, found: Mapping[str, Any], seen: set[tuple[str, str]]) -> list[str]:
    """Lines about states that were not told yet."""
    if job.kind is TRAINING:
        passed = [
            (str(one["Status"]), str(one.get("StatusMessage") or ""), str(one.get("StartTime")))
            for one in found.get("SecondaryStatusTransitions") or []
        ]
    else:
        counted = found.get("TrainingJobStatusCounters") or {}
        parts = [f"{number} {name}" for name, number in counted.items() if number]
        told = ", ".join(parts)
        limits = (found.get("HyperParameterTuningJobConfig") or {}).get("ResourceLimits") or {}
        if told and limits:
            most = limits["MaxNumberOfTrainingJobs"]
            done = sum(number for name, number in counted.items() if name != "InProgress")
            told += f"\nprogress search {done}/{most} trials"
        passed = [(str(found[job.kind.status]), f"trials: {told}" if told else "", told)]
    lines = []
    for state, message, when in passed:
        if (state, when) not in seen:
            seen.add((state, when))
            text, _, more = message.partition("\n")
            lines += [f"SageMaker: {state}" + (f" ({text})" if text else ""), *more.splitlines()]
    return lines


def run(
    account: Account,
    kind: Kind,
    run_id: str,
    request: Mapping[str, Any],
    attempts: int,
    guard: Guard,
    tell: Callable[[str], None] = print,
) -> tuple[Job, Json]:
    """Start or find the job of a step and follow it to a good end.

    Where AWS had no machine another job follows after a while, with jitter.

    Raises:
        JobError: It failed or was stopped; with the reason, its log's last lines and what to do.
        BirdsongError: AWS refuses.
    """
    waits = iter(CAPACITY_WAITS)
    while True:
        job, found = start_or_attach(account, kind, run_id, request, attempts, guard, tell)
        found = wait(job, found, tell)
        guard.job = None
        if found[kind.status] == "Completed":
            return job, found
        seconds = next(waits, None)
        if seconds is None or not is_for_capacity(found):
            raise JobError(ended_badly(job, found))
        seconds *= random.uniform(0.5, 1.5) * min(poll_seconds() / 15, 1.0)
        tell(f"SageMaker: no machine was to be had; asking again in {seconds:.0f} s.")
        time.sleep(seconds)


def is_for_capacity(found: Mapping[str, Any]) -> bool:
    """Whether a job failed since AWS had no machine."""
    reason = str(found.get("FailureReason") or "")
    return "CapacityError" in reason or "InsufficientInstanceCapacity" in reason


def ended_badly(job: Job, found: Mapping[str, Any]) -> str:
    """The error of a job that failed or was stopped."""
    asked = found.get("TrainingJobDefinition") or found
    instance = (asked.get("ResourceConfig") or {}).get("InstanceType", "")
    text = f"The {job.kind.noun} {job.name} {why(job.kind, found)}"
    if is_for_capacity(found):
        spot = bool(asked.get("EnableManagedSpotTraining"))
        return f"{text} {refusals.capacity(str(found['FailureReason']), instance, spot=spot)}"
    lines = _last_words(job)
    if lines:
        text += "\nIts log ended:\n" + "\n".join(f"  {line}" for line in lines)
    if found.get("SecondaryStatus") in ("MaxRuntimeExceeded", "MaxWaitTimeExceeded"):
        what = "Raise that limit in the file of --sagemaker, then resume the run: "
    elif found[job.kind.status] == "Stopped":
        what = "Somebody stopped it. Resume the run to go on: "
    else:
        what = "Mend what the log says, then resume the run: "
    return f"{text}\n{what}another attempt goes on from the last checkpoint. {job.link}"


def _last_words(job: Job) -> list[str]:
    """The end of a training's log; of a search, why its trials failed."""
    if job.kind is TRAINING:
        return last_lines(job.account, job.name)
    found = trials_of(job)
    reasons = [
        f"{one['TrainingJobName']}: {one['FailureReason']}"
        for one in found
        if one.get("FailureReason")
    ]
    return reasons[-5:]


def trials_of(job: Job) -> list[Json]:
    """The trials of a search in the order of their start: each as listed and as described."""
    account = job.account

    def question() -> list[Json]:
        found: list[Json] = []
        more: dict[str, str] = {}
        while True:
            answer = account.sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(
                HyperParameterTuningJobName=job.name,
                SortBy="CreationTime",
                SortOrder="Ascending",
                MaxResults=100,
                **more,
            )
            found += answer["TrainingJobSummaries"]
            if not answer.get("NextToken"):
                return found
            more = {"NextToken": answer["NextToken"]}

    listed = account.ask("ListTrainingJobsForHyperParameterTuningJob", question)
    return [
        {**(Job(account, TRAINING, one["TrainingJobName"]).describe() or {}), **one}
        for one in listed
    ]
