"""What jobs may cost before they start, and what they did cost.

Before it creates a job, a step calls `estimate` and `Estimate.check`; after the job it calls
`bill` with what SageMaker says of it. Both become text for the log and figures for the record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from birdsong import cost
from birdsong.aws.prices import PriceTable, Rate
from birdsong.errors import ConfigError


@dataclass(frozen=True)
class Estimate:
    """The most that jobs can cost.

    Attributes:
        instance: As ml.g5.4xlarge.
        region: As us-east-1.
        instances: Of one job.
        jobs: How many jobs may run, one after another or at once.
        seconds: Longest run of one job.
        spot: Whether spot may make it cheaper; the bound assumes that it does not.
        rate: None where it is not known.
    """

    instance: str
    region: str
    instances: int
    jobs: int
    seconds: int
    spot: bool
    rate: Rate | None

    @property
    def hours(self) -> float:
        """Most hours of instances together."""
        return self.seconds * self.instances * self.jobs / 3600

    @property
    def usd(self) -> float | None:
        """The upper bound in US dollars; None where the rate is not known."""
        return None if self.rate is None else self.hours * self.rate.usd_per_hour

    def __str__(self) -> str:
        each = f"{self.jobs} x " if self.jobs > 1 else ""
        each += f"{self.instances} x " if self.instances > 1 else ""
        text = f"At most {each}{_duration(self.seconds)} of {self.instance} in {self.region}"
        if self.rate is None or self.usd is None:
            return (
                f"{text}; what that costs is not known: the price table has no rate for it. "
                f"{_HOW_TO_KNOW}"
            )
        spot = " without any saving by spot" if self.spot else ""
        return (
            f"{text}: {_dollars(self.usd)}{spot}, at {self.rate.usd_per_hour:g} USD per hour and "
            f"instance ({self.rate.source}, {self.rate.date}). {cost.NOT_COUNTED}"
        )

    def check(self, budget_usd: float) -> None:
        """Refuse what may cost more than the budget.

        Args:
            budget_usd: US dollars; 0 for no budget.

        Raises:
            ConfigError: The bound is above the budget, or is not known though there is a budget.
        """
        if not budget_usd:
            return
        if self.usd is None:
            raise ConfigError(
                f"The budget is {_dollars(budget_usd)}, but it cannot be kept: no rate is known "
                f"for {self.instance} in {self.region}. {_HOW_TO_KNOW} Or start without a budget."
            )
        if self.usd > budget_usd:
            raise ConfigError(
                f"{self} That is above the budget of {_dollars(budget_usd)}, so nothing was "
                "started. Lower the longest run, the instances or the jobs, take a cheaper "
                "instance, or raise the budget."
            )


_HOW_TO_KNOW = (
    "Give a table of your own (prices=FILE, in the form of birdsong/aws/prices.json), which "
    "`python pipeline.py prices --region REGION --refresh FILE` asks AWS for."
)


def estimate(
    table: PriceTable,
    region: str,
    instance: str,
    seconds: int,
    instances: int = 1,
    jobs: int = 1,
    spot: bool = True,
) -> Estimate:
    """The most that jobs can cost: longest run x rate x instances x jobs.

    Args:
        table: Rates.
        region: As us-east-1.
        instance: As ml.g5.4xlarge.
        seconds: MaxRuntimeInSeconds of one job, over all of its interruptions.
        instances: Of one job.
        jobs: MaxNumberOfTrainingJobs of a tuning job, else 1.
        spot: Whether the job runs on spot; said, never subtracted.
    """
    return Estimate(instance, region, instances, jobs, seconds, spot, table.rate(region, instance))


@dataclass(frozen=True)
class Bill:
    """What jobs did cost.

    Attributes:
        trained_seconds: Of instances, what on-demand machines would have billed.
        billed_seconds: Of instances, what was billed.
        interruptions: How often a spot machine was taken away.
        jobs: How many jobs.
        unknown: Jobs whose seconds SageMaker does not tell (they ended before they ran).
        instance: As ml.g5.4xlarge; empty where the jobs used several kinds.
        region: As us-east-1.
        rate: None where it is not known, or where the jobs used several kinds of instances.
    """

    trained_seconds: int
    billed_seconds: int
    interruptions: int
    jobs: int
    unknown: int
    instance: str
    region: str
    rate: Rate | None

    @property
    def saved_percent(self) -> float | None:
        """Saved by spot, of what on-demand would have cost; None where nothing was trained."""
        if not self.trained_seconds:
            return None
        return (1 - self.billed_seconds / self.trained_seconds) * 100

    @property
    def usd(self) -> float | None:
        """US dollars at the table's rate; None where it is not known."""
        return None if self.rate is None else self.billed_seconds / 3600 * self.rate.usd_per_hour

    def __str__(self) -> str:
        text = f"Trained {self.trained_seconds:,} s, billed {self.billed_seconds:,} s"
        if self.saved_percent is not None:
            text += f", {self.saved_percent:.0f} % saved"
        if self.interruptions:
            text += f", {self.interruptions} interruption{'s' * (self.interruptions > 1)}"
        if self.rate is None or self.usd is None:
            return f"{text}; in dollars: not known, for want of a rate."
        return (
            f"{text}: {_dollars(self.usd)} at {self.rate.usd_per_hour:g} USD per hour and instance "
            f"({self.rate.date}). {cost.NOT_COUNTED}"
        )

    def billed(self, job: str) -> cost.Billed:
        """As it stands in `cost.json`, for the report and the model card.

        Args:
            job: Name of the training or tuning job.
        """
        rate = None
        if self.rate is not None:
            rate = cost.Rate(
                usd_per_hour=self.rate.usd_per_hour,
                date=self.rate.date.isoformat(),
                source=self.rate.source,
                where=self.rate.where,
            )
        return cost.Billed(
            job=job,
            instance=self.instance,
            region=self.region,
            seconds=self.billed_seconds,
            interruptions=self.interruptions,
            jobs=self.jobs,
            unknown=self.unknown,
            rate=rate,
        )

    def metrics(self) -> dict[str, float]:
        """The figures that are known, for the step's metrics."""
        found = {
            "trained_seconds": float(self.trained_seconds),
            "billed_seconds": float(self.billed_seconds),
        }
        if self.saved_percent is not None:
            found["saved_percent"] = round(self.saved_percent, 1)
        if self.usd is not None:
            found["usd"] = round(self.usd, 4)
        return found


