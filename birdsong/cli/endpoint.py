"""`endpoint`: look at an endpoint on SageMaker, go back to the version before, delete it."""

from typing import Annotated, Any

import typer

from birdsong.cli.options import Yes

app = typer.Typer(
    help="Look at an endpoint on SageMaker, go back, delete it.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the endpoint.")]
Region = Annotated[
    str,
    typer.Option(
        metavar="REGION", help="As eu-west-1; empty: as AWS_DEFAULT_REGION or profile say."
    ),
]


@app.command("show")
def show(
    name: Name = "birdsong",
    region: Region = "",
    prices: Annotated[
        str, typer.Option(metavar="FILE", help="Your own price table, see `prices`.")
    ] = "",
    json_output: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show the state of an endpoint, what it serves and served before, and what it costs."""
    import json

    from birdsong.errors import ConfigError

    with _told(name):
        found = _found(name, region, prices)
    if found is None:
        raise ConfigError(f"There is no endpoint {name} here. Check its name and --region.")
    if json_output:
        typer.echo(json.dumps(found, indent=1))
        return
    for key, value in found.items():
        typer.echo(f"{key:<10} {value}")


def _told(name: str) -> Any:
    from birdsong.aws import calls

    return calls.told(f"The endpoint {name}")


def _found(name: str, region: str, table: str) -> dict[str, Any] | None:
    from birdsong.aws import prices
    from birdsong.aws.endpoint import Endpoint

    endpoint = Endpoint(name, region)
    now = endpoint.describe()
    if now is None:
        return None
    found = {"endpoint": name, "region": endpoint.region, "state": now["EndpointStatus"]}
    if now.get("FailureReason"):
        found["reason"] = now["FailureReason"]
    config = endpoint.config(now["EndpointConfigName"])
    found["config"] = now["EndpointConfigName"]
    if config is not None:
        variant = config["ProductionVariants"][0]
        found["version"] = endpoint.package_of(config) or "not of a registry"
        if serverless := variant.get("ServerlessConfig"):
            found["runs on"] = (
                f"serverless, {serverless['MemorySizeInMB']} MB, at most "
                f"{serverless['MaxConcurrency']} requests at once"
            )
            found["costs"] = "by request and second, nothing at rest"
        else:
            count, kind = variant.get("InitialInstanceCount", 1), variant["InstanceType"]
            found["runs on"] = f"{count} x {kind}"
            rate = prices.load(table).rate(endpoint.region, kind, "hosting")
            found["costs"] = (
                f"{rate.usd_per_hour * count:.3f} USD per hour ({rate.date}, {rate.where})"
                if rate
                else f"not known: the price table has no hosting rate of {kind} here"
            )
        found["before"] = endpoint.previous_of(config) or "nothing"
    found["console"] = (
        f"https://{endpoint.region}.console.aws.amazon.com/sagemaker/home?region="
        f"{endpoint.region}#/endpoints/{name}"
    )
    return found


@app.command("rollback")
def rollback(name: Name = "birdsong", region: Region = "", yes: Yes = False) -> None:
    """Go back to the configuration that was in service before; said twice, it comes back."""
    from birdsong.aws.endpoint import Endpoint

    if not yes:
        typer.confirm(f"Let the endpoint {name} serve what it served before?", abort=True)
    with _told(name):
        changed = Endpoint(name, region).rollback()
    typer.echo(f"The endpoint {name} serves {changed.config} (before: {changed.previous}).")


@app.command("delete")
def delete(name: Name = "birdsong", region: Region = "", yes: Yes = False) -> None:
    """Delete an endpoint with its configurations and models; registered versions stay."""
    from birdsong.aws.endpoint import Endpoint

    if not yes:
        typer.confirm(f"Delete the endpoint {name}? Requests will fail from then on.", abort=True)
    with _told(name):
        gone = Endpoint(name, region).delete()
    more = f" and {len(gone)} configuration{'s' * (len(gone) != 1)} with their models"
    typer.echo(f"Deleted the endpoint {name}{more if gone else ''}.")
