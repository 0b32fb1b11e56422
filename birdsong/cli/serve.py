"""`serve`: a registered model as an inference server on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from birdsong.cli.model import CHAMPION, BundleFolder, Model, Registry, Runtime, find
from birdsong.cli.options import RunsFolder


def serve(
    bundle: BundleFolder = None,
    model: Model = CHAMPION,
    registry: Registry = "",
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
    runtime: Runtime = "auto",
) -> None:
    """Serve a model: POST a recording to /invocations, get the birds that are heard in it.

    Without --bundle it is the champion of the registry in the runs folder. Try it with

        curl --data-binary @FILE.ogg -H 'Content-Type: audio/ogg' localhost:8080/invocations
    """
    # Here and not above: `--help` answers without waiting for either.
    from birdsong.serving.server import serve_bundle

    folder, version = find(bundle, model, registry, runs)
    serve_bundle(folder, host, port, version, runtime=runtime)
