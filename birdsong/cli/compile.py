"""`compile`: the DAG for a Kubeflow Pipelines backend."""

from pathlib import Path
from typing import Annotated

import typer

from birdsong.cli.options import ClusterFile, RunsOn, SageMakerFile, job_settings
from birdsong.cli.run import Profile

SUFFIXES = (".yaml", ".yml")


def compile_pipeline(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="OUT.yaml", help="File to write: .yaml or .yml.")],
    profile: Annotated[
        Profile | None,
        typer.Option(
            help="Sizes of the steps. demo, quick: one node of 4 cores, no GPU. reference: large "
            "steps, a GPU for tune and train. Default: quick."
        ),
    ] = None,
    cluster: ClusterFile = None,
    runs_on: RunsOn = "here",
    sagemaker: SageMakerFile = None,
) -> None:
    """Write the DAG as KFP backends take it, the same file that `submit` uploads.

    Images, sizes, users and secrets by reference are in it; values of parameters are given when a
    run is made.
    """
    from birdsong.errors import ConfigError, StorageError

    if out.suffix not in SUFFIXES:
        raise ConfigError(
            f"{out}: the compiled pipeline is written as {', '.join(SUFFIXES)}, "
            f"not {out.suffix or 'without an ending'}."
        )
    from birdsong.kubeflow import compiling
    from birdsong.kubeflow import settings as clusters

    described = clusters.read(cluster)
    wanted = clusters.resources(described, profile, runs_on)
    jobs = job_settings(context, runs_on, sagemaker)
    compiled = compiling.compile_for_cluster(described, wanted, runs_on, jobs)
    aside = out.with_name(f".{out.stem}.writing{out.suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(compiled.as_yaml(), encoding="utf-8")
        aside.replace(out)
    except OSError as error:
        raise StorageError(f"{out} cannot be written ({error.strerror}).") from error
    finally:
        aside.unlink(missing_ok=True)
    typer.echo(f"Wrote {out}: pipeline {compiled.pipeline['pipelineInfo']['name']}.")
    if jobs is not None:
        typer.echo(f"tune and train start jobs on SageMaker ({jobs.instance}, {jobs.place}).")
