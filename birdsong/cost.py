"""What making a model cost: seconds, machines and, where a rate is known, US dollars.

tune and train write `cost.json` beside the `spec.json` of what they make, train with that of tune
before its own; the report and the card of the registered version show it. It is no part of an
artifact's hash nor of the bundle: the same model may have cost more at another time.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from birdsong import artifacts
from birdsong.errors import DataError

NOT_COUNTED = "Volumes, S3, logs and traffic are not counted."
HEADS = ("step", "machine", "seconds trained", "seconds billed", "saved", "US dollars")
UNKNOWN = "not known"
TUNE, TRAIN = "tune", "train"


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rate(_Plain):
    """The rate that dollars were reckoned with.

    Attributes:
        usd_per_hour: Of one instance, on demand.
        date: The day for which the source gives it, as 2026-07-01.
        source, where: What the source is, and its address.
    """

    usd_per_hour: float
    date: str
    source: str
    where: str


class Billed(_Plain):
    """What AWS billed for the jobs of a step.

    Attributes:
        job: Name of the training or tuning job.
        instance: As ml.g5.4xlarge; empty where the jobs used several kinds.
        region: As us-east-1.
        seconds: Of instances; what was trained is in `Part.seconds`.
        interruptions: How often a spot machine was taken away.
        jobs: How many training jobs.
        unknown: Jobs whose seconds SageMaker does not tell; they ended before they ran.
        rate: None where the price table has none.
    """

    job: str
    instance: str
    region: str
    seconds: int = Field(ge=0)
    interruptions: int = Field(ge=0)
    jobs: int = Field(ge=0)
    unknown: int = Field(ge=0)
    rate: Rate | None

    @property
    def usd(self) -> float | None:
        """US dollars at that rate; None where it is not known."""
        return None if self.rate is None else self.seconds / 3600 * self.rate.usd_per_hour


class Part(_Plain):
    """What one step cost.

    Attributes:
        step: tune or train.
        machine: What computed, in words; empty where nothing did or it is not known.
        seconds: Of training, over all trials, instances, interruptions and resumptions.
        trials: Of a search, 0 where none was asked for; None for train.
        billed: None where no AWS job did it.
    """

    step: str
    machine: str
    seconds: float = Field(ge=0)
    trials: int | None = None
    billed: Billed | None = None

    @property
    def usd(self) -> float | None:
        """US dollars; None where they are not known."""
        if self.trials == 0:
            return 0.0
        return None if self.billed is None else self.billed.usd


class _File(_Plain):
    parts: list[Part]


def note(artifact: str | Path, *parts: Part) -> None:
    """Write what an artifact and those behind it cost into its folder.

    Args:
        artifact: The folder, best while `artifacts.create` still holds it.
        parts: In the order of the steps.
    """
    artifacts.write_json(
        Path(artifact) / artifacts.COST, _File(parts=list(parts)).model_dump(mode="json")
    )


def read(artifact: str | Path) -> list[Part]:
    """What an artifact cost, by step; empty where nobody noted it.

    Raises:
        DataError: The note is damaged.
    """
    place = Path(artifact) / artifacts.COST
    if not place.is_file():
        return []
    try:
        return _File.model_validate(artifacts.read_json(place)).parts
    except ValidationError as error:
        raise DataError(
            f"{place} is not what tune and train write there ({error.errors()[0]['msg']}). Delete "
            "it, and the cost counts as not known; or run the step again."
        ) from error


def figures(parts: Sequence[Part]) -> dict[str, float]:
    """The sums that are known, by name, for a registry."""
    if not parts:
        return {}
    found = {"cost_trained_seconds": sum(part.seconds for part in parts)}
    billed = [part.billed for part in parts if part.billed is not None]
    if billed:
        found["cost_billed_seconds"] = float(sum(one.seconds for one in billed))
    dollars = [part.usd for part in parts]
    if billed and None not in dollars:
        found["cost_usd"] = round(sum(usd for usd in dollars if usd is not None), 4)
    return found


def rows(parts: Sequence[Part]) -> list[tuple[str, ...]]:
    """A table under `HEADS`: each step, and their sum where both did something."""
    worked = [part for part in parts if part.trials != 0]
    found = [_row(part) for part in worked]
    if len(worked) > 1:
        found.append(_sum(worked))
    return found


def _row(part: Part) -> tuple[str, ...]:
    name = part.step if part.trials is None else f"{part.step}, {_many(part.trials, 'trial')}"
    billed = part.billed
    return (
        name,
        part.machine or UNKNOWN,
        f"{part.seconds:,.0f}",
        "–" if billed is None else f"{billed.seconds:,}",
        "–" if billed is None else _saved(part.seconds, billed.seconds),
        UNKNOWN if part.usd is None else dollars(part.usd),
    )


def _sum(parts: Sequence[Part]) -> tuple[str, ...]:
    billed = [part for part in parts if part.billed is not None]
    seconds = sum(part.billed.seconds for part in billed if part.billed is not None)
    known = [part.usd for part in parts if part.usd is not None]
    usd = dollars(sum(known)) if known else ""
    if len(known) < len(parts):
        usd = f"{usd} and {UNKNOWN}" if usd else UNKNOWN
    return (
        "together",
        "",
        f"{sum(part.seconds for part in parts):,.0f}",
        f"{seconds:,}" if billed else "–",
        _saved(sum(part.seconds for part in billed), seconds) if billed else "–",
        usd,
    )


def _saved(trained: float, billed: float) -> str:
    return f"{100 * (1 - billed / trained):.0f} %" if trained else "–"


def sentences(parts: Sequence[Part]) -> list[str]:
    """How to read the table, and what is not known."""
    if not parts:
        return ["What the training cost is not known: nothing was noted when the model was made."]
    return list(_told(parts))


def _told(parts: Sequence[Part]) -> Iterator[str]:
    searches = [part for part in parts if part.step == TUNE]
    if not searches:
        yield "What a search before the training cost is not known."
    elif searches[0].trials == 0:
        yield "No search was asked for."
    worked = [part for part in parts if part.trials != 0]
    for rate, where in dict.fromkeys(
        (part.billed.rate, f"{part.billed.instance} in {part.billed.region}")
        for part in worked
        if part.billed is not None and part.billed.rate is not None
    ):
        yield (
            f"Dollars are billed seconds at {rate.usd_per_hour:g} USD per hour of {where}, on "
            f"demand, as of {rate.date}. {NOT_COUNTED} Source: {rate.source}, {rate.where}."
        )
    for part in worked:
        yield from _of_step(part)


def _of_step(part: Part) -> Iterator[str]:
    billed = part.billed
    if billed is None:
        yield (
            f"{part.step} ran on a machine that bills nothing by itself; what its time costs is "
            "not known."
        )
        return
    if billed.rate is None:
        what = billed.instance or "several kinds of machines"
        yield (
            f"What {part.step} cost in dollars is not known: the price table has no rate for "
            f"{what} in {billed.region}."
        )
    if billed.interruptions:
        yield (
            f"{part.step} lost its spot machine "
            f"{'once' if billed.interruptions == 1 else f'{billed.interruptions} times'}."
        )
    if billed.unknown:
        yield (
            f"Of the {_many(billed.jobs, 'job')} of {part.step}, {billed.unknown} ended without "
            "seconds: SageMaker tells none."
        )


def markdown(parts: Sequence[Part]) -> str:
    """A section for a model card; it ends with a line break."""
    lines = ["## What it cost", ""]
    if found := rows(parts):
        lines += [f"| {' | '.join(HEADS)} |", "|---|---|---:|---:|---:|---:|"]
        lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in found]
        lines.append("")
    lines += [f"- {sentence}" for sentence in sentences(parts)]
    return "\n".join([*lines, ""])


def dollars(usd: float) -> str:
    """US dollars without their name, to the cent; below a cent to a hundredth of one."""
    return f"{usd:.2f}" if usd >= 0.01 or not usd else f"{usd:.4f}"


def _many(count: int, one: str) -> str:
    return f"{count:,} {one}{'s' * (count != 1)}"
