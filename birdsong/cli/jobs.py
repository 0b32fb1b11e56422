"""`jobs`: what runs on SageMaker now, and what it costs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birdsong.cli.options import SageMakerFile

if TYPE_CHECKING:
    from birdsong.aws.at_work import AtWork
    from birdsong.aws.clients import Account
    from birdsong.aws.prices import PriceTable

Region = Annotated[
    str,
    typer.Option(
        metavar="REGION",
        help="AWS region, such as eu-west-1. Default: of the file of --sagemaker, else of your "
        "AWS settings.",
    ),
]
"""`--region REGION`."""


def jobs(
    region: Region = "",
    run: Annotated[
        str, typer.Option("--run", metavar="RUN", help="Jobs of this run alone, by its full id.")
    ] = "",
    sagemaker: SageMakerFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as JSON.")] = False,
) -> None:
    """List the jobs of this project that are at work on SageMaker, and what they cost an hour.

    Found by name and tag, from any machine with credentials. End them with: stop RUN.
    """
    from birdsong.aws import at_work

    account, table = connect(region, sagemaker)
    found = at_work.find(account, table, run)
    typer.echo(as_json_text(found) if as_json else as_text(found, account.region))


def connect(region: str, sagemaker: Path | None) -> "tuple[Account, PriceTable]":
    """Clients for the region that is meant, and the rates."""
    from birdsong.aws import prices, settings
    from birdsong.aws.clients import Account

    described = settings.read(sagemaker) if sagemaker else None
    place = region or (described.region if described else "")
    return Account(place, patience=30.0), prices.load(described.prices if described else "")


def as_text(found: "list[AtWork]", region: str) -> str:
    """The list for people."""
    if not found:
        return f"No job of this project is at work in {region}."
    lines = []
    for one in found:
        rate = "no rate known" if one.usd_per_hour is None else f"{one.usd_per_hour:.2f} USD/h"
        machines = f"{one.instances} x {one.instance}{' spot' if one.spot else ''}, {rate}"
        if not one.instances:
            machines = f"trials on {one.instance}, which are listed too"
        since = one.since.strftime("%Y-%m-%d %H:%M")
        lines += [
            f"{one.job.name}",
            f"  {'trial' if one.trial else one.step} of run {one.run}, {one.state} since {since}",
            f"  {machines}",
            f"  {one.job.link}",
        ]
    known = [one.usd_per_hour for one in found if one.usd_per_hour is not None]
    unknown = sum(one.usd_per_hour is None and one.instances > 0 for one in found)
    total = f"Together at most {sum(known):.2f} USD/h at the on-demand rate"
    if unknown:
        total += f", and {unknown} without a known rate (python pipeline.py prices)"
    runs = ", ".join(dict.fromkeys(f"stop {one.run}" for one in found))
    return "\n".join([*lines, f"{total}. End them with: {runs}"])


def as_json_text(found: "list[AtWork]") -> str:
    """The list for programs."""
    import json

    rows = [
        {
            "name": one.job.name,
            "kind": one.job.kind.noun,
            "run": one.run,
            "step": one.step,
            "trial": one.trial,
            "state": one.state,
            "since": one.since.isoformat(),
            "instance": one.instance,
            "instances": one.instances,
            "spot": one.spot,
            "usd_per_hour": one.usd_per_hour,
            "link": one.job.link,
        }
        for one in found
    ]
    return json.dumps(rows, indent=1)
