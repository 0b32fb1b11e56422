"""The inference server: `GET /ping`, `POST /invocations`, as SageMaker's containers have them.

    python -m birdsong.serving.server BUNDLE --port 8080

It answers from this machine alone unless told otherwise: it has no login.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, cast, get_args

import uvicorn
from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from birdsong.bundle import read_bundle, verify_bundle
from birdsong.errors import BirdsongError, ConfigError, DataError
from birdsong.serving import problems, web
from birdsong.serving.answers import (
    LONGEST_SECONDS,
    Answer,
    Asked,
    PageSettings,
    WindowAnswer,
    WindowScorer,
    heard,
    known,
)

LARGEST_BYTES = 64 * 2**20
"""Largest body of a request."""

_ACCEPTED = "audio/* or application/octet-stream"
_AT_ONCE = 2
"""Recordings that are decoded and scored at the same time; the network uses all cores itself."""

_GRACE_SECONDS = 30
"""Longest that requests which have begun may take to finish when the server is stopped."""

_DRAINED = 4
"""A body of up to so many times the limit is read to its end and thrown away: most clients read
no answer before they have sent all, and would see a broken connection instead of the reason."""

_UNHEARD = {"unreadable": "unreadable", "empty": "empty", "not finite": "not-finite"}
"""Words that `birdsong.audio` starts its errors with, and ours for them; others are our fault."""

_KEEPS = (
    "Nothing. Your recording is listened to in memory and then forgotten; neither it nor the "
    "answer is stored."
)

_PROBLEM = {"model": problems.ProblemDetails}


def create_app(
    bundle: str | Path,
    version: str | None = None,
    scorer: WindowScorer | None = None,
    largest_bytes: int = LARGEST_BYTES,
) -> FastAPI:
    """Load a bundle and make the application that answers for it.

    Args:
        bundle: The bundle's folder; verified against its hashes.
        version: The model's version, told in answers; by default that of the `version.json`
            beside the bundle, if there is one.
        scorer: The network; by default the bundle's own through `birdsong.scoring`.
        largest_bytes: Largest body of a request.

    Returns:
        The application, ready: the first request is as fast as any.

    Raises:
        DataError: The bundle is damaged or incomplete.
    """
    verify_bundle(bundle)
    loaded = read_bundle(bundle)
    if scorer is None:
        from birdsong.scoring import Scorer

        scorer = Scorer(loaded.model)
    version = version or _version_beside(loaded.path)
    network: WindowScorer = scorer
    runtime = str(getattr(scorer, "runtime", "tensorflow"))
    _warm(network)
    gate = asyncio.Semaphore(_AT_ONCE)
    # No page of documentation: FastAPI's own loads its scripts from a CDN.
    app = FastAPI(
        title="birdsong",
        summary="Which birds are heard in a recording",
        version=version or "0",
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    web.install(app)

    @app.exception_handler(RequestValidationError)
    async def wrong_query(request: Request, error: RequestValidationError) -> JSONResponse:
        told = "; ".join(f"{entry['loc'][-1]}: {entry['msg']}" for entry in error.errors())
        return problems.Problem(400, "query", f"{told}.").response()

    @app.get("/ping")
    async def ping() -> dict[str, str]:
        """Say that the server is ready."""
        return {"status": "ready", "model": loaded.name, "bundle_sha256": loaded.sha256}

    @app.get("/settings")
    async def settings() -> PageSettings:
        """What a page, or another client, has to know before it sends a recording."""
        return PageSettings(
            model=loaded.name,
            version=version,
            largest_bytes=largest_bytes,
            longest_seconds=LONGEST_SECONDS,
            upload="direct",
            keeps=_KEEPS,
        )

    @app.post(
        "/invocations",
        responses=dict.fromkeys((400, 413, 415, 422, 500), _PROBLEM),
        response_model_exclude_defaults=True,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    kind: {"schema": {"type": "string", "format": "binary"}}
                    for kind in ("audio/*", "application/octet-stream")
                },
            }
        },
    )
    async def invocations(
        request: Request,
        scores: Annotated[
            Asked,
            Query(
                description="all: scores of all species too; frames: those of each 5-second frame"
            ),
        ] = "detections",
        attributes: Annotated[
            str,
            Header(
                alias="X-Amzn-SageMaker-Custom-Attributes",
                description="scores=all or scores=frames: SageMaker passes this header on, but no "
                "query",
            ),
        ] = "",
    ) -> Answer:
        """Say which birds are heard in a recording: OGG, MP3, FLAC or WAV of any length."""
        if unknown := sorted(set(request.query_params) - {"scores"}):
            raise problems.Problem(
                400,
                "query",
                f"{', '.join(unknown)[:100]}: not known here. There are scores=all and "
                "scores=frames.",
            )
        if attributes:
            scores = _asked(attributes)
        _check_type(request.headers.get("content-type", ""))
        data = await _body(request, largest_bytes)
        gone = threading.Event()
        async with gate, _noticing(request, gone):
            started = time.perf_counter()
            windows = await run_in_threadpool(_answer, data, gone, scores)
        return Answer(
            model=loaded.name,
            version=version,
            bundle_sha256=loaded.sha256,
            runtime=runtime,
            seconds=round(time.perf_counter() - started, 4),
            highest_hz=loaded.features.sample_rate / 2,
            windows=windows,
            species=None if scores == "detections" else known(loaded),
        )

    def _answer(data: bytes, gone: threading.Event, asked: Asked) -> list[WindowAnswer]:
        try:
            windows = list(heard(data, loaded, network, asked, gone.is_set))
        except DataError as error:
            code, _, rest = str(error).partition(":")
            if code not in _UNHEARD:
                raise
            raise problems.Problem(
                422,
                _UNHEARD[code],
                f"The recording cannot be used: {rest.strip().rstrip('.')}. Send a whole OGG, "
                "MP3, FLAC or WAV file.",
            ) from None
        if not windows and not gone.is_set():
            raise problems.Problem(
                422, "silent", "The recording is silent: there is nothing to listen to."
            )
        return windows

    return app


def _asked(attributes: str) -> Asked:
    name, _, value = attributes.partition("=")
    if name != "scores" or value not in get_args(Asked):
        raise problems.Problem(
            400,
            "query",
            f"The custom attributes are {attributes[:100]!r}; there are scores=detections, "
            "scores=all and scores=frames.",
        )
    return cast(Asked, value)


def _check_type(value: str) -> None:
    kind = value.partition(";")[0].strip().lower()
    # A recorder in a browser sends audio/webm; curl without a header sends a form's type.
    if not kind or kind.startswith("audio/"):
        return
    if kind not in ("application/octet-stream", "application/ogg", "application/x-flac"):
        raise problems.Problem(
            415,
            "not-audio",
            f"The content type is {kind[:100]!r}, needed is {_ACCEPTED}. With curl: "
            "--data-binary @FILE -H 'Content-Type: application/octet-stream'.",
            {"Accept-Post": "audio/*, application/octet-stream"},
        )


async def _body(request: Request, largest: int) -> bytes:
    """The request's body; never more than the largest one is held."""
    too_large = problems.Problem(
        413,
        "too-large",
        f"A recording may have up to {largest / 2**20:g} MiB. Send it in parts, or as OGG or "
        "FLAC, which are smaller than WAV.",
        {"Connection": "close"},
    )
    claimed = request.headers.get("content-length", "")
    # A client that expects 100-continue has sent nothing yet.
    bearable = largest if "expect" in request.headers else _DRAINED * largest
    if claimed.isdigit() and int(claimed) > bearable:
        raise too_large
    body, came = bytearray(), 0
    try:
        async for chunk in request.stream():
            came += len(chunk)
            if came <= largest:
                body += chunk
            elif came > _DRAINED * largest:
                raise too_large
    except ClientDisconnect:
        raise problems.Problem(400, "cut-off", "The connection ended inside the body.") from None
    if came > largest:
        raise too_large
    if not body:
        raise problems.Problem(
            422, "empty", "The request has no body. Send a recording's bytes as the body."
        )
    return bytes(body)


