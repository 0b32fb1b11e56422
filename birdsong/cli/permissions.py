"""`permissions`: the smallest policies for SageMaker, or a CloudFormation template with them."""

from typing import Annotated

import typer


def permissions(
    which: Annotated[
        str,
        typer.Argument(
            metavar="WHICH",
            help="pipeline (the steps), job (jobs and endpoints), job-vpc (beside it, in subnets "
            "of yours), or template (CloudFormation: bucket, role and policy).",
        ),
    ] = "template",
    account: Annotated[str, typer.Option(metavar="DIGITS", help="Your account.")] = "",
    region: Annotated[str, typer.Option(metavar="REGION", help="As eu-west-1.")] = "",
    bucket: Annotated[str, typer.Option(metavar="NAME", help="Your bucket.")] = "",
    name: Annotated[
        str,
        typer.Option(metavar="NAME", help="How groups, endpoints and the role NAME-job begin."),
    ] = "birdsong",
) -> None:
    """Print what AWS must allow, as JSON for `aws iam` or `aws cloudformation deploy`.

    What each statement is for stands in birdsong/aws/README.md.
    """
    import json

    from birdsong.aws import permissions as library
    from birdsong.errors import ConfigError

    if which == "template":
        typer.echo(json.dumps(library.template(), indent=2))
        return
    if which not in (library.PIPELINE, library.JOB, library.JOB_IN_VPC):
        raise ConfigError(f"{which!r}: choose pipeline, job, job-vpc or template.")
    typer.echo(json.dumps(library.filled(which, account, region, bucket, name), indent=2))
