"""Stage: serve the registered version and check it with its golden recordings."""

import contextlib
import http.client
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any

from birdsong import artifacts, bundle, golden, runtimes
from birdsong.config import DeployConfig
from birdsong.errors import ConfigError, DataError

ENDPOINT = "endpoint.json"
_STOP_SECONDS = 15.0


def deploy(
    version_path: str | Path, endpoint_path: str | Path, config: DeployConfig
) -> dict[str, float]:
    """Serve the registered version and check it with its golden recordings.

    With target local, the bundle's server runs as a process of its own for as long as the check
    takes; `endpoint.json` says how to start it for good.

    Args:
        version_path: Output of register; a rejected version is passed over.
        endpoint_path: Where `endpoint.json` is written.
        config: Target, tolerance and the longest wait.

    Returns:
        Golden recordings, those that agreed, the largest difference and seconds; `deployed` 0
        where there was nothing to check.

    Raises:
        ConfigError: The target is not one that this birdsong serves.
        DataError: The server does not start, or its scores differ from the stored ones.
    """
    if config.target == "sagemaker":
        raise ConfigError(
            "target sagemaker is not available in this version: take target=local, which checks "
            "the server here, or target=none."
        )
    artifacts.read_spec(version_path, "version")
    version = artifacts.read_json(Path(version_path) / "version.json")
    found: dict[str, Any] = {
        "target": config.target,
        "name": version["name"],
        "version": version["version"],
        "bundle_sha256": version["bundle_sha256"],
        "command": None,
        "golden": [],
    }
    named = f"{version['name']} version {version['version']}"
    if version["status"] != "registered":
        reason = f"{named} is {version['status']}: {version['reason']}"
        return _finish(
            version_path, endpoint_path, config, {**found, "state": "passed over", "reason": reason}
        )
    if config.target == "none":
        reason = f"target is none, so {named} is not served."
        return _finish(
            version_path, endpoint_path, config, {**found, "state": "none", "reason": reason}
        )
    checked = _check_locally(Path(version_path) / "bundle", str(version["version"]), config)
    return _finish(version_path, endpoint_path, config, {**found, **checked})


def _finish(
    version_path: str | Path, endpoint_path: str | Path, config: DeployConfig, found: dict[str, Any]
) -> dict[str, float]:
    with artifacts.create(
        endpoint_path, kind="endpoint", settings=config, inputs={"version": version_path}
    ) as folder:
        artifacts.write_json(folder.path / ENDPOINT, found)
    print(f"{found['state']}: {found['reason']}")
    if found["state"] != "checked":
        return {"deployed": 0.0}
    print(f"Start it with: {found['command']}")
    return {
        "deployed": 1.0,
        "golden": float(len(found["golden"])),
        "agreed": float(len(found["golden"])),
        "largest_difference": found["largest_difference"],
        "ready_seconds": found["ready_seconds"],
        "median_milliseconds": found["median_milliseconds"],
        "seconds": found["seconds"],
    }


def _check_locally(folder: Path, version: str, config: DeployConfig) -> dict[str, Any]:
    """Start the bundle's server, compare its scores with the stored ones, and stop it."""
    started = time.monotonic()
    loaded = bundle.read_bundle(folder)
    files = [one.file for one in golden.read_golden(folder / bundle.GOLDEN, loaded.codes)]
    with local_server(folder, version, config.timeout_seconds, config.runtime) as server:
        ready = time.monotonic() - started
        answers = [_asked(server, file, config) for file in files]
    # Each runtime has stored scores of its own.
    runtime = str(answers[0][0].get("runtime")) if answers else runtimes.REFERENCE
    allowed = golden.allowed(config.tolerance, runtime)
    recordings = golden.read_golden(folder / bundle.GOLDEN, loaded.codes, runtime)
    compared = [
        golden.compare(recording, *answer)
        for recording, answer in zip(recordings, answers, strict=True)
    ]
    table = golden.table(compared, allowed)
    wrong = [row for row in compared if not row.difference <= allowed]
    if wrong:
        raise DataError(
            f"The server's scores differ from those stored for {runtime} by more than {allowed:g} "
            f"for {len(wrong)} of {len(compared)} golden recordings:\n{table}\n"
            "What would be served is not what was measured. Run evaluate-threshold and register "
            "again with this code and these packages; where the machines differ and the "
            "difference is small, raise tolerance."
        )
    print(table)
    largest = max((row.difference for row in compared), default=0.0)
    shown = shlex.quote(str(folder.resolve()))
    return {
        "state": "checked",
        "reason": f"{len(compared)} golden recordings score as when they were evaluated, by "
        f"{runtime} (largest difference {largest:.1e}, allowed {allowed:g}).",
        "runtime": runtime,
        "command": f"python pipeline.py serve --bundle {shown} --port 8080",
        "golden": [
            {
                "file": row.file,
                "label": row.label,
                "species": row.species,
                "stored": row.stored,
                "served": row.served,
                "difference": row.difference,
                "milliseconds": round(row.milliseconds, 1),
            }
            for row in compared
        ],
        "largest_difference": largest,
        "ready_seconds": round(ready, 2),
        "median_milliseconds": round(
            statistics.median(row.milliseconds for row in compared) if compared else 0.0, 1
        ),
        "seconds": round(time.monotonic() - started, 2),
    }


def _asked(server: "LocalServer", file: Path, config: DeployConfig) -> tuple[dict[str, Any], float]:
    """A server's answer to a golden recording, and its milliseconds."""
    began = time.perf_counter()
    status, body = server.request(
        "POST",
        "/invocations?scores=all",
        file.read_bytes(),
        {"Content-Type": "audio/flac"},
        timeout=config.timeout_seconds,
    )
    milliseconds = (time.perf_counter() - began) * 1000
    if status != 200:
        raise DataError(
            f"The server answered {status} to the golden recording {file.name}: "
            f"{body.decode(errors='replace')[:500]}\n{server.log_tail()}"
        )
    return json.loads(body), milliseconds


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
