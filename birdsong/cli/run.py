"""`run`: the DAG on this machine, a process or a container per step."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from birdsong.cli.options import (
    Budget,
    RunnerOption,
    RunsFolder,
    RunsOn,
    SageMakerFile,
    StepMemory,
    StepTimeout,
)


class Profile(StrEnum):
    """Names of `birdsong.profiles.PROFILES`."""

    DEMO = "demo"
    QUICK = "quick"
    REFERENCE = "reference"


def run(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Option(
            metavar="URI",
            help="Recordings: a folder, a zip, s3://bucket/prefix, gs://bucket/prefix (or a .zip "
            "there), or demo: for generated songs. Default: demo:.",
        ),
    ] = "",
    profile: Annotated[
        Profile | None,
        typer.Option(
            help="demo: generated songs, a tiny network. quick: small data on CPUs in minutes. "
            "reference: the full recipe, for GPUs. Default: demo for demo:, else quick.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A parameter of the pipeline, such as epochs=5 or target_fpr=0.02; may be "
            "given often. They are listed, with units and ranges, at the top of pipeline.py.",
        ),
    ] = None,
    runs: RunsFolder = Path("runs"),
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what would run, bytes, seconds and free disk; start nothing."
        ),
    ] = False,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Whether finished steps of earlier runs in the same folder are reused where code, "
            "parameters and the contents of inputs are the same.",
        ),
    ] = True,
    runs_on: RunsOn = "here",
    sagemaker: SageMakerFile = None,
    budget: Budget = None,
    runner: RunnerOption = None,
    step_timeout: StepTimeout = None,
    step_memory: StepMemory = None,
) -> int:
    """Run the pipeline here: ingest, split, featurize, tune, train, evaluate, register, deploy.

    Ends with 0, with 1 if a step failed, with 130 if it was cancelled.
    """
    from birdsong.cli.options import job_settings, limits
    from birdsong.runs import signals

    given = limits(step_timeout, step_memory)
    jobs = job_settings(context, runs_on, sagemaker, budget)
    with signals.listening() as cancel:
        from birdsong.cli import console
        from birdsong.runs import (
            arguments,
            code,
            elsewhere,
            engine,
            graph,
            plan,
            rerun,
            reuse,
            runners,
        )
        from birdsong.runs.record import State
        from pipeline import birdsong

        cancel.check_interrupt()
        dag = elsewhere.on_sagemaker(birdsong, jobs)
        ir = graph.as_ir(dag)
        values = arguments.resolve(
            ir, source=source, profile=profile, settings=settings or [], runs=runs
        )
        planned = plan.make(values, runs, graph.steps(ir))
        chosen = runners.make(runner or "subprocess", ir, values, runs)
        cancel.check_interrupt()
        if dry_run:
            lines = [*chosen.describe(), *elsewhere.describe(jobs, values)]
            typer.echo("\n".join([plan.as_text(planned), *lines]))
            if cache:
                found = rerun.forecast(
                    ir, values, reuse.Earlier(runs), code.versions(), chosen.images
                )
                typer.echo("reuse")
                for line in found:
                    typer.echo(f"  {line.step:<20} {line.what:<8} {line.why}")
            plan.refuse_if_it_does_not_fit(planned)
            return 0
        plan.refuse_if_it_does_not_fit(planned)
        with console.Live(runs) as live:
            result = engine.execute(
                dag,
                values,
                runs,
                listener=live,
                cancel=cancel,
                cache=cache,
                limits=given,
                runner=chosen,
            )
    console.summary(result, runs)
    return {State.SUCCEEDED: 0, State.CANCELLED: 130}.get(result.state, 1)
