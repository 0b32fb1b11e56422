"""What the server tells Prometheus at /metrics."""

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """Counters of one application, in a registry of its own."""

    def __init__(
        self,
        told: dict[str, str],
        server_bytes: Callable[[], int],
        decoder_bytes: Callable[[], int],
    ) -> None:
        """Make them.

        Args:
            told: Of the model: name, version, bundle hash, runtime.
            server_bytes: Resident memory of this process.
            decoder_bytes: Resident memory of the decoders.
        """
        kept = self._registry = CollectorRegistry()
        self.requests = Counter(
            "birdsong_requests", "Requests answered", ["path", "status"], registry=kept
        )
        self.audio_seconds = Counter(
            "birdsong_audio_seconds", "Seconds of sound that were scored", registry=kept
        )
        self.waiting = Gauge(
            "birdsong_queue_recordings", "Recordings that wait for their turn", registry=kept
        )
        self.working = Gauge(
            "birdsong_working_recordings", "Recordings that are decoded and scored", registry=kept
        )
        self.held_bytes = Gauge(
            "birdsong_held_bytes", "Bytes of recordings that are held", registry=kept
        )
        self.connections = Gauge("birdsong_connections", "Open connections", registry=kept)
        self.decode = self._seconds("birdsong_decode_seconds", "Waiting for a recording's decoder")
        self.inference = self._seconds("birdsong_inference_seconds", "One pass of the network")
        self.total = self._seconds("birdsong_request_seconds", "From a request's header to its end")
        self.batch = Histogram(
            "birdsong_batch_frames",
            "Frames of 5 s in one pass of the network",
            buckets=(1, 2, 4, 8, 12, 24, 36, 48, 96),
            registry=kept,
        )
        memory = Gauge("birdsong_memory_bytes", "Resident memory", ["process"], registry=kept)
        memory.labels("server").set_function(server_bytes)
        memory.labels("decoders").set_function(decoder_bytes)
        Info("birdsong_model", "The model that is served", registry=kept).info(told)

    def _seconds(self, name: str, told: str) -> Histogram:
        return Histogram(name, f"{told}, seconds", buckets=_SECONDS, registry=self._registry)

    def batch_done(self, frames: int, seconds: float) -> None:
        """A pass of the network."""
        self.batch.observe(frames)
        self.inference.observe(seconds)

    def page(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)


class CountsRequests:
    """Counts responses by address and status; addresses that are not ours as one."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Iterable[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            if path == "/invocations":
                self._metrics.total.observe(time.perf_counter() - began)
