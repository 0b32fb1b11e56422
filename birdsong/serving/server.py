"""The inference server as a process: `GET /ping`, `POST /invocations`, as SageMaker has them.

    python -m birdsong.serving.server BUNDLE --port 8080

It answers from this machine alone unless told otherwise: it has no login.
"""

import argparse
import contextlib
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from birdsong import local_http
from birdsong.errors import BirdsongError
from birdsong.serving import connections, web
from birdsong.serving import limits as limit_flags
from birdsong.serving.app import create_app
from birdsong.serving.limits import Limits

__all__ = ["create_app", "main", "serve_bundle"]

_MOST_FILES = 65_536
"""Descriptors to ask for: one for each connection and one for each recording."""


def serve_bundle(
    bundle: str | Path,
    host: str = "127.0.0.1",
    port: int = 8080,
    version: str | None = None,
    listener: socket.socket | None = None,
    limits: Limits | None = None,
    runtime: str = "auto",
) -> None:
    """Serve a bundle until SIGTERM or SIGINT; requests that have begun are finished.

    Args:
        bundle: The bundle's folder.
        host: Address to listen on; the server has no login, so beyond this machine put something
            in front of it that has.
        port: Port to listen on; 0 takes a free one.
        version: The model's version, told in answers.
        listener: A bound socket to listen on, instead of host and port.
        limits: What requests may take; by default as the environment says.
        runtime: What computes the network, see `birdsong.scoring.load_scorer`.

    Raises:
        ConfigError: The port is taken or not allowed, or the runtime cannot be used.
        DataError: The bundle is damaged.
    """
    # Before the network loads for seconds: a port that is taken is told at once.
    listener = listener or local_http.bound(host, port)
    # Until the server listens; a stop that was asked for is a success.
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _done)
    limits = limits or limit_flags.from_flags(argparse.Namespace(), os.environ)
    _allow_many_files()
    address = listener.getsockname()
    app = create_app(bundle, version, limits=limits, runtime=runtime)
    if ipaddress.ip_address(address[0]).is_loopback:
        # Elsewhere the names that a load balancer or SageMaker gives it are not known.
        app.add_middleware(web.OnlyOurs, host=host)
    heard = app.state.listener
    print(
        f"Serving {bundle} by {heard.runtime} at http://{address[0]}:{address[1]}/ until Ctrl-C: a "
        "page for browsers, POST /invocations for programs.",
        flush=True,
    )
    server = connections.server(app, limits, heard.last_call, heard.metrics.connections.set)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(_MOST_FILES, hard)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _done(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """The server as a process of its own: what deploy starts, and what a container runs."""
    parser = argparse.ArgumentParser(
        prog="python -m birdsong.serving.server", description="Serve a bundle."
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0: a free one")
    parser.add_argument("--version", default=None, help="the model's version, told in answers")
    parser.add_argument(
        "--runtime", default="auto", help="what computes the network; auto: the fastest admitted"
    )
    parser.add_argument("--socket", type=int, help="descriptor of a bound socket to listen on")
    limit_flags.add_flags(parser)
    parser.add_argument(
        "--stop-with-parent",
        action="store_true",
        help="stop when standard input closes, so that no server outlives its starter",
    )
    given = parser.parse_args(arguments)
    if given.stop_with_parent:
        threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    listener = None if given.socket is None else socket.socket(fileno=given.socket)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    try:
        limits = limit_flags.from_flags(given, os.environ)
        serve_bundle(
            given.bundle, given.host, given.port, given.version, listener, limits, given.runtime
        )
    except BirdsongError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _stop_at_end_of_input() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    # Where the main thread is stuck in native code, no handler runs.
    time.sleep(60)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
