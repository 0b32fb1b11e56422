"""uvicorn, hardened: bounded connections, slow clients, and a stop that loses nothing.

What uvicorn itself has no setting for is added at four of its protocol's methods.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from birdsong.serving import problems
from birdsong.serving.limits import Limits

_LAST_LOOK_SECONDS = 0.25
"""How long an idle connection stays open after a stop, for a request that is on its way."""

_LAST_CALL_SECONDS = 3.0
"""How long before the end of the grace requests are told that they will not be finished."""


class Protocol(H11Protocol):
    """One connection."""

    limits: Limits
    count: Callable[[int], None]
    _timer: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None
    _refused = False
    _came = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.count(len(self.connections))
        self._refused = len(self.connections) > self.limits.connections
        self._timer = self.loop.call_later(self.limits.header_seconds, self._header_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._reader is not None:
            self._reader.cancel()
        super().connection_lost(exc)
        self.count(len(self.connections))

    def data_received(self, data: bytes) -> None:
        self._came = True
        if self._refused:
            # Once the request is here, so that it does not cross the answer.
            return self._end(
                503,
                "connections",
                f"More than {self.limits.connections} connections at once are not served. Try "
                "again in a moment.",
                {"Retry-After": "5"},
            )
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._timer is None and not self.transport.is_closing():
            # Part of a header, or of a body that nobody reads any more.
            self._timer = self.loop.call_later(self.limits.header_seconds, self._header_is_late)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._came = False

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader = self.loop.call_later(self.limits.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def shutdown(self) -> None:
        """A request that was sent before the stop may still be on its way through the kernel."""
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LAST_LOOK_SECONDS, self._shutdown_now)
        else:
            super().shutdown()

    def _shutdown_now(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        self._end(400, "http", f"{msg} Send HTTP/1.1, with a header of at most 16 KiB.")

    def _header_is_late(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if not self._came or (self.cycle is not None and self.cycle.response_complete):
            self.transport.abort() if self._came else self.transport.close()
            return
        self._end(
            408,
            "slow-header",
            f"The request's header took longer than {self.limits.header_seconds:g} s.",
        )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(
        self, status: int, code: str, detail: str, headers: dict[str, str] | None = None
    ) -> None:
        """Answer without the application, and close."""
        body = json.dumps(problems.details(status, code, detail).model_dump()).encode()
        lines = {
            "content-type": problems.MEDIA_TYPE,
            "content-length": str(len(body)),
            "connection": "close",
            **(headers or {}),
        }
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.transport.write(head.encode("ascii") + b"\r\n" + body)
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's server, which tells the application when the end of the grace is near."""

    def __init__(self, config: uvicorn.Config, last_call: Callable[[], None]) -> None:
        super().__init__(config)
        self._last_call = last_call

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that was obeyed is not raised once more at the end.

        A CPU with AMX needs more room for a signal after a network ran in the thread than some
        builds of Python give it; then the process dies of the second one (exit code 139).
        """
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    async def shutdown(self, sockets: Any = None) -> None:
        grace = self.config.timeout_graceful_shutdown or 0
        asyncio.get_running_loop().call_later(max(0, grace - _LAST_CALL_SECONDS), self._last_call)
        await super().shutdown(sockets)


def server(
    app: Any, limits: Limits, last_call: Callable[[], None], count: Callable[[int], None]
) -> Server:
    """A server of an application.

    Args:
        app: The application.
        limits: Of connections and slow clients.
        last_call: Called where the grace of a stop is nearly over.
        count: Hears the number of open connections.
    """
    protocol = type(
        "LimitedProtocol", (Protocol,), {"limits": limits, "count": staticmethod(count)}
    )
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_level="error",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=round(limits.grace_seconds),
        server_header=False,
        backlog=2048,
    )
    return Server(config, last_call)
