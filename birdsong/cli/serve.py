"""`serve`: a registered model as an inference server on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from birdsong.cli.options import RunsFolder
from birdsong.errors import ConfigError


def serve(
    bundle: Annotated[
        Path | None, typer.Option(help="Folder of a bundle, such as that in endpoint.json.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME@VERSION",
            help="A registered model: a number, or an alias such as champion, after the @.",
        ),
    ] = "birdsong@champion",
    registry: Annotated[
        str,
        typer.Option(
            help="MLflow's address, sqlite:///FILE or http(s)://HOST; by default the file in "
            "the runs folder."
        ),
    ] = "",
    runs: RunsFolder = Path("runs"),
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. The server has no login: keep to this machine, or put "
            "something in front of it that has."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8080,
) -> None:
    """Serve a model: POST a recording to /invocations, get the birds that are heard in it.

    Without --bundle it is the champion of the registry in the runs folder. Try it with

        curl --data-binary @FILE.ogg -H 'Content-Type: audio/ogg' localhost:8080/invocations
    """
    # Here and not above: `--help` answers without waiting for either.
    from birdsong.serving.server import serve_bundle

    version = None
    if bundle is None:
        from birdsong.registry import default_registry, fetch

        name, _, which = model.partition("@")
        if not name:
            raise ConfigError(f"--model is {model!r}, expected NAME@VERSION or NAME.")
        found, bundle = fetch(name, which or "champion", registry or default_registry(runs))
        version = str(found.version)
        if found.status != "registered":
            typer.echo(f"{name} version {version} is {found.status}: {found.reason}", err=True)
    serve_bundle(bundle, host, port, version)
