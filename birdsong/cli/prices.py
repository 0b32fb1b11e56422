"""`prices`: what instances of SageMaker cost, from the dated table."""

from pathlib import Path
from typing import Annotated

import typer


def prices(
    region: Annotated[
        str, typer.Option(metavar="REGION", help="As us-east-1; empty: all in the table.")
    ] = "",
    table: Annotated[
        str,
        typer.Option(
            "--prices",
            metavar="FILE",
            help="A table of your own, in the form of birdsong/aws/prices.json.",
        ),
    ] = "",
    refresh: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Ask the AWS Pricing API (needs credentials with pricing:GetProducts) and write "
            "this file.",
        ),
    ] = None,
) -> None:
    """Show the rates of SageMaker's instances, with source and date; or ask AWS for them.

    What is not in the table is not known, and a run with --budget refuses it.
    """
    from birdsong.aws import prices as library
    from birdsong.errors import ConfigError

    if refresh is not None:
        if not region:
            raise ConfigError("--refresh needs --region, for example --region us-east-1.")
        _refresh(region, refresh)
        table = str(refresh)
    rates = [rate for rate in library.load(table).rates if region in ("", rate.region)]
    if not rates:
        typer.echo(f"No rate is known in {region}.")
        return
    typer.echo(f"{'region':<16}{'use':<10}{'instance':<18}{'USD/h':>8}  {'date':<12}source")
    for rate in sorted(rates, key=lambda rate: (rate.region, rate.use, rate.instance)):
        typer.echo(
            f"{rate.region:<16}{rate.use:<10}{rate.instance:<18}{rate.usd_per_hour:>8.3f}  "
            f"{rate.date.isoformat():<12}{rate.where}"
        )


def _refresh(region: str, target: Path) -> None:
    import datetime

    from birdsong import artifacts
    from birdsong.aws import prices as library
    from birdsong.aws.calls import client, told

    with told(f"the AWS Pricing API for {region}"):
        today = datetime.datetime.now(datetime.UTC).date()
        table = library.refreshed(client("pricing", library.PRICING_REGION), region, today)
    with artifacts.write_aside(target) as aside:
        artifacts.write_json(aside, table)
    typer.echo(f"{len(table['rates'])} rates of {region} are in {target}.")