def bill(described: Sequence[Mapping[str, Any]], table: PriceTable, region: str) -> Bill:
    """What training jobs did cost.

    Args:
        described: Answers of DescribeTrainingJob, one for each job (each trial of a tuning job,
            each attempt of a step), as they are after its end.
        table: Rates.
        region: As us-east-1.

    Source:
        DescribeTrainingJob: TrainingTimeInSeconds and BillableTimeInSeconds; the saving is
        (1 - BillableTimeInSeconds / TrainingTimeInSeconds) x 100.
    """
    trained = billed = interruptions = unknown = 0
    kinds = set()
    for job in described:
        resources = job.get("ResourceConfig") or {}
        instances = int(resources.get("InstanceCount") or 1)
        kinds.add(str(resources.get("InstanceType") or ""))
        seconds = job.get("TrainingTimeInSeconds")
        if seconds is None:
            unknown += 1
            continue
        # On demand both are the same, and AWS need not repeat it.
        paid = job.get("BillableTimeInSeconds")
        trained += int(seconds) * instances
        billed += int(seconds if paid is None else paid) * instances
        interruptions += sum(
            change.get("Status") == "Interrupted"
            for change in job.get("SecondaryStatusTransitions") or ()
        )
    instance = kinds.pop() if len(kinds) == 1 else ""
    rate = table.rate(region, instance) if instance else None
    return Bill(trained, billed, interruptions, len(described), unknown, instance, region, rate)


def _dollars(usd: float) -> str:
    return f"{cost.dollars(usd)} USD"


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes)
    return " ".join(parts + [f"{rest} s"] * bool(rest)) or "0 s"
