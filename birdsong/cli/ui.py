"""`ui`: the page of runs in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from birdsong.cli.options import RunsFolder
from birdsong.errors import ConfigError


def ui(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8787,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Whoever reaches it can read the runs: keep to this machine."
        ),
    ] = "127.0.0.1",
    runs: RunsFolder = Path("runs"),
    actions: Annotated[
        bool,
        typer.Option("--actions/--no-actions", help="Whether the page can start and cancel runs."),
    ] = True,
) -> None:
    """Show the runs in a browser: list, DAG, logs, previews, comparison, and buttons.

    The buttons work for the address that is printed, which holds a token; keep it to yourself.
    """
    try:
        from birdsong.runs_page.server import serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The page needs {error.name}: install birdsong with its extra `serve`."
        ) from error

    serve(runs, host, port, actions)
