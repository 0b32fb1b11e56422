"""The web page of the server: its files under fixed addresses, and what a browser may do there."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from birdsong import local_http
from birdsong.serving import page
from birdsong.serving.problems import Problem

FOLDER = Path(page.__file__).parent

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".json": "application/json",
    ".woff2": "font/woff2",
}
"""Files of the page by ending; others in its folder are not sent."""

HEADERS = {
    # Nothing inline and nothing from elsewhere; blob: is the visitor's own recording.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
        "img-src 'self' blob:; media-src 'self' blob:; connect-src 'self'; worker-src 'self'; "
        "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""On every response, also on answers and errors."""


class _WithHeaders:
    """Adds the headers and leaves the body alone, as Starlette's own middleware does not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)


class OnlyOurs:
    """Refuses what a website that is open in the same browser sends to a server for this machine.

    By the Host header against DNS rebinding; by Fetch Metadata against posts that are sent blindly.
    Programs send neither another name nor such metadata.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app, self._host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal.response() if refusal else self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        name = headers.get("host", "")
        if not local_http.names_us(name, self._host):
            return Problem(
                421,
                "other-host",
                f"This server is for this machine and does not answer for {name[:100]!r}. Ask "
                "http://localhost or http://127.0.0.1, with the port; or start it with --host.",
            )
        # What is read from here is kept from other websites by the headers of the answer.
        if scope["method"] == "POST" and headers.get("sec-fetch-site") == "cross-site":
            return Problem(
                403, "other-site", "Another website asked, which a server for this machine refuses."
            )
        return None


def install(app: FastAPI, folder: Path = FOLDER) -> None:
    """Send the files of the page, and the headers with everything.

    Each file that is there now gets an address of its own, so that no path from a request ever
    reaches the disk. Without an index.html there is no page.
    """

    app.add_middleware(_WithHeaders)
    if not (folder / "index.html").is_file():
        return
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in TYPES:
            name = file.relative_to(folder).as_posix()
            _send(app, "/" if name == "index.html" else f"/{name}", file)


def _send(app: FastAPI, address: str, file: Path) -> None:
    async def send() -> FileResponse:
        return FileResponse(
            file, media_type=TYPES[file.suffix], headers={"Cache-Control": "no-cache"}
        )

    app.add_api_route(address, send, methods=["GET", "HEAD"], include_in_schema=False)
