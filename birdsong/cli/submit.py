"""`submit`: the DAG on a Kubeflow Pipelines backend."""

from typing import Annotated

import typer

from birdsong.cli.options import Auth, Budget, ClusterFile, Host, RunsOn, SageMakerFile, Wait
from birdsong.cli.run import Profile


def submit(
    context: typer.Context,
    host: Host,
    source: Annotated[
        str,
        typer.Option(
            metavar="URI",
            help="Recordings as a pod sees them: s3://bucket/prefix, gs://bucket/prefix, a path "
            "in a mounted claim, or demo: for generated songs. Default: demo:.",
        ),
    ] = "",
    profile: Annotated[
        Profile | None,
        typer.Option(
            help="Values and sizes of the steps. demo, quick: one node of 4 cores, no GPU. "
            "reference: large steps, a GPU for tune and train. Default: demo for demo:, else "
            "quick.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A parameter of the pipeline, such as epochs=5; may be given often.",
        ),
    ] = None,
    experiment: Annotated[
        str, typer.Option(metavar="NAME", help="Group of runs in KFP's UI; made if absent.")
    ] = "birdsong",
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Name of the run. Default: one that follows from what is asked for, so that the "
            "same submit twice is one run.",
        ),
    ] = "",
    again: Annotated[
        bool, typer.Option("--again", help="Start another run although this one exists.")
    ] = False,
    cluster: ClusterFile = None,
    runs_on: RunsOn = "here",
    sagemaker: SageMakerFile = None,
    budget: Budget = None,
    wait: Wait = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent; send nothing.")
    ] = False,
    auth: Auth = "auto",
) -> int:
    """Run the pipeline on a Kubeflow cluster: upload it, start a run, print its page.

    With --wait ends with 0, with 1 if a step failed, with 130 if the run was cancelled. A bearer
    token is taken from BIRDSONG_KFP_TOKEN or the file BIRDSONG_KFP_TOKEN_FILE.
    """
    import datetime
    import os

    from birdsong.cli import remote
    from birdsong.cli.options import job_settings
    from birdsong.errors import ConfigError
    from birdsong.kubeflow import arguments, compiling, submitting
    from birdsong.kubeflow import settings as clusters
    from birdsong.kubeflow.access import access as read_access

    described = clusters.read(cluster)
    access = read_access(host, auth, os.environ, described.namespace)
    if name and not name.isprintable():
        raise ConfigError("--name: needs printable letters.")
    jobs = job_settings(context, runs_on, sagemaker, budget)
    from birdsong.runs import graph
    from pipeline import birdsong

    values, chosen = arguments.resolve(
        graph.as_ir(birdsong), described, source=source, profile=profile, settings=settings or []
    )
    wanted = clusters.resources(described, chosen, runs_on)
    if runs_on == "here":
        arguments.check_devices(values, wanted)
    compiled = compiling.compile_for_cluster(described, wanted, runs_on, jobs)
    request = submitting.Request(
        compiled,
        values,
        experiment,
        name,
        note=f"submit, profile {chosen}",
        service_account=described.service_account,
        pipeline_root=described.pipeline_root,
    )
    if again:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        request = submitting.named(request, f"{request.run_name}-{stamp}")
    if dry_run:
        typer.echo(remote.as_text(request, access, wanted, compiled))
        return 0
    return remote.start(access, request, wait=wait)
