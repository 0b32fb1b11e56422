"""From a request to the bytes of its recording, which never reach more than the limits allow."""

import asyncio
import base64
import binascii
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import ClientDisconnect

from birdsong.errors import ConfigError, StorageError, UnreachableError
from birdsong.serving.limits import Limits
from birdsong.serving.problems import Problem

AUDIO_TYPES = (
    "audio/ogg",
    "audio/mpeg",
    "audio/flac",
    "audio/wav",
    "audio/webm",
    "audio/mp4",
    "audio/*",
    "application/octet-stream",
)
"""As the document of the interface lists them; what it is, the bytes themselves say."""

_ALSO = {"application/octet-stream", "application/ogg", "application/x-flac", "application/mp4"}
_ACCEPTED = "audio/*, application/octet-stream or application/json"

_DRAINED = 4
"""A body of up to so many times the limit is read to its end and thrown away: most clients read
no answer before they have sent all, and would see a broken connection instead of the reason."""

_READ_AT_ONCE = 8 * 2**20

_UNPACKER = ThreadPoolExecutor(1, "unpack")
"""One thread: a JSON body takes nearly three times its size while it becomes bytes again, and each
further thread would keep memory of its own for the next one."""


class JsonRecording(BaseModel):
    """A recording as JSON: its bytes, or where they are."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "oneOf": [{"required": ["audio"]}, {"required": ["uri"]}],
            "examples": [{"uri": "s3://BUCKET/recordings/XC1.ogg"}],
        },
    )

    audio: Annotated[str, Field(description="The recording's bytes in Base64")] | None = None
    uri: (
        Annotated[
            str,
            Field(
                max_length=1024,
                description="s3://bucket/key or gs://bucket/key, where this server allows it",
            ),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _one(self) -> "JsonRecording":
        if (self.audio is None) == (self.uri is None):
            raise ValueError("give either audio or uri")
        return self


class Held:
    """How many bytes of recordings are held by all requests together."""

    def __init__(self, limits: Limits) -> None:
        self._limit = limits.held_bytes
        self._lock = threading.Lock()
        self.total = 0

    def take(self, count: int) -> None:
        """Count bytes in, or refuse."""
        with self._lock:
            if self.total + count <= self._limit:
                self.total += count
                return
        raise Problem(
            503,
            "busy",
            f"Recordings of {self._limit / 2**20:g} MiB together are being received and listened "
            "to. Try again in a moment.",
            {"Retry-After": "5"},
        )

    def give(self, count: int) -> None:
        """Count them out."""
        with self._lock:
            self.total -= count


class Recording:
    """Bytes of a recording in memory that the decoder reads without a copy."""

    def __init__(self, held: Held) -> None:
        self._held, self.size = held, 0
        self.descriptor = os.memfd_create("recording", os.MFD_CLOEXEC)

    def add(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self._held.take(len(data))
        self.size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]

    def content(self) -> bytes:
        """All of it."""
        return os.pread(self.descriptor, self.size, 0)

    def clear(self) -> None:
        """Forget the bytes."""
        os.ftruncate(self.descriptor, 0)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        self._held.give(self.size)
        self.size = 0

    def close(self) -> None:
        """Forget all."""
        self._held.give(self.size)
        self.size = 0
        os.close(self.descriptor)


@contextlib.asynccontextmanager
async def recording(request: Request, limits: Limits, held: Held) -> AsyncIterator[Recording]:
    """The recording that a request sends or names.

    Raises:
        Problem: It is too large or too slow, not audio, not allowed, or absent.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    _check_type(kind)
    found = Recording(held)
    try:
        if kind == "application/json":
            # Base64 has four characters for three bytes.
            await _receive(request, found, limits, limits.largest_bytes * 4 // 3 + 1024)
            loop = asyncio.get_running_loop()
            uri = await loop.run_in_executor(_UNPACKER, _unpack, found, limits)
            if uri is not None:
                await asyncio.to_thread(_fetch, found, uri, limits)
        else:
            await _receive(request, found, limits, limits.largest_bytes)
        if not found.size:
            raise Problem(
                422, "empty", "The request has no recording. Send a recording's bytes as the body."
            )
        yield found
    finally:
        found.close()


def _check_type(kind: str) -> None:
    # A recorder in a browser sends audio/webm; curl without a header sends a form's type.
    if not kind or kind.startswith("audio/") or kind in _ALSO or kind == "application/json":
        return
    raise Problem(
        415,
        "not-audio",
        f"The content type is {kind[:100]!r}, needed is {_ACCEPTED}. With curl: "
        "--data-binary @FILE -H 'Content-Type: application/octet-stream'.",
        {"Accept-Post": "audio/*, application/octet-stream, application/json"},
    )


def _too_large(limits: Limits) -> Problem:
    return Problem(
        413,
        "too-large",
        f"A recording may have up to {limits.largest_bytes / 2**20:g} MiB. Send it in parts, or "
        "as OGG or FLAC, which are smaller than WAV.",
        {"Connection": "close"},
    )


async def _receive(request: Request, found: Recording, limits: Limits, largest: int) -> None:
    """Append the body; of one that is refused the rest is thrown away, within bounds."""
    claimed = request.headers.get("content-length", "")
    # A client that expects 100-continue has sent nothing yet.
    bearable = largest if "expect" in request.headers else _DRAINED * largest
    if claimed.isdigit() and int(claimed) > bearable:
        raise _too_large(limits)
    came = 0
    refused: Problem | None = None
    try:
        async with asyncio.timeout(limits.body_seconds):
            chunks = aiter(request.stream())
            while True:
                try:
                    async with asyncio.timeout(limits.stall_seconds):
                        chunk = await anext(chunks)
                except StopAsyncIteration:
                    break
                came += len(chunk)
                if came > _DRAINED * largest:
                    raise _too_large(limits)
                if refused is not None:
                    continue
                try:
                    if came > largest:
                        raise _too_large(limits)
                    found.add(chunk)
                except Problem as problem:
                    refused = problem
                    found.clear()
    except ClientDisconnect:
        raise Problem(400, "cut-off", "The connection ended inside the body.") from None
    except TimeoutError:
        raise Problem(
            408,
            "slow-body",
            f"The body paused for more than {limits.stall_seconds:g} s or took more than "
            f"{limits.body_seconds:g} s. Send a smaller file, or over a better connection.",
            {"Connection": "close"},
        ) from None
    if refused is not None:
        raise refused


def _unpack(found: Recording, limits: Limits) -> str | None:
    """Put a JSON body's bytes in its place; or tell the place that it names."""
    try:
        told = JsonRecording.model_validate_json(found.content())
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])[:100]
        raise Problem(
            422,
            "json",
            f"The JSON body cannot be used: {where + ': ' if where else ''}"
            f"{problem['msg'].removeprefix('Value error, ')}. Send "
            '{"audio": "BASE64"} or {"uri": "s3://BUCKET/KEY"}.',
        ) from None
    found.clear()
    if told.uri is not None:
        return told.uri
    try:
        data = base64.b64decode(told.audio or "", validate=True)
    except (binascii.Error, ValueError):
        raise Problem(
            422, "json", "audio is not Base64. Encode the recording's bytes without line breaks."
        ) from None
    if len(data) > limits.largest_bytes:
        raise _too_large(limits)
    found.add(data)
    return None


