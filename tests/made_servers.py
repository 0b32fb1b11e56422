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
