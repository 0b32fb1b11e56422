"""What train and tune have in common as steps whose computing is done by jobs.

The settings and the run come from the environment, the account and its bucket are looked at before
anything is sent, no job starts above the budget, and a signal stops the job.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsong import cost
from birdsong.aws import jobs, money, prices, training_request
from birdsong.aws import settings as job_settings
from birdsong.aws.bucket import Bucket, Sent
from birdsong.aws.cancelling import Guard
from birdsong.aws.clients import Account
from birdsong.aws.settings import JobSettings
from birdsong.config import TrainConfig

Json = dict[str, Any]


@dataclass(frozen=True)
class JobStep:
    """A step under way.

    Attributes:
        step: tune or train.
        settings: Of the project's jobs.
        run: Id of the run that the jobs belong to.
        account, store: The account, and its bucket.
        guard: What stops the job on a signal.
        table: Rates.
    """

    step: str
    settings: JobSettings
    run: str
    account: Account
    store: Bucket
    guard: Guard
    table: prices.PriceTable

    def send(self, development: str | Path) -> Sent:
        """Put the features into the bucket, and say how the machine gets them."""
        data = self.store.put(development)
        print(training_request.describe_input(self.settings, data), flush=True)
        return data

    def keep_budget(self, definition: Mapping[str, Any], count: int = 1) -> None:
        """Say what jobs may cost at most.

        Args:
            definition: Of one of them, as `training_request.definition` made it.
            count: How many there may be.

        Raises:
            ConfigError: It is above the budget, or not known though there is one.
        """
        bound = money.estimate(
            self.table,
            self.account.region,
            self.settings.instance,
            definition["StoppingCondition"]["MaxRuntimeInSeconds"],
            jobs=count,
            spot=self.settings.spot,
        )
        print(f"SageMaker: {bound}", flush=True)
        bound.check(self.settings.budget_usd)

    def run_job(self, kind: jobs.Kind, request: Json) -> tuple[jobs.Job, Json]:
        """Start or find the job and follow it to a good end.

        Raises:
            JobError: It failed or was stopped.
            BirdsongError: AWS refuses.
        """
        return jobs.run(
            self.account, kind, self.run, request, self.settings.attempts, self.guard, tell
        )

    def bill(self, described: Sequence[Mapping[str, Any]]) -> money.Bill:
        """What the jobs did cost, which is also said.

        Args:
            described: Answers of DescribeTrainingJob.
        """
        found = money.bill(described, self.table, self.account.region)
        print(f"SageMaker: {found}", flush=True)
        return found

    def part(
        self, bill: money.Bill, job: jobs.Job, inside: str = "", trials: int | None = None
    ) -> cost.Part:
        """The bill as the report and the model card take it.

        Args:
            bill: From `bill`.
            job: The training or tuning job.
            inside: What the job says of its machine; empty where it said nothing.
            trials: Of a search.
        """
        several = f"{self.settings.count} x " if self.settings.count > 1 else ""
        what = bill.instance or "several kinds of machines"
        how = "managed spot" if self.settings.spot else "on demand"
        machine = f"SageMaker, {several}{what} in {bill.region}, {how}"
        return cost.Part(
            step=self.step,
            machine=f"{machine} ({inside})" if inside else machine,
            seconds=bill.trained_seconds,
            trials=trials,
            billed=bill.billed(job.name),
        )


@contextmanager
def begun(step: str, config: TrainConfig) -> Iterator[JobStep]:
    """Look at settings, account and bucket, and listen for signals until the step ends.

    Args:
        step: tune or train.
        config: Settings of the training.

    Raises:
        ConfigError: The settings do not fit, or the bucket is not one that the jobs can use.
        BirdsongError: AWS refuses, or cannot be reached.
    """
    settings, run = job_settings.of_step(), job_settings.run_of_step()
    training_request.check(config)
    guard = Guard(settings.on_cancel)
    with guard.listening():
        account = Account(settings.region)
        store = Bucket(account, settings)
        store.check()
        table = prices.load(settings.prices)
        yield JobStep(step, settings, run, account, store, guard, table)


def tell(line: str) -> None:
    """Write a line of the step's log at once."""
    print(line, flush=True)
