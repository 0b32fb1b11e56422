"""Errors of the server as problem details (RFC 9457): a status, a word and a sentence."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"
_LOG = logging.getLogger("birdsong.serving")


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 defines it, with a word for programs."""

    type: str = Field(description="Always about:blank: the status says what kind it is")
    title: str = Field(description="The status in words")
    status: int = Field(description="The HTTP status")
    code: str = Field(description="A word for programs, such as silent or too-large")
    detail: str = Field(description="What came, what is needed and what to do")


class Problem(Exception):
    """Ends a request with an error that its sender can act on."""

    def __init__(
        self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """The problem as a response."""
        return JSONResponse(
            details(self.status, self.code, self.detail).model_dump(),
            self.status,
            headers=self.headers,
            media_type=MEDIA_TYPE,
        )


def documented(told: str) -> dict[str, Any]:
    """A problem in the document of the interface."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {"description": told, "content": {MEDIA_TYPE: {"schema": schema}}}


def details(status: int, code: str, detail: str) -> ProblemDetails:
    """An error's body."""
    return ProblemDetails(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=detail,
    )


def install(app: FastAPI) -> None:
    """Let every error of an app, also those of its framework, be problem details."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)
        return error.response()

    async def of_the_framework(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code, detail = {
            404: ("no-such-route", "Send recordings to POST /invocations; GET /ping says ready."),
            405: (
                "no-such-method",
                f"{request.method} is not for this address. Send recordings by POST to "
                "/invocations; GET /ping says ready.",
            ),
        }.get(error.status_code, ("http", str(error.detail)))
        return Problem(error.status_code, code, detail, error.headers).response()

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        # uvicorn logs the traceback; the sender gets none of it.
        return Problem(
            500,
            "internal",
            "The server failed on this request; its log says why. Other requests are not affected.",
        ).response()

    app.add_exception_handler(Problem, ours)
    app.add_exception_handler(HTTPException, of_the_framework)
    app.add_exception_handler(Exception, unexpected)
