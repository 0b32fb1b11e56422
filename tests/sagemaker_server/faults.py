"""Faults on command, and the list of the calls that came."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

OWN = "sagemaker-server"
"""In the user agent of the server's own calls: they are not counted and meet no faults."""

HOLD_SECONDS = 30.0
"""Longest that a request without an answer is held; it ends sooner when the server stops."""

KINDS = ("throttle", "500", "timeout", "reset")
"""Of the fault table. timeout and reset come after the request was carried out."""

_JSON = "application/x-amz-json-1.1"


@dataclass
class Fault:
    """What befalls the next calls of an action.

    Attributes:
        action: Name of the action, as CreateTrainingJob or PutObject; a regular expression.
        kind: throttle, 500, timeout, reset (both after the request was carried out), lost (reset
            before it was), or an error code of AWS.
        message: Of an error code.
        times: How many calls.
        after: How many calls pass first.
        status: HTTP status of an error code.
        then: Called once a reset was carried out, or a lost call was not, before the connection
            breaks; to kill the one who asked.
    """

    action: str
    kind: str
    message: str = ""
    times: int = 1
    after: int = 0
    status: int = 400
    then: Callable[[], None] = lambda: None


@dataclass
class Faults:
    """The faults that are waiting, and all calls so far."""

    waiting: list[Fault] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    met: list[tuple[str, str]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, action: str, kind: str, **more: Any) -> None:
        """Let the next calls of an action fail; see `Fault`."""
        with self._lock:
            self.waiting.append(Fault(action, kind, **more))

    def clear(self) -> None:
        with self._lock:
            self.waiting.clear()

    def take(self, action: str) -> Fault | None:
        """Note a call; the fault that it meets, if any."""
        with self._lock:
            self.calls.append(action)
            for fault in self.waiting:
                if not re.fullmatch(fault.action, action):
                    continue
                if fault.after:
                    fault.after -= 1
                    continue
                fault.times -= 1
                if fault.times <= 0:
                    self.waiting.remove(fault)
                self.met.append((action, fault.kind))
                return fault
        return None

    def apply(
        self, fault: Fault, environ: dict[str, Any], carry_out: Callable[[], Iterable[bytes]]
    ) -> tuple[int, bytes, str] | None:
        """The answer of a fault; None where the connection is gone without one."""
        xml = "HTTP_X_AMZ_TARGET" not in environ
        if fault.kind == "throttle":
            return (
                (503, _xml("SlowDown", "Please reduce your request rate."), "application/xml")
                if xml
                else (400, _json("ThrottlingException", "Rate exceeded"), _JSON)
            )
        if fault.kind == "500":
            return (
                (500, _xml("InternalError", "We encountered an internal error."), "application/xml")
                if xml
                else (500, _json("InternalFailure", "An internal failure occurred"), _JSON)
            )
        if fault.kind in ("timeout", "reset"):
            list(carry_out())
        if fault.kind == "timeout":
            self.stopped.wait(HOLD_SECONDS)
        fault.then()
        if fault.kind in ("timeout", "reset", "lost"):
            connection: socket.socket = environ["werkzeug.socket"]
            connection.shutdown(socket.SHUT_RDWR)
            return None
        if xml:
            return fault.status, _xml(fault.kind, fault.message), "application/xml"
        return fault.status, _json(fault.kind, fault.message), _JSON


def _json(code: str, message: str) -> bytes:
    return json.dumps({"__type": code, "message": message}).encode()


def _xml(code: str, message: str) -> bytes:
    inner = f"<Code>{code}</Code><Message>{message}</Message>"
    return f"<ErrorResponse><Error>{inner}</Error>{inner}</ErrorResponse>".encode()


def name_of(environ: dict[str, Any], body: bytes | None) -> str:
    """The action that a request asks for."""
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        return str(target.rpartition(".")[2])
    if re.fullmatch(r"/endpoints/[^/]+/invocations", environ["PATH_INFO"]):
        return "InvokeEndpoint"
    method, query = (
        environ["REQUEST_METHOD"],
        parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True),
    )
    if body and b"Action=" in body:
        return parse_qs(body.decode())["Action"][0]
    has_key = "/" in environ["PATH_INFO"].strip("/")
    if "uploadId" in query:
        return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload"}.get(
            method, "AbortMultipartUpload"
        )
    if "uploads" in query:
        return "CreateMultipartUpload"
    if has_key:
        return f"{method.capitalize()}Object"
    if "list-type" in query:
        return "ListObjectsV2"
    return "GetBucketLocation" if "location" in query else f"{method.capitalize()}Bucket"