def _fetch(found: Recording, uri: str, limits: Limits) -> None:
    for block in _of_uri(uri, limits):
        found.add(block)


def _of_uri(uri: str, limits: Limits) -> Iterator[bytes]:
    if not _is_allowed(uri, limits.allow_uris):
        raise Problem(
            403,
            "uri-not-allowed",
            "This server does not read from that place. Send the recording's bytes, or let who "
            "runs the server allow the place with --allow-uris.",
        )
    from birdsong import storage

    try:
        size = storage.size_of(uri)
        if size > limits.largest_bytes:
            raise _too_large(limits)
        for start in range(0, size, _READ_AT_ONCE):
            yield storage.read_range(uri, start, min(_READ_AT_ONCE, size - start))
    except UnreachableError as error:
        raise Problem(502, "uri-unreachable", f"{error}", {"Retry-After": "5"}) from None
    except (StorageError, ConfigError) as error:
        raise Problem(422, "uri-unreadable", f"{error}") from None


def _is_allowed(uri: str, prefixes: tuple[str, ...]) -> bool:
    # What looks like a way out of a prefix is refused, whatever a service would make of it.
    plain = uri.isprintable() and not {"..", "."} & set(uri.split("/")) and "%" not in uri
    return plain and uri.startswith(prefixes) if prefixes else False


def check_allowed(limits: Limits) -> None:
    """Tell at the start where a place is allowed and its reader is not installed.

    Raises:
        ConfigError: So it is.
    """
    readers: dict[str, Any] = {"s3": "boto3", "gs": "google.cloud.storage"}
    for scheme in sorted({prefix.partition(":")[0] for prefix in limits.allow_uris}):
        try:
            __import__(readers[scheme])
        except ImportError:
            raise ConfigError(
                f"allow_uris: {scheme}:// needs the package {readers[scheme]}, which is not "
                "installed here."
            ) from None
