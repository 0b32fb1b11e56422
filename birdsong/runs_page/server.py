"""The server of the page of runs.

It shows files that programs made, so it trusts none of them: artifacts are sent under a sandbox,
only from below the runs folder, and to pages that reach the server under its own name. Another
page in the same browser can neither read from here (no cross-origin headers, and the Host header
must be ours, against DNS rebinding) nor press a button (those need a token that it cannot know).
"""

import contextlib
import hashlib
import json
import secrets
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

from fastapi import Body, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from birdsong import local_http
from birdsong.errors import BirdsongError
from birdsong.runs.stopping import signal_engine
from birdsong.runs_page import actions, lineage, previews
from birdsong.runs_page.store import Store

STATIC = Path(__file__).with_name("static")
TOKEN_HEADER = "x-birdsong-token"

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; connect-src 'self'; frame-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
ARTIFACT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:; media-src data: blob:; font-src data:; "
    "frame-ancestors 'self'"
)
"""Its scripts draw; they reach neither this page nor any network."""

_LOG_BYTES = 256_000


def create_app(
    runs: str | Path, host: str = "127.0.0.1", token: str | None = None, buttons: bool = True
) -> FastAPI:
    """The application.

    Args:
        runs: Folder of runs.
        host: Name or address that it listens on; requests for other names are refused.
        token: What state-changing requests must carry; without one, there are no buttons.
        buttons: Whether runs can be started and cancelled.
    """
    store = Store(runs)
    app = FastAPI(title="birdsong runs", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.store = store
    buttons = buttons and token is not None

    @app.middleware("http")
    async def guard(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if not local_http.names_us(request.headers.get("host", ""), host):
            return JSONResponse({"detail": "This server does not go by that name."}, 400)
        if request.method not in ("GET", "HEAD"):
            refused = _refused(request, token if buttons else None)
            if refused:
                return JSONResponse({"detail": refused}, 403)
        answer = await call_next(request)
        answer.headers.setdefault("Content-Security-Policy", PAGE_POLICY)
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"
        answer.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        answer.headers.setdefault("Cache-Control", "no-cache")
        return answer

    @app.exception_handler(BirdsongError)
    async def told(request: Request, error: BirdsongError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 409 if request.method == "POST" else 404)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/api/runs")
    def list_runs(request: Request) -> Response:
        return _answer(
            request,
            {
                "folder": str(store.folder),
                "runs": store.summaries(),
                "actions": actions.available() if buttons else [],
            },
        )

    @app.get("/api/runs/{run}")
    def one_run(request: Request, run: str) -> Response:
        return _answer(request, store.detail(run))

    @app.get("/api/runs/{run}/version")
    def version(run: str) -> Response:
        return JSONResponse(lineage.version(store, store.run(run)))

    @app.get("/api/runs/{run}/lineage/{step}/{output}")
    def behind(run: str, step: str, output: str) -> Response:
        return JSONResponse(lineage.lineage(store, store.run(run), step, output))

    @app.get("/api/runs/{run}/log/{step:path}")
    def log(
        run: str,
        step: str,
        start: int = Query(-1, description="First byte; -1: so that the end is in it."),
        most: int = Query(_LOG_BYTES, ge=1, le=4_000_000),
    ) -> dict[str, Any]:
        path = _located(lambda: store.log(run, step))
        return read_log(path, start, most)

    @app.get("/api/file/{path:path}")
    def file(path: str) -> FileResponse:
        place = _located(lambda: store.locate(path))
        if place is None or not place.is_file():
            raise HTTPException(404, "There is no such file.")
        return FileResponse(
            place,
            media_type=previews.media_type(place),
            headers={"Content-Security-Policy": ARTIFACT_POLICY},
        )

    @app.get("/api/preview/{path:path}")
    def look(path: str, rows: int = Query(50, ge=1, le=1000)) -> dict[str, Any]:
        place = _located(lambda: store.locate(path))
        if place is None:
            raise HTTPException(404, "There is no such file.")
        return previews.preview(place, rows) | {"file": path}

    @app.post("/api/plan")
    def plan(
        run: str = Body(),
        action: str = Body(),
        step: str | None = Body(None),
        settings: list[str] = Body([]),  # noqa: B008 - FastAPI's way
    ) -> dict[str, Any]:
        line = actions.command(action, store.run(run), step, store.folder, settings)
        code, text = actions.plan(line)
        return {"exit_code": code, "text": text, "command": " ".join(["pipeline.py", *line[2:]])}

    @app.post("/api/start")
    def start(
        run: str = Body(),
        action: str = Body(),
        step: str | None = Body(None),
        settings: list[str] = Body([]),  # noqa: B008 - FastAPI's way
    ) -> dict[str, Any]:
        line = actions.command(action, store.run(run), step, store.folder, settings)
        code, text = actions.start(line, store.folder)
        return {"exit_code": code, "text": text}

    @app.post("/api/cancel")
    def cancel(run: str = Body(embed=True)) -> dict[str, Any]:
        signal_engine(store.run(run))
        return {"asked": True}

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


def read_log(path: Path | None, start: int, most: int) -> dict[str, Any]:
    """Part of a log.

    Args:
        path: The file; None for none yet.
        start: First byte; negative: the last `most` bytes.
        most: Most bytes.

    Returns:
        {"text", "start", "end", "size"}, positions in bytes; only whole characters.
    """
    if path is None:
        return {"text": "", "start": 0, "end": 0, "size": 0}
    with path.open("rb") as file:
        size = file.seek(0, 2)
        first = max(size - most, 0) if start < 0 else min(start, size)
        file.seek(first)
        data = file.read(most)
    for cut in range(1, min(4, len(data) + 1)):  # a character whose end is not written yet
        if data[-cut] >= 0xC0:
            expected = 2 + (data[-cut] >= 0xE0) + (data[-cut] >= 0xF0)
            data = data[:-cut] if cut < expected else data
            break
    return {
        "text": data.decode(errors="replace"),
        "start": first,
        "end": first + len(data),
        "size": size,
    }


def _located(find: Callable[[], Path | None]) -> Path | None:
    try:
        return find()
    except PermissionError:
        raise HTTPException(403, "That is not below the runs folder.") from None
    except FileNotFoundError:
        raise HTTPException(404, "There is no such file.") from None


def _answer(request: Request, value: object) -> Response:
    """JSON, or "not modified" for a page that has it already and asks every second."""
    body = json.dumps(value, default=str, separators=(",", ":")).encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    return Response(body, media_type="application/json", headers={"ETag": tag})


def _refused(request: Request, token: str | None) -> str | None:
    """Why a request that changes something is refused; None where it is not."""
    if token is None:
        return "This page was started without buttons."
    origin = request.headers.get("origin")
    if origin is not None and origin != f"http://{request.headers.get('host')}":
        return "Another page asked."
    given = request.headers.get(TOKEN_HEADER, "")
    if not secrets.compare_digest(given.encode(), token.encode()):
        return "The token is missing or wrong. Open the address that `ui` printed."
    return None


def serve(
    runs: str | Path, host: str = "127.0.0.1", port: int = 8787, buttons: bool = True
) -> None:
    """Serve the page until SIGTERM or SIGINT.

    Args:
        runs: Folder of runs; it may not exist yet.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        buttons: Whether runs can be started and cancelled from the page.

    Raises:
        ConfigError: The port is taken or not allowed.
    """
    import uvicorn

    listener = local_http.bound(host, port)
    token = secrets.token_urlsafe(24) if buttons else None
    app = create_app(runs, host, token, buttons)
    with contextlib.suppress(ValueError):  # not in the main thread
        # uvicorn raises the signal again when all is done; a stop that was asked for is a success.
        signal.signal(signal.SIGTERM, _done)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}/"
    fragment = f"#token={token}" if token else ""
    print(f"Runs of {Path(runs).absolute()}: {address}{fragment}", flush=True)
    print("Ctrl-C ends the page; runs go on.", flush=True)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
    )
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def _done(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)
