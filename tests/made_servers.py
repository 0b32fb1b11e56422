"""A server of a bundle in a thread of the test, over real HTTP on the loopback address."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from made_bundles import write_stages
from prometheus_client.parser import text_string_to_metric_families

from birdsong.bundle import write_bundle
from birdsong.serving import connections
from birdsong.serving.app import create_app
from birdsong.serving.limits import Limits


@contextlib.contextmanager
def served(
    bundle: Path, scorer: Any, limits: Limits | None = None, timeout: float = 60
) -> Iterator[httpx.Client]:
    """A client of the server; its pool has room for many at once."""
    limits = limits or Limits()
    app = create_app(bundle, scorer=scorer, limits=limits)
    heard = app.state.listener
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        server = connections.server(app, limits, heard.last_call, heard.metrics.connections.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        pool = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        try:
            with httpx.Client(
                base_url=base, timeout=timeout, trust_env=False, limits=pool
            ) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(40)
        assert not thread.is_alive()


def at_once(scorer: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], Future[Any]]:
    """A scorer as the server's batches give it, without their thread."""

    def score(frames: np.ndarray) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(scorer(frames))
        return future

    return score


AUDIO = {"Content-Type": "application/octet-stream"}

STRICT = Limits(
    largest_bytes=8 * 2**20,
    longest_seconds=600,
    most_channels=16,
    decode_seconds=20,
    header_seconds=1,
    stall_seconds=1,
    body_seconds=3,
    connections=1_200,
    queue=2_000,
)
"""Limits that a test meets within seconds."""


def made_bundle(folder: Path) -> Path:
    """A bundle without a graph, for a scorer of the test."""
    stages = write_stages(folder / "run", golden=1)
    write_bundle(folder / "bundle", stages.model, stages.thresholds, stages.evaluation)
    return folder / "bundle"


def heard(response: httpx.Response) -> list[str]:
    """The species that an answer says are heard in the first window."""
    assert response.status_code == 200, response.text
    return [one["code"] for one in response.json()["windows"][0]["detections"]]


def problem(response: httpx.Response, status: int, code: str) -> str:
    """Check that a response is this problem, and give its sentence."""
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    return str(response.json()["detail"])


def connect(client: httpx.Client) -> socket.socket:
    """A bare connection to the server of a client."""
    found = socket.create_connection((client.base_url.host, client.base_url.port or 80))
    found.settimeout(20)
    return found


def all_of(raw: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    with contextlib.suppress(ConnectionError):
        return b"".join(iter(lambda: raw.recv(65536), b""))
    return b""


def metric(client: httpx.Client, name: str) -> float:
    """A number that the server tells Prometheus."""
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name:
                return sample.value
    raise AssertionError(name)
