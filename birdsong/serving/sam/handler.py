"""The function behind the web page on AWS: its files, and the three addresses that it asks.

    GET settings   what may be sent, and how
    POST uploads   {"name", "size", "type"}: a form by which the browser sends one file to S3
    POST listen    {"key"}: what the endpoint hears in it, as the server's `invocations` answers

It is a file of its own, beside the page in a zip, on Lambda's Python and boto3. Nothing that comes
from outside is trusted: names of files are not used at all, keys are our own.
"""

import base64
import gzip
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    ReadTimeoutError,
)

PAGE = Path(__file__).with_name("page")
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

MIB = 2**20
LARGEST_INVOCATION = 6_291_456
"""Largest body of SageMaker's InvokeEndpoint, bytes."""

LARGEST_ANSWER = 5_500_000
"""Largest answer that is sent: Lambda takes 6 MB, with headers."""

UPLOAD_SECONDS = 900
"""How long a form for an upload is good."""

ENDPOINT_SECONDS = 55
"""How long the endpoint is waited for; Lambda and CloudFront give up after 60 s."""

KEY = re.compile(r"uploads/[0-9a-f]{32}")
"""A key as `_uploads` makes it. Nobody but this function lets objects into the bucket, so one that
is there was signed here; and nobody guesses 128 random bits."""

_KIND = re.compile(r"[a-z0-9][a-z0-9.+-]{0,30}/[a-z0-9][a-z0-9.+-]{0,60}")
_AUDIO = ("application/octet-stream", "application/ogg", "application/x-flac", "video/webm")
_LOG = logging.getLogger("birdsong")
_LOG.setLevel(logging.INFO)

Response = dict[str, Any]


class Problem(Exception):
    """Ends a request with problem details (RFC 9457) that its sender can act on."""

    def __init__(self, status: int, code: str, detail: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}

    def response(self) -> Response:
        """The problem as a response."""
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        return _json(body, self.status, "application/problem+json", self.headers)


