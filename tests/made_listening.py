"""For tests of the web page: the inference server in this process, and one that stands for AWS."""

import contextlib
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import uvicorn
from fastapi import FastAPI, Request, Response
from made_bundles import RATE, BandScorer, tone, write_stages

from birdsong.bundle import write_bundle
from birdsong.serving import web
from birdsong.serving.app import create_app
from birdsong.serving.limits import Limits

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LARGEST = 4 * 2**20
"""Most bytes that the server of these tests takes."""


def make_bundle(folder: Path) -> Path:
    """A bundle whose network hears three tones, as tests/made_bundles.py makes it."""
    stages = write_stages(folder / "run")
    write_bundle(folder / "bundle", stages.model, stages.thresholds, stages.evaluation)
    return folder / "bundle"


@contextlib.contextmanager
def serving(app: FastAPI, port: int = 0) -> Iterator[str]:
    """The address at which an app is served; afterwards nothing answers there any more."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def real_app(bundle: Path, largest_bytes: int = LARGEST) -> FastAPI:
    """The server itself, with the network of tests/made_bundles.py."""
    return create_app(bundle, "7", BandScorer(), Limits(largest_bytes=largest_bytes))


def song(place: Path, seconds: float, tones: dict[float, float]) -> Path:
    """A recording with a tone of 4 s at each of some moments: {start in seconds: Hz}."""
    wave = np.random.default_rng(1).normal(0, 0.01, round(seconds * RATE)).astype(np.float32)
    for start, hertz in tones.items():
        wave[round(start * RATE) :][: 4 * RATE] += tone(hertz, 4)[
            : len(wave[round(start * RATE) :])
        ]
    with soundfile.SoundFile(place, "w", RATE, 1) as file:
        # In parts: libsndfile's Vorbis encoder overflows its stack on long blocks.
        for start in range(0, len(wave), RATE):
            file.write(wave[start : start + RATE])
    return place


def wav(seconds: float, hertz: float = 0.0) -> bytes:
    """A tone as WAV; silence without one."""
    buffer = io.BytesIO()
    wave = tone(hertz, seconds) if hertz else np.zeros(round(seconds * RATE), np.float32)
    soundfile.write(buffer, wave, RATE, format="WAV")
    return buffer.getvalue()


def give(page: "Page", name: str, data: bytes, kind: str = "audio/wav") -> None:
    """Choose a file on the page."""
    page.locator("#file").set_input_files({"name": name, "mimeType": kind, "buffer": data})


def told(page: "Page") -> str:
    """The words of the problem that the page shows instead of a result."""
    page.locator("#problem").wait_for()
    assert page.locator("#busy").is_hidden()
    assert page.locator("#result").is_hidden()
    return page.locator("#problem").inner_text()


@contextlib.contextmanager
def visiting(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """Opens pages; no script of theirs may fail, and no request may leave their origin."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def visit(address: str, script: str = "", by: Any = browser, **settings: Any) -> "Page":
        size = settings.pop("viewport", {"width": 1280, "height": 900})
        context = by.new_context(viewport=size, **settings)
        contexts.append(context)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda message: (
                wrong.append(message.text)
                if "Content Security Policy" in message.text or "Refused to" in message.text
                else None
            ),
        )
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((address, f"blob:{address.split('/')[0]}"))
                else wrong.append(request.url)
            ),
        )
        page.goto(address)
        page.get_by_text("What is kept").wait_for()
        assert page.title() == "birdsong"
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def bucket_app(answer: dict[str, Any], status: int = 204) -> FastAPI:
    """Stands for AWS: the file goes to a bucket by a signed form, then comes `listen`.

    `app.state.came` is what was asked, in order: (path, headers, body or form).
    """
    app = FastAPI()
    app.state.came = came = []
    web.install(app)

    @app.get("/settings")
    async def settings() -> dict[str, Any]:
        return {
            "model": "birdsong",
            "version": None,
            "largest_bytes": 2**22,
            "longest_seconds": 900,
            "upload": "presigned",
            "keeps": "A recording is deleted as soon as it was listened to.",
        }

    @app.post("/uploads")
    async def uploads(request: Request) -> dict[str, Any]:
        came.append(("uploads", request.headers, await request.body()))
        fields = {"key": "uploads/1", "policy": "signed", "x-amz-signature": "abc"}
        return {"url": "bucket", "fields": fields, "key": "uploads/1"}

    @app.post("/bucket")
    async def bucket(request: Request) -> Response:
        came.append(("bucket", request.headers, await request.body()))
        told = "<Error><Code>EntityTooLarge</Code></Error>" if status != 204 else ""
        return Response(told, status)

    @app.post("/listen")
    async def listen(request: Request) -> Response:
        came.append(("listen", request.headers, await request.body()))
        return Response(json.dumps(answer), media_type="application/json")

    return app
