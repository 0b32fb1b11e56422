"""A bundle's server as a process of its own on this machine, for as long as it is needed."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO

from birdsong.errors import DataError

_STOP_SECONDS = 15.0


class LocalServer:
    """A server of a bundle that runs as a process on this machine."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> tuple[int, bytes]:
        """Send one request, straight to the loopback address: no proxy stands between."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def log_tail(self, lines: int = 15) -> str:
        """The end of what the server printed."""
        text = self._log.read_text(errors="replace").strip().splitlines()[-lines:]
        return "Its log ends with:\n" + "\n".join(f"  {line}" for line in text) if text else ""


@contextlib.contextmanager
def local_server(
    folder: Path, version: str, timeout_seconds: float, runtime: str = "auto"
) -> Iterator[LocalServer]:
    """Run a bundle's server on the loopback address and a free port; it is always stopped.

    Also where this process gets SIGTERM; and where it is killed, the server sees its standard
    input close and stops by itself.

    Args:
        folder: The bundle.
        version: The model's version, told in answers.
        timeout_seconds: Longest wait until it is ready.
        runtime: What computes the network; auto takes the fastest.

    Raises:
        DataError: It ends or is not ready in time; with the end of its log.
    """
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        tempfile.TemporaryDirectory() as aside,
    ):
        # Bound here and passed on, so that nobody can take the port in between.
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        log = Path(aside) / "server.log"
        with log.open("wb") as output, _stopping_on_sigterm():
            process = _start(folder, version, listener, output, runtime)
            try:
                server = LocalServer(process, port, log)
                _wait_until_ready(server, timeout_seconds)
                yield server
            finally:
                _stop(process)


def _start(
    folder: Path, version: str, listener: socket.socket, output: IO[bytes], runtime: str
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "birdsong.serving.server",
            str(folder),
            "--version",
            version,
            "--runtime",
            runtime,
            "--socket",
            str(listener.fileno()),
            "--stop-with-parent",
        ],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=[listener.fileno()],
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def _wait_until_ready(server: LocalServer, timeout_seconds: float) -> None:
    give_up = time.monotonic() + timeout_seconds
    while True:
        code = server.process.poll()
        if code is not None:
            raise DataError(
                f"The server ended with exit code {code} before it was ready.\n{server.log_tail()}"
            )
        with contextlib.suppress(OSError, http.client.HTTPException):
            if server.request("GET", "/ping", timeout=2)[0] == 200:
                return
        if time.monotonic() > give_up:
            raise DataError(
                f"The server was not ready within {timeout_seconds:g} s. Is the machine busy? "
                f"{server.log_tail()}"
            )
        time.sleep(0.1)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server and whatever it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
            break
    if process.stdin is not None:
        process.stdin.close()


@contextlib.contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind this process, so that what it started is stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