@contextlib.asynccontextmanager
async def _noticing(request: Request, gone: threading.Event) -> AsyncIterator[None]:
    """Set `gone` where the client hangs up before its answer, so that the work stops."""

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.5)
        gone.set()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


def _warm(scorer: WindowScorer) -> None:
    """Score a short window once, so that the first request does not wait for the graph."""
    import numpy as np

    scorer.window_frames(np.array([1, -1], np.int16))


def _version_beside(bundle: Path) -> str | None:
    """The version that register wrote beside a bundle."""
    try:
        return str(json.loads((bundle.parent / "version.json").read_text())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def serve_bundle(
    bundle: str | Path,
    host: str = "127.0.0.1",
    port: int = 8080,
    version: str | None = None,
    listener: socket.socket | None = None,
) -> None:
    """Serve a bundle until SIGTERM or SIGINT; requests that have begun are finished.

    Args:
        bundle: The bundle's folder.
        host: Address to listen on; the server has no login, so beyond this machine put something
            in front of it that has.
        port: Port to listen on; 0 takes a free one.
        version: The model's version, told in answers.
        listener: A bound socket to listen on, instead of host and port.

    Raises:
        ConfigError: The port is taken or not allowed.
        DataError: The bundle is damaged.
    """
    # Before TensorFlow loads for seconds: a port that is taken is told at once.
    listener = listener or _bound(host, port)
    # uvicorn raises the signal again when all is done; a stop that was asked for is a success.
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _done)
    app = create_app(bundle, version)
    address = listener.getsockname()
    print(f"Serving {bundle} at http://{address[0]}:{address[1]} until Ctrl-C.", flush=True)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        server_header=False,
    )
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def _done(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with contextlib.ExitStack() as undo:
            listener = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            # A server that was just stopped does not keep its port for a minute.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            undo.pop_all()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error}. Take another --port (0: any free one) "
            "or --host."
        ) from error
    return listener


def main(arguments: Sequence[str] | None = None) -> int:
    """The server as a process of its own: what deploy starts, and what a container runs."""
    parser = argparse.ArgumentParser(
        prog="python -m birdsong.serving.server", description="Serve a bundle."
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0: a free one")
    parser.add_argument("--version", default=None, help="the model's version, told in answers")
    parser.add_argument("--socket", type=int, help="descriptor of a bound socket to listen on")
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
        serve_bundle(given.bundle, given.host, given.port, given.version, listener)
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
    time.sleep(2 * _GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
