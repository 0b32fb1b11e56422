"""The application: what the server answers at which address."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import numpy as np
from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from birdsong import audio
from birdsong.bundle import read_bundle, verify_bundle
from birdsong.serving import body, docs, problems, web
from birdsong.serving.answers import Answer, Asked, PageSettings
from birdsong.serving.batching import FrameScorer
from birdsong.serving.limits import Limits
from birdsong.serving.listening import Listener
from birdsong.serving.metrics import TYPE as METRICS_TYPE
from birdsong.serving.metrics import CountsRequests

_KEEPS = (
    "Nothing. Your recording is listened to in memory and then forgotten; neither it nor the "
    "answer is stored."
)

_PROBLEMS = {
    400: "The query is not understood, or the connection ended inside the body",
    403: "The URI is not one that this server may read",
    408: "The body came too slowly",
    413: "Too large, too long, or more than decoding may take",
    415: "The content type is not audio",
    422: "It cannot be decoded, is silent, or the JSON is not understood",
    500: "The server failed; its log says why",
    502: "The place of the URI does not answer",
    503: "Too much to do, or being stopped; Retry-After says when to come again",
}


class Ready(BaseModel):
    """The server can listen."""

    status: str = Field(description="ready")
    model: str = Field(description="Name of the model")
    bundle_sha256: str = Field(description="Hash of the bundle")


def create_app(
    bundle: str | Path,
    version: str | None = None,
    scorer: FrameScorer | None = None,
    limits: Limits | None = None,
    runtime: str = "auto",
) -> FastAPI:
    """Load a bundle and make the application that answers for it.

    Args:
        bundle: The bundle's folder; verified against its hashes.
        version: The model's version, told in answers; by default that of the `version.json`
            beside the bundle, if there is one.
        scorer: The network; by default the bundle's own through `birdsong.scoring`.
        limits: What requests may take.
        runtime: What computes the network, see `birdsong.scoring.load_scorer`.

    Returns:
        The application, ready: the first request is as fast as any. `app.state.listener.close()`
        ends its threads and processes, where no server does at its shutdown.

    Raises:
        ConfigError: A place is allowed whose reader is not installed, or the runtime is not
            admitted for this model or cannot be used here.
        DataError: The bundle is damaged or incomplete.
    """
    limits = limits or Limits()
    body.check_allowed(limits)
    verify_bundle(bundle)
    if scorer is None:
        from birdsong.scoring import load_scorer

        scorer = load_scorer(bundle, runtime)
    loaded = read_bundle(bundle, str(getattr(scorer, "runtime", "tensorflow")))
    # So that the first request does not wait for the graph.
    scorer.frames(audio.frames(np.array([1, -1], np.int16), loaded.features))
    version = version or _version_beside(loaded.path)
    held = body.Held(limits)
    listener = Listener(loaded, version, scorer, limits, lambda: held.total)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        listener.close()

    # FastAPI's own pages of documentation load their scripts from a CDN.
    app = FastAPI(
        title="birdsong",
        summary="Which birds are heard in a recording",
        version=version or "0",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.listener, app.state.limits = listener, limits
    problems.install(app)
    web.install(app)

    @app.exception_handler(RequestValidationError)
    async def wrong_query(request: Request, error: RequestValidationError) -> Response:
        told = "; ".join(f"{entry['loc'][-1]}: {entry['msg']}" for entry in error.errors())
        return problems.Problem(400, "query", f"{told[:300]}.").response()

    @app.get("/ping")
    async def ping() -> Ready:
        """Say that the server is ready."""
        return Ready(status="ready", model=loaded.name, bundle_sha256=loaded.sha256)

    @app.get("/settings")
    async def settings() -> PageSettings:
        """What a page, or another client, has to know before it sends a recording."""
        return PageSettings(
            model=loaded.name,
            version=version,
            largest_bytes=limits.largest_bytes,
            longest_seconds=limits.longest_seconds,
            upload="direct",
            keeps=_KEEPS,
        )

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {METRICS_TYPE: {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Counters and times for Prometheus."""
        return Response(listener.metrics.page(), media_type=METRICS_TYPE)

    @app.post(
        "/invocations",
        response_model=Answer,
        responses={status: problems.documented(told) for status, told in _PROBLEMS.items()},
        openapi_extra={"requestBody": _REQUEST_BODY},
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
    ) -> Response:
        """Say which birds are heard in a recording: OGG, MP3, FLAC, WAV, WebM or MP4."""
        if unknown := sorted(set(request.query_params) - {"scores"}):
            raise problems.Problem(
                400,
                "query",
                f"{', '.join(unknown)[:100]}: not known here. There are scores=all and "
                "scores=frames.",
            )
        # Others pass traces and tenants in this header; those are none of ours.
        if attributes.startswith("scores="):
            scores = _asked(attributes.removeprefix("scores="))
        async with body.recording(request, limits, held) as recording:
            gone = asyncio.Event()
            watching = asyncio.create_task(_watch(request, gone))
            try:
                found = await listener.answer(recording, scores, gone)
            finally:
                watching.cancel()
        return Response(found, media_type="application/json")

    docs.install(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    paths = {route.path for route in app.routes if hasattr(route, "path")}
    app.add_middleware(CountsRequests, metrics=listener.metrics, paths=paths)
    return app


_REQUEST_BODY = {
    "required": True,
    "description": "The recording's bytes, or JSON with them or with their place.",
    "content": {
        **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in body.AUDIO_TYPES},
        "application/json": {"schema": {"$ref": "#/components/schemas/JsonRecording"}},
    },
}


def _asked(value: str) -> Asked:
    if value not in get_args(Asked):
        raise problems.Problem(
            400,
            "query",
            f"The custom attributes ask for scores={value[:100]}; there are scores=detections, "
            "scores=all and scores=frames.",
        )
    return cast(Asked, value)


async def _watch(request: Request, gone: asyncio.Event) -> None:
    """Notice where the client hangs up before its answer, so that the work stops."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The document of the interface, with the models that only texts of ours name."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        schemas = document["components"]["schemas"]
        for model in (problems.ProblemDetails, body.JsonRecording):
            schemas[model.__name__] = model.model_json_schema()
        app.openapi_schema = document
    return app.openapi_schema


def _version_beside(bundle: Path) -> str | None:
    """The version that register wrote beside a bundle."""
    try:
        return str(json.loads((bundle.parent / "version.json").read_text())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
