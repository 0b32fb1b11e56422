"""What the commands do and say with `--host`: runs on a Kubeflow Pipelines backend."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from birdsong.errors import BirdsongError, ConfigError
from birdsong.runs.record import FINISHED, Run, State

if TYPE_CHECKING:
    from birdsong.kubeflow.access import Access
    from birdsong.kubeflow.api import Api
    from birdsong.kubeflow.compiling import Compiled
    from birdsong.kubeflow.settings import Resources
    from birdsong.kubeflow.submitting import Request

_SHOWN = 20
"""Runs that `runs list` shows."""


def _err(text: str) -> None:
    typer.echo(text, err=True)


def connect(host: str, auth: str, cluster: Path | None = None) -> "Api":
    """The backend, after it has said that it is one."""
    from birdsong.kubeflow import access, api
    from birdsong.kubeflow import settings as clusters

    given = access.access(host, auth, os.environ, clusters.read(cluster).namespace)
    _warn_of_plain_token(given)
    made = api.Api(given)
    made.check()
    return made


def _warn_of_plain_token(access: "Access") -> None:
    from urllib.parse import urlsplit

    parts = urlsplit(access.host)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if access.token and parts.scheme == "http" and not local:
        _err(f"The token goes unencrypted to {access.host}; prefer https.")


def find(backend: "Api", name: str) -> Any:
    """The run that `name` means: its id, the start of it, its name, or `latest`.

    Raises:
        ConfigError: None or several fit.
    """
    import uuid

    try:
        uuid.UUID(name)
    except ValueError:
        pass
    else:
        return backend.run(name)
    # A list of runs is long to send: the whole of it only where a part does not answer.
    found = backend.runs(most=1) if name == "latest" else backend.runs(name=name)
    fitting = found
    if not found:
        found = backend.runs(most=1000)
        fitting = [run for run in found if str(run.run_id).startswith(name)]
    if not found:
        raise ConfigError(f"There are no runs at {backend.access.host}.")
    if len(fitting) == 1:
        return backend.run(str(fitting[0].run_id))
    if fitting:
        ids = ", ".join(f"{run.run_id} ({run.display_name})" for run in fitting[:8])
        raise ConfigError(f"{name!r} fits {len(fitting)} runs: {ids}.")
    newest = ", ".join(str(run.display_name) for run in found[:8])
    raise ConfigError(f"No run {name!r} at {backend.access.host}. Known, newest first: {newest}.")


def start(access: "Access", request: "Request", *, wait: bool) -> int:
    """Submit and say where to look."""
    from birdsong.kubeflow import api, following, submitting

    _warn_of_plain_token(access)
    backend = api.Api(access)
    made = submitting.submit(backend, request, tell=_err)
    run_id = str(made.run.run_id)
    if made.existed:
        state = following.as_run(backend.run(run_id)).state
        typer.echo(
            f"The run {request.run_name} is there already ({state}); nothing was started. "
            "For another one give --again or a --name."
        )
    else:
        typer.echo(f"started {request.run_name}")
    typer.echo(f"page {following.link(access.host, run_id, os.environ)}")
    if not wait:
        typer.echo(f"run {run_id}")
        _next(f"runs show {run_id}", access.host)
        return 0
    return watch(backend, run_id, request.compiled)


def watch(
    backend: "Api", run_id: str, compiled: "Compiled | None", not_yet: State | None = None
) -> int:
    """Show the steps of a run until it ends; the exit code says how."""
    from birdsong.cli import console
    from birdsong.kubeflow import following

    interval = float(os.environ.get("BIRDSONG_KFP_INTERVAL", "5"))
    try:
        with console.Live(Path("runs")) as live:
            run = following.follow(
                backend,
                run_id,
                compiled.pipeline if compiled else None,
                live,
                interval=interval,
                tell=_err,
                not_yet=not_yet,
            )
    except KeyboardInterrupt:
        _err(
            f"No longer watching; run {run_id} goes on. End it with: "
            f"stop {run_id} --host {backend.access.host}"
        )
        return 130
    return say_end(run, backend.access.host)


def say_end(run: Run, host: str) -> int:
    """Say how a run ended and what to do next."""
    from birdsong.cli import console
    from birdsong.kubeflow import following

    page = following.link(host, run.id, os.environ)
    console.end_of_remote(run, page)
    if run.state in (State.FAILED, State.CANCELLED):
        _next(f"resume {run.id}", host)
    elif run.state == State.SUCCEEDED:
        _next(f"runs show {run.id}", host)
    return {State.SUCCEEDED: 0, State.SKIPPED: 0, State.CANCELLED: 130}.get(run.state, 1)


def _next(command: str, host: str) -> None:
    typer.echo(f"Next:\n  python pipeline.py {command} --host {host}")


def resume(name: str, host: str, auth: str, cluster: Path | None, *, wait: bool, dry: bool) -> int:
    """Let the backend go on with a failed run: finished steps stand."""
    from birdsong.kubeflow import following, rerunning
    from birdsong.kubeflow.api import AnswerError, UnsureError

    backend = connect(host, auth, cluster)
    found = find(backend, name)
    run = following.as_run(found)
    if run.state == State.SUCCEEDED:
        typer.echo(f"Run {run.id} has {run.state}: there is nothing to do.")
        return 0
    if run.state not in FINISHED:
        raise ConfigError(f"Run {run.id} is at work; wait for it, or end it with stop.")
    if dry:
        typer.echo(f"Would resume run {run.id} ({run.note}), which has {run.state}.")
        return 0
    compiled = rerunning.pipeline_of(backend, found) if wait else None
    try:
        backend.retry(run.id)
    except UnsureError as error:
        _err(f"{error} Looking whether it arrived.")
        if following.as_run(backend.run(run.id)).state in FINISHED:
            backend.retry(run.id)
    except AnswerError as error:
        raise BirdsongError(
            f"{error} Where the workflow is gone (its time to live is over), start anew from the "
            f"step that failed: rerun {run.id} --from STEP --host {host}"
        ) from None
    typer.echo(f"resumed {run.note}")
    typer.echo(f"page {following.link(host, run.id, os.environ)}")
    return watch(backend, run.id, compiled, not_yet=run.state) if wait else 0


def stop(
    name: str,
    host: str,
    auth: str,
    cluster: Path | None,
    region: str,
    sagemaker: Path | None,
    *,
    asked: bool,
) -> int:
    """End a run of the backend and wait until it says so; then its jobs on SageMaker.

    They are looked for where the run has any, or where `asked`.
    """
    from birdsong.cli.rerun import stop_jobs
    from birdsong.kubeflow import following, rerunning
    from birdsong.runs import elsewhere

    backend = connect(host, auth, cluster)
    found = find(backend, name)
    try:
        run = _end(backend, following.as_run(found))
        typer.echo(f"Run {run.id} is {run.state}.")
    finally:
        # After the run, or a step that is tried again would start the next job.
        jobs = elsewhere.of_pipeline(rerunning.pipeline_of(backend, found).pipeline)
        if jobs or asked:
            stop_jobs(str(found.run_id), region or (jobs.region if jobs else ""), sagemaker)
    return 0 if run.state in FINISHED else 1


def _end(backend: "Api", run: Run) -> Run:
    """Ask for the end of a run, and wait for a minute until the backend says so."""
    from birdsong.kubeflow import following
    from birdsong.kubeflow.api import UnsureError

    if run.state in FINISHED:
        return run
    try:
        backend.terminate(run.id)
    except UnsureError as error:
        _err(f"{error} Asking again.")
        backend.terminate(run.id)  # to end what has ended is no error
    deadline = time.monotonic() + 60
    while run.state not in FINISHED and time.monotonic() < deadline:
        time.sleep(float(os.environ.get("BIRDSONG_KFP_INTERVAL", "2")))
        run = following.as_run(backend.run(run.id))
    return run


def rerun(
    name: str,
    host: str,
    auth: str,
    cluster: Path | None,
    *,
    from_step: str | None,
    only: str | None,
    settings: list[str],
    wait: bool,
    dry: bool,
    yes: bool,
) -> int:
    """Run a part of a run again: the rest is left to the cache of KFP."""
    from birdsong.kubeflow import arguments, compiling, following, rerunning, submitting
    from birdsong.kubeflow import settings as clusters
    from birdsong.runs import elsewhere, graph
    from pipeline import birdsong

    described = clusters.read(cluster)
    backend = connect(host, auth, cluster)
    found = find(backend, name)
    before = rerunning.pipeline_of(backend, found)
    parent = following.as_run(found, before.pipeline)
    values, profile = arguments.resolve(
        graph.as_ir(birdsong), described, settings=settings, earlier=parent.arguments
    )
    wanted = clusters.resources(described, profile)
    arguments.check_devices(values, wanted)
    jobs = elsewhere.of_pipeline(before.pipeline)
    now = compiling.compile_for_cluster(described, wanted, "sagemaker" if jobs else "here", jobs)
    made = rerunning.plan(
        parent, before, now, values, from_step=from_step, only=only, settings=settings
    )
    typer.echo(rerunning.as_text(made))
    if dry:
        return 0
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("Nothing was started: nobody is there to ask. Add --yes.")
        if not typer.confirm("Start?", default=not made.unasked):
            return 0
    request = submitting.Request(
        made.compiled,
        values,
        backend.experiment_name(str(found.experiment_id)),
        made.name,
        note=made.note,
        service_account=described.service_account,
        pipeline_root=described.pipeline_root,
    )
    return start(backend.access, request, wait=wait)


def list_runs(host: str, auth: str, cluster: Path | None) -> int:
    """One line per run of the backend, newest first."""
    from birdsong.cli import console
    from birdsong.kubeflow import following

    backend = connect(host, auth, cluster)
    found = backend.runs(most=_SHOWN + 1)
    console.table_of_remote_runs([following.as_run(run) for run in found[:_SHOWN]], host)
    if len(found) > _SHOWN:
        typer.echo(f"... and older ones: {host}/#/runs")
    return 0


def show(name: str, host: str, auth: str, cluster: Path | None, *, as_json: bool) -> int:
    """A run of the backend: its state, its values, its steps."""
    import json

    from birdsong.cli import console
    from birdsong.kubeflow import following, rerunning

    backend = connect(host, auth, cluster)
    found = find(backend, name)
    compiled = rerunning.pipeline_of(backend, found)
    run = following.as_run(found, compiled.pipeline)
    page = following.link(host, run.id, os.environ)
    if as_json:
        document = run.as_json() | {"page": page}
        typer.echo(json.dumps(document, indent=1))
    else:
        console.show_remote(run, page)
    return 0


def as_text(
    request: "Request",
    access: "Access",
    wanted: Mapping[str, "Resources"],
    compiled: "Compiled",
) -> str:
    """What would be sent, for people."""
    from birdsong.kubeflow import nonces
    from birdsong.runs import graph

    lines = [
        f"host        {access.host} ({access.auth if access.auth != 'none' else 'no credentials'})",
        f"experiment  {request.experiment}",
        f"run         {request.run_name}",
        f"version     {request.version_name} of the pipeline birdsong",
        f"request     {request.sha256}",
        "steps",
    ]
    for step in graph.steps(compiled.pipeline):
        ask = wanted[step]
        gpus = f", {ask.gpus} GPU" if ask.gpus else ""
        image = nonces.container_of(compiled.pipeline, step)["image"]
        lines.append(f"  {step:<20} {ask.cpu:>5} cores {ask.memory:>6}{gpus}  {image}")
    lines += ["parameters", *(f"  {key} = {value}" for key, value in request.values.items())]
    return "\n".join(lines)
