"""`resume`, `rerun` and `stop`: going on from an earlier run, and ending one."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from birdsong.cli.jobs import Region
from birdsong.cli.options import (
    AtHost,
    Auth,
    ClusterFile,
    DryRun,
    RunnerOption,
    RunsFolder,
    SageMakerFile,
    StepMemory,
    StepTimeout,
    Wait,
    Yes,
)

if TYPE_CHECKING:
    from birdsong.aws.settings import JobSettings
    from birdsong.runs.record import Run
    from birdsong.runs.rerun import Plan
    from birdsong.runs.step_process import Limits

RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of a run, the start of one, or latest.")
]


def resume(
    context: typer.Context,
    run: RunName,
    dry_run: DryRun = False,
    machine_is_gone: Annotated[
        bool,
        typer.Option(
            "--machine-is-gone",
            help="Go on with a run that says it is at work on another machine: that one is gone.",
        ),
    ] = False,
    runner: RunnerOption = None,
    step_timeout: StepTimeout = None,
    step_memory: StepMemory = None,
    sagemaker: SageMakerFile = None,
    runs: RunsFolder = Path("runs"),
    host: AtHost = None,
    wait: Wait = False,
    auth: Auth = "auto",
    cluster: ClusterFile = None,
) -> int:
    """Go on after a failure, a kill or a power cut: finished steps stand, the rest runs.

    A new run is made; the old one stays as it is. Ends as `run` does. With --host the cluster
    goes on with the run itself, with the code that it had.
    """
    if host is not None:
        from birdsong.cli import remote

        return remote.resume(run, host, auth, cluster, wait=wait, dry=dry_run)
    from birdsong.cli.options import limits
    from birdsong.runs import elsewhere, graph, record
    from birdsong.runs import rerun as planning

    given = limits(step_timeout, step_memory)
    parent = record.find(runs, run)
    if machine_is_gone and record.is_elsewhere(parent):
        record.bury(parent)
    if parent.state == record.State.SUCCEEDED:
        typer.echo(f"Run {parent.id} has {parent.state}: there is nothing to do.")
        return 0
    from pipeline import birdsong

    jobs = _jobs_of(context, parent, sagemaker)
    dag = elsewhere.on_sagemaker(birdsong, jobs)
    plan = planning.resume(parent, graph.as_ir(dag))
    return _start(
        dag,
        plan,
        runs,
        runner or parent.runner,
        given,
        jobs,
        dry_run=dry_run,
        yes=True,
        jobs_of=parent.jobs_of or parent.id,
    )


def rerun(
    context: typer.Context,
    run: RunName,
    from_step: Annotated[
        str | None,
        typer.Option("--from", metavar="STEP", help="This step, and all that depends on it."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="STEP",
            help="This step alone, with the inputs that it had; its metrics beside the old ones.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change a parameter; what that touches runs. May be given often.",
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    runner: RunnerOption = None,
    step_timeout: StepTimeout = None,
    step_memory: StepMemory = None,
    sagemaker: SageMakerFile = None,
    runs: RunsFolder = Path("runs"),
    host: AtHost = None,
    wait: Wait = False,
    auth: Auth = "auto",
    cluster: ClusterFile = None,
) -> int:
    """Run a part of an earlier run again: the plan is shown first, the rest is reused.

    A step runs although its inputs may come out as before. Ends as `run` does. With --host it is a
    new run on the cluster, and the rest comes from the cache of KFP.
    """
    if host is not None:
        from birdsong.cli import remote

        return remote.rerun(
            run,
            host,
            auth,
            cluster,
            from_step=from_step,
            only=only,
            settings=settings or [],
            wait=wait,
            dry=dry_run,
            yes=yes,
        )
    from birdsong.cli.options import limits
    from birdsong.errors import ConfigError
    from birdsong.runs import elsewhere, graph, record
    from birdsong.runs import rerun as planning

    given = limits(step_timeout, step_memory)
    if only is not None and from_step is not None:
        raise ConfigError("Give either --from or --only.")
    parent = record.find(runs, run)
    from pipeline import birdsong

    jobs = _jobs_of(context, parent, sagemaker)
    dag = elsewhere.on_sagemaker(birdsong, jobs)
    ir = graph.as_ir(dag)
    if only is not None:
        plan = planning.only(parent, ir, only, settings or [])
    else:
        plan = planning.rerun(parent, ir, from_step=from_step, settings=settings or [])
    return _start(dag, plan, runs, runner or parent.runner, given, jobs, dry_run=dry_run, yes=yes)


def _jobs_of(context: typer.Context, parent: "Run", sagemaker: Path | None) -> "JobSettings | None":
    """Settings of the jobs: of a file that was given, else those that the run had.

    A file that a variable names moves no run to SageMaker that was here.
    """
    from birdsong.cli.options import by_hand, job_settings
    from birdsong.runs import elsewhere

    if by_hand(context, "sagemaker"):
        return job_settings(context, "sagemaker", sagemaker)
    return elsewhere.of_run(parent)


def _start(
    dag: Any,
    plan: "Plan",
    runs: Path,
    runner: str,
    given: "Limits",
    jobs: "JobSettings | None",
    *,
    dry_run: bool,
    yes: bool,
    jobs_of: str = "",
) -> int:
    from birdsong.cli import console
    from birdsong.runs import elsewhere, engine, graph, runners, signals
    from birdsong.runs import rerun as planning
    from birdsong.runs.record import State

    typer.echo(planning.as_text(plan))
    if not plan.runs:
        typer.echo("There is nothing to do.")
        return 0
    chosen = runners.make(runner, graph.as_ir(dag), plan.values, runs)
    if dry_run:
        for line in [*chosen.describe(), *elsewhere.describe(jobs, plan.values, plan.runs)]:
            typer.echo(line)
        return 0
    # Asked only where somebody can answer; a program that starts this has shown the plan itself.
    if not yes and sys.stdin.isatty() and not typer.confirm("Start?", default=True):
        return 0
    with signals.listening() as cancel, console.Live(runs) as live:
        result = engine.execute(
            dag,
            plan.values,
            runs,
            listener=live,
            cancel=cancel,
            pinned=plan.pinned,
            only=plan.only,
            limits=given,
            runner=chosen,
            parent=plan.parent.id,
            note=plan.note,
            jobs_of=jobs_of,
        )
    if plan.only is not None and result.state == State.SUCCEEDED:
        name = plan.only.name
        typer.echo(f"\n{name} in {plan.parent.id} (old) and {result.id} (new)")
        typer.echo(planning.compare_metrics(plan.parent.steps[name], result.steps[name]))
    console.summary(result, runs)
    return {State.SUCCEEDED: 0, State.CANCELLED: 130}.get(result.state, 1)


def stop(
    context: typer.Context,
    run: RunName,
    runs: RunsFolder = Path("runs"),
    sagemaker: SageMakerFile = None,
    region: Region = "",
    host: AtHost = None,
    auth: Auth = "auto",
    cluster: ClusterFile = None,
) -> int:
    """End a run as Ctrl-C does, and wait until its record says so; with --host one of a cluster.

    Its jobs on SageMaker are stopped too, also by a machine that does not know the run: give its
    full id with --region or --sagemaker. Ends with 0 when the run is over, with 1 when it still
    works after a minute.
    """
    from birdsong.cli.options import by_hand

    asked = bool(region) or by_hand(context, "sagemaker")
    if host is not None:
        from birdsong.cli import remote

        return remote.stop(run, host, auth, cluster, region, sagemaker, asked=asked)
    from birdsong.errors import ConfigError
    from birdsong.runs import elsewhere, record, stopping

    try:
        found = record.find(runs, run)
    except ConfigError:
        if not region and sagemaker is None:
            raise
        return stop_jobs(run, region, sagemaker)
    settings = elsewhere.of_run(found)
    try:
        seen = stopping.stop(found)
        typer.echo(f"Run {seen.id} is {seen.state}.")
    finally:
        # After the run, or a step that is tried again would start the next job.
        if asked or settings is not None:
            where = region or (settings.region if settings else "")
            stop_jobs(found.jobs_of or found.id, where, sagemaker)
    return 1 if seen.state == record.State.RUNNING else 0


def stop_jobs(run: str, region: str, sagemaker: Path | None) -> int:
    """Stop the jobs of a run on SageMaker, by name and tag."""
    from birdsong.aws import at_work
    from birdsong.cli.jobs import connect

    account, table = connect(region, sagemaker)
    stopped = at_work.stop(account, table, run)
    for name in stopped:
        typer.echo(f"Stopping {name}.")
    if not stopped:
        typer.echo(f"No job of run {run} is at work on SageMaker in {account.region}.")
    return 0
