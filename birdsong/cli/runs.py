"""`runs`: what was run, and what came of it."""

from pathlib import Path
from typing import Annotated

import typer

from birdsong.cli.options import AtHost, Auth, ClusterFile, RunsFolder

app = typer.Typer(help="Look at runs.", no_args_is_help=True)


@app.command("list")
def list_runs(
    runs: RunsFolder = Path("runs"),
    host: AtHost = None,
    auth: Auth = "auto",
    cluster: ClusterFile = None,
) -> int:
    """List the runs, newest first; with --host those of a cluster."""
    if host is not None:
        from birdsong.cli import remote

        return remote.list_runs(host, auth, cluster)
    from birdsong.cli.console import table_of_runs
    from birdsong.errors import ConfigError
    from birdsong.runs import record

    if not runs.is_dir():
        what = "a file" if runs.exists() else "not there"
        raise ConfigError(
            f"--runs {runs}: it is {what}. Name the folder of runs, or start one with "
            "`python pipeline.py run`."
        )
    table_of_runs(record.list_runs(runs), runs)
    return 0


@app.command("show")
def show(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Id of a run, the start of one, or latest.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="The whole record as JSON.")] = False,
    runs: RunsFolder = Path("runs"),
    host: AtHost = None,
    auth: Auth = "auto",
    cluster: ClusterFile = None,
) -> int:
    """Show a run: its state, and for each step its seconds, outputs, metrics and error.

    With --host the outputs and metrics are on the run's page, whose address is printed.
    """
    if host is not None:
        from birdsong.cli import remote

        return remote.show(run, host, auth, cluster, as_json=as_json)
    import json

    from birdsong.cli.console import show as show_run
    from birdsong.runs import record

    found = record.find(runs, run)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=1))
    else:
        show_run(found)
    return 0


@app.command("export")
def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Id of a run, the start of one, or latest.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT.html", help="The file to write.")],
    runs: RunsFolder = Path("runs"),
) -> None:
    """Write the page of a run as one HTML file that opens from disk and can be mailed."""
    from birdsong.runs import record
    from birdsong.runs_page.export import export as write

    written = write(runs, record.find(runs, run).id, target)
    typer.echo(f"{written}, {written.stat().st_size / 1e6:.1f} MB")
