"""Jobs that are at work: of a project or of one run, found by name and tag from any machine."""

import datetime
from dataclasses import dataclass
from typing import Any

from birdsong.aws import jobs, names
from birdsong.aws.clients import Account
from birdsong.aws.prices import PriceTable


@dataclass(frozen=True)
class AtWork:
    """One job.

    Attributes:
        job: Itself.
        run: Id of its run; empty where its tags do not say it.
        step: train or tune.
        state: As SageMaker says it.
        since: When it was made.
        instance: Kind of machine; of a tuning job that of its trials.
        instances: How many machines it has now.
        spot: Whether they are spot machines.
        trial: Whether it is a trial of a tuning job that is listed too.
        usd_per_hour: At most, at the on-demand rate; None where no rate is known. A tuning job has
            none: its trials have.
    """

    job: jobs.Job
    run: str
    step: str
    state: str
    since: datetime.datetime
    instance: str
    instances: int
    spot: bool
    trial: bool
    usd_per_hour: float | None


def find(account: Account, table: PriceTable, run: str = "") -> list[AtWork]:
    """What is at work, oldest first.

    Args:
        account: Clients.
        table: Rates.
        run: Of this run alone; empty for all of the project.

    Raises:
        BirdsongError: AWS refuses or cannot be reached.
    """
    start = names.of_run(run) if run else f"{names.PROJECT}-"
    searches = list(jobs.at_work(account, jobs.TUNING, start))
    found = [
        _look(account, table, jobs.Job(account, jobs.TUNING, name), False) for name in searches
    ]
    for name in jobs.at_work(account, jobs.TRAINING, start):
        trial = any(name.startswith(f"{search}-") for search in searches)
        found.append(_look(account, table, jobs.Job(account, jobs.TRAINING, name), trial))
    # By the tag too: another project's names may begin with the same word.
    mine = [one for one in found if one is not None and one.run and run in ("", one.run)]
    return sorted(mine, key=lambda one: one.since)


def _look(account: Account, table: PriceTable, job: jobs.Job, trial: bool) -> AtWork | None:
    told = job.describe()
    if told is None or told[job.kind.status] not in jobs.AT_WORK:
        return None  # it ended meanwhile
    arn = told["TrainingJobArn" if job.kind is jobs.TRAINING else "HyperParameterTuningJobArn"]
    listed: Any = account.ask("ListTags", lambda: account.sagemaker.list_tags(ResourceArn=arn))
    tags = {tag["Key"]: tag["Value"] for tag in listed["Tags"]}
    asked = told.get("TrainingJobDefinition") or told
    resources = asked.get("ResourceConfig") or {}
    instance, count = resources.get("InstanceType", ""), int(resources.get("InstanceCount", 1))
    rate = table.rate(account.region, instance)
    costs = job.kind is jobs.TRAINING and rate is not None
    return AtWork(
        job=job,
        run=tags.get(names.TAG_RUN, ""),
        step=tags.get(names.TAG_STEP, job.kind.step),
        state=told.get("SecondaryStatus") or told[job.kind.status],
        since=told["CreationTime"],
        instance=instance,
        instances=count if job.kind is jobs.TRAINING else 0,
        spot=bool(asked.get("EnableManagedSpotTraining")),
        trial=trial,
        usd_per_hour=rate.usd_per_hour * count if costs and rate else None,
    )


def stop(account: Account, table: PriceTable, run: str) -> list[str]:
    """Ask all jobs of a run to stop; returns their names. A search stops its own trials."""
    found = [one for one in find(account, table, run) if not one.trial]
    for one in found:
        one.job.stop()
    return [one.job.name for one in found]
