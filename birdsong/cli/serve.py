"""`serve`: a registered model as an inference server with a web page, on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from birdsong.cli.model import BundleFolder, Model, Registry, Runtime, find
from birdsong.cli.options import RunsFolder


def serve(
    bundle: BundleFolder = None,
    model: Model = "birdsong",
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
    """Serve a model: a web page to drop recordings on, and POST /invocations for programs.

    Without --bundle and --model it is the champion of the registry in the runs folder: the newest
    version that its gate let in. Open the address that is printed, or try

        curl --data-binary @FILE.ogg -H 'Content-Type: audio/ogg' localhost:8080/invocations
    """
    # Here and not above: `--help` answers without waiting for either.
    from birdsong.serving.server import serve_bundle

    folder, version = find(bundle, model, registry, runs)
    serve_bundle(folder, host, port, version, runtime=runtime)