class Web:
    """What one copy of the function keeps between requests: its settings, clients and the page."""

    def __init__(self, environment: Mapping[str, str], page: Path = PAGE) -> None:
        """Read the settings of the template and the files of the page."""
        self.endpoint = environment["ENDPOINT_NAME"]
        self.bucket = environment["UPLOADS_BUCKET"]
        self.by_uri = environment.get("ENDPOINT_READS_UPLOADS") == "yes"
        largest = int(environment["LARGEST_MEGABYTES"]) * MIB
        self.largest = largest if self.by_uri else min(largest, LARGEST_INVOCATION)
        self.longest_seconds = int(environment["LONGEST_SECONDS"])
        # By default boto3 signs for s3.amazonaws.com, which redirects to the region; a browser
        # follows no redirect of a form that it may not send there.
        self.s3 = boto3.client(
            "s3", config=Config(signature_version="s3v4", s3={"addressing_style": "virtual"})
        )
        # Not tried again here: whoever waits would wait twice, and the page can ask again.
        self.runtime = boto3.client(
            "sagemaker-runtime",
            config=Config(
                connect_timeout=5, read_timeout=ENDPOINT_SECONDS, retries={"total_max_attempts": 1}
            ),
        )
        self.files = {
            "/" if name == "index.html" else f"/{name}": (file.read_bytes(), TYPES[file.suffix])
            for file in sorted(page.rglob("*"))
            if file.is_file() and file.suffix in TYPES
            for name in [file.relative_to(page).as_posix()]
        }
        form = self.s3.generate_presigned_post(self.bucket, "uploads/none")["url"]
        uploads_to = "/".join(form.split("/")[:3])
        self.headers = {
            # Nothing inline and nothing from elsewhere; blob: is the visitor's own recording.
            "Content-Security-Policy": (
                "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
                "img-src 'self' blob:; media-src 'self' blob:; worker-src 'self'; "
                f"connect-src 'self' {uploads_to}; manifest-src 'self'; base-uri 'none'; "
                "form-action 'none'; frame-ancestors 'none'"
            ),
            "Strict-Transport-Security": "max-age=31536000",
            "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }


_web: Web | None = None


def handle(event: Mapping[str, Any], context: object) -> Response:
    """Answer a request of a function URL (payload format 2.0)."""
    global _web
    started = time.monotonic()
    try:
        _web = _web or Web(os.environ)
        response = _answer(_web, event)
    except Problem as problem:
        response = problem.response()
        _LOG.info("%s %s", problem.status, problem.code)
    except Exception:
        _LOG.exception("failed after %.1f s", time.monotonic() - started)
        response = Problem(
            500,
            "internal",
            "The page's server failed on this request. Try again; its log says why.",
        ).response()
    if _web is not None:
        response["headers"] = {**_web.headers, **response["headers"]}
    return response


def _answer(web: Web, event: Mapping[str, Any]) -> Response:
    try:
        method = str(event["requestContext"]["http"]["method"])
        path = str(event["rawPath"])
    except (KeyError, TypeError):
        raise Problem(
            400, "no-request", "This is no request of a function URL in payload format 2.0."
        ) from None
    if path in web.files:
        _only(method, "GET", "HEAD")
        return _file(method, *web.files[path])
    if path == "/settings":
        _only(method, "GET", "HEAD")
        return _json(_settings(web))
    if path == "/uploads":
        _only(method, "POST")
        return _json(_uploads(web, _sent(event)))
    if path == "/listen":
        _only(method, "POST")
        return _listen(web, _sent(event), event.get("queryStringParameters") or {})
    raise Problem(
        404, "no-such-route", "There is a page at /, and settings, uploads and listen for it."
    )


def _only(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise Problem(405, "no-such-method", f"This address takes {' and '.join(allowed)} only.")


def _settings(web: Web) -> dict[str, Any]:
    return {
        "model": web.endpoint,
        "version": None,
        "largest_bytes": web.largest,
        "longest_seconds": web.longest_seconds,
        "upload": "presigned",
        "keeps": "A recording is deleted as soon as it was listened to, otherwise within two days.",
    }


def _uploads(web: Web, sent: Mapping[str, Any]) -> dict[str, Any]:
    size = sent.get("size")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise Problem(400, "size", "Say the file's size in bytes, as a whole number in `size`.")
    if size == 0:
        raise Problem(422, "empty", "The file is empty: it has no bytes. Choose another one.")
    if size > web.largest:
        raise Problem(
            413,
            "too-large",
            f"The file has {size / MIB:,.1f} MiB, at most {web.largest / MIB:,.0f} MiB are taken. "
            "Send a part of it, or the same sound as OGG or MP3.",
        )
    kind = str(sent.get("type") or "").partition(";")[0].strip().lower()
    if kind and not kind.startswith("audio/") and kind not in _AUDIO:
        raise Problem(
            415, "not-audio", "The file is no recording: send OGG, MP3, FLAC, WAV or WebM."
        )
    if not _KIND.fullmatch(kind):
        kind = "application/octet-stream"
    key = f"uploads/{secrets.token_hex(16)}"
    form = web.s3.generate_presigned_post(
        web.bucket,
        key,
        Fields={"Content-Type": kind},
        Conditions=[{"Content-Type": kind}, ["content-length-range", 1, size]],
        ExpiresIn=UPLOAD_SECONDS,
    )
    return {"url": form["url"], "fields": form["fields"], "key": key}


def _listen(web: Web, sent: Mapping[str, Any], query: Mapping[str, str]) -> Response:
    scores = query.get("scores", "detections")
    if scores not in ("detections", "all", "frames") or set(query) - {"scores"}:
        raise Problem(400, "query", "There is ?scores=detections, all or frames, nothing else.")
    key = sent.get("key")
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise Problem(400, "key", "Send the `key` that `uploads` gave for the file.")
    body, kind = _body(web, key)
    try:
        answer = _invoke(web, body, kind, scores)
    except Problem as problem:
        # What cannot be heard now may be asked for again without another upload.
        if problem.status < 500 and problem.status != 429:
            _forget(web, key)
        raise
    _forget(web, key)
    packed = gzip.compress(answer, 6)
    if len(packed) * 4 / 3 > LARGEST_ANSWER:
        raise Problem(
            413,
            "answer-too-large",
            f"The answer has {len(packed) / MIB:.1f} MiB, too much for one response. Send a "
            "shorter part of the recording.",
        )
    return {
        "statusCode": 200,
        "headers": {
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
            "Cache-Control": "no-store",
        },
        "body": base64.b64encode(packed).decode(),
        "isBase64Encoded": True,
    }


def _body(web: Web, key: str) -> tuple[bytes, str]:
    """What the endpoint gets: the recording itself, or where it lies; and its content type."""
    try:
        # Not by HEAD first: most recordings are small, and a body that is not read costs nothing.
        found = web.s3.get_object(Bucket=web.bucket, Key=key)
        size = int(found["ContentLength"])
        if size > web.largest:
            _forget(web, key)
            raise Problem(413, "too-large", f"At most {web.largest / MIB:,.0f} MiB are taken.")
        if size <= LARGEST_INVOCATION:
            return found["Body"].read(), str(found.get("ContentType") or "")
        found["Body"].close()
    except ClientError as error:
        # Without the right to list, S3 calls what is absent forbidden.
        if error.response["Error"]["Code"] in ("NoSuchKey", "AccessDenied", "404", "403"):
            raise Problem(
                404,
                "no-such-upload",
                "There is no such file: it did not arrive, or it was heard or deleted. Send it "
                "again.",
            ) from None
        raise
    uri = {"uri": f"s3://{web.bucket}/{key}"}
    return json.dumps(uri).encode(), "application/json"


def _invoke(web: Web, body: bytes, kind: str, scores: str) -> bytes:
    try:
        answer = web.runtime.invoke_endpoint(
            EndpointName=web.endpoint,
            Body=body,
            ContentType=kind,
            Accept="application/json",
            # SageMaker passes no query on; the server reads this header instead.
            CustomAttributes=f"scores={scores}",
        )
        heard: bytes = answer["Body"].read()
        return heard
    except (ReadTimeoutError, ConnectTimeoutError):
        raise Problem(
            504,
            "endpoint-slow",
            f"The model did not answer within {ENDPOINT_SECONDS} s. Try again, or send a shorter "
            "recording.",
            retry_after=10,
        ) from None
    except ClientError as error:
        raise _told(error) from None
    except BotoCoreError as error:
        _LOG.warning("endpoint: %s", error)
        raise Problem(
            502,
            "endpoint-unreachable",
            "The model cannot be reached at the moment. Try again in a minute.",
            retry_after=60,
        ) from None


def _told(error: ClientError) -> Problem:
    """SageMaker's error in words for whoever listens; its own go to the log."""
    code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
    _LOG.warning("endpoint: %s: %s", code, message[:500])
    if code == "ModelError":
        return _of_the_model(error.response)
    if code in ("ThrottlingException", "Throttling", "TooManyRequestsException"):
        return Problem(
            429, "busy", "Too many listen at the moment. Try again in some seconds.", retry_after=5
        )
    if code in ("ModelNotReadyException", "ServiceUnavailable"):
        return Problem(
            503,
            "endpoint-starting",
            "The model is starting or has too much to do. Try again in a minute.",
            retry_after=60,
        )
    if code in ("ValidationError", "ValidationException") and "not found" in message.lower():
        return Problem(
            502,
            "endpoint-absent",
            "There is no model behind this page now: its endpoint was not started, or was stopped "
            "to save money. Tell who runs the page.",
        )
    if code in ("AccessDeniedException", "AccessDenied"):
        return Problem(
            502, "endpoint-forbidden", "This page may not ask its model. Tell who runs the page."
        )
    return Problem(502, "endpoint-failed", "The model failed on this request. Try again later.")


def _of_the_model(response: Mapping[str, Any]) -> Problem:
    """The problem that our server told SageMaker, or what SageMaker says when there is none."""
    status = response.get("OriginalStatusCode")
    text = str(response.get("OriginalMessage") or "")
    try:
        told = json.loads(text)
        if str(told["code"]).startswith("uri-"):
            return Problem(
                502,
                "endpoint-forbidden",
                "The model may not read recordings of this size. Send a smaller one, and tell who "
                "runs the page.",
            )
        # What the sender of a recording can act on is passed on word by word.
        if isinstance(status, int) and (400 <= status < 500 or status == 503):
            return Problem(
                status,
                str(told["code"])[:100],
                str(told["detail"])[:1000],
                retry_after=10 if status in (429, 503) else None,
            )
    except (ValueError, KeyError, TypeError):
        if "timed out" in text or "did not respond" in text:
            return Problem(
                504,
                "endpoint-slow",
                "The model took too long for this recording. Send a shorter one.",
            )
    return Problem(502, "endpoint-failed", "The model failed on this recording. Try another one.")


def _forget(web: Web, key: str) -> None:
    try:
        web.s3.delete_object(Bucket=web.bucket, Key=key)
    except (ClientError, BotoCoreError) as error:
        # The bucket's own rule deletes it within two days.
        _LOG.warning("not deleted: %s", error)


def _sent(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON object of a request's body."""
    body = event.get("body") or ""
    try:
        if event.get("isBase64Encoded"):
            body = base64.b64decode(body, validate=True)
        sent = json.loads(body)
    except (ValueError, TypeError, RecursionError):
        sent = None
    if not isinstance(sent, dict):
        raise Problem(400, "no-json", "Send a JSON object as the body.")
    return sent


def _file(method: str, data: bytes, kind: str) -> Response:
    return {
        "statusCode": 200,
        # CloudFront keeps it so long; a new version of the page is seen after that.
        "headers": {"Content-Type": kind, "Cache-Control": "public, max-age=300"},
        "body": "" if method == "HEAD" else base64.b64encode(data).decode(),
        "isBase64Encoded": True,
    }


def _json(
    value: object,
    status: int = 200,
    kind: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Response:
    return {
        "statusCode": status,
        "headers": {"Content-Type": kind, "Cache-Control": "no-store", **(headers or {})},
        "body": json.dumps(value),
        "isBase64Encoded": False,
    }
