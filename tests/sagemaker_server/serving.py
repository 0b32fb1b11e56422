"""What an endpoint runs over an unpacked bundle: the image `serve` in Docker, or its program as a
process.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sagemaker_server.programs import HERE, ROOT


class Serving(Protocol):
    """A started server.

    Attributes:
        address: http://127.0.0.1:PORT
    """

    address: str

    def ended(self) -> bool:
        """Whether it is over by itself."""

    def tail(self) -> str:
        """The end of its log."""

    def stop(self) -> None:
        """SIGTERM and, after a while, SIGKILL."""


class Serves(Protocol):
    """Starts what an endpoint runs."""

    def start(self, image: str, folder: Path, environment: Mapping[str, str]) -> Serving:
        """Start it over a folder that stands for /opt/ml/model."""


def wait(serving: Serving, seconds: float = 120) -> None:
    """Until a server answers /ping.

    Raises:
        RuntimeError: It ended, or did not answer in time; in SageMaker's words.
    """
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up and not serving.ended():
        with contextlib.suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(f"{serving.address}/ping", timeout=2).close()  # noqa: S310
            return
        time.sleep(0.05)
    tail = serving.tail()
    serving.stop()
    raise RuntimeError(
        "The primary container for production variant AllTraffic did not pass the ping health "
        f"check. Please check CloudWatch logs for this endpoint. {tail}"
    )


# --- as a process ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """The program of the image, whatever image is named.

    Attributes:
        command: Its beginning.
    """

    command: Sequence[str]

    def start(self, image: str, folder: Path, environment: Mapping[str, str]) -> Serving:
        return _OfProcess(self.command, folder, environment)


class _OfProcess:
    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            self.address = f"http://127.0.0.1:{port}"
            own = {
                name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ
            }
            self.log = folder.with_suffix(".log")
            with self.log.open("wb") as output:
                self.process = subprocess.Popen(
                    [
                        *(*command, str(folder)),
                        *("--socket", str(listener.fileno()), "--stop-with-parent"),
                        *("--runtime", environment.get("BIRDSONG_RUNTIME", "auto")),
                        *("--version", environment.get("BIRDSONG_VERSION", "0")),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[listener.fileno()],
                    start_new_session=True,
                    env={
                        **own,
                        "PYTHONPATH": f"{HERE / 'offline'}{os.pathsep}{ROOT}",
                        "PYTHONUNBUFFERED": "1",
                        "TF_CPP_MIN_LOG_LEVEL": "2",
                        **environment,
                    },
                )

    def ended(self) -> bool:
        return self.process.poll() is not None

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-300:]

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
                break
        if self.process.stdin is not None:
            self.process.stdin.close()


SERVE = Process((sys.executable, "-m", "birdsong.serving.server"))
"""The program of the image `serve`."""

MADE_SERVE = Process((sys.executable, str(HERE / "made_serve.py")))
"""A cheap program in its place."""


# --- as a container -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Container:
    """The image in Docker: `docker run IMAGE serve` with /opt/ml/model mounted read-only."""

    def start(self, image: str, folder: Path, environment: Mapping[str, str]) -> Serving:
        return _OfContainer(image, folder, environment)


class _OfContainer:
    def __init__(self, image: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.name = f"sagemaker-server-{folder.name}"
        variables = [
            part for key, value in environment.items() for part in ("-e", f"{key}={value}")
        ]
        start = ("run", "--detach", "--name", self.name, "--publish", "127.0.0.1::8080")
        _docker(*start, *variables, "--volume", f"{folder}:/opt/ml/model:ro", image, "serve")
        try:
            self.address = f"http://{_docker('port', self.name, '8080').splitlines()[0]}"
        except RuntimeError:  # it has ended already
            self.address = "http://127.0.0.1:9"

    def ended(self) -> bool:
        return _docker("inspect", "--format", "{{.State.Running}}", self.name).strip() != "true"

    def tail(self) -> str:
        return _docker("logs", "--tail", "5", self.name)[-300:]

    def stop(self) -> None:
        # SageMaker gives a container 30 s.
        _docker("stop", "--time", "30", self.name)
        _docker("rm", "--force", self.name)


def _docker(*arguments: str) -> str:
    done = subprocess.run(
        ["docker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if arguments[0] == "logs" else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"docker {arguments[0]}: {done.stderr or done.stdout}")
    return done.stdout
