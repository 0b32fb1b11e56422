"""What an endpoint runs: the program of the image `serve` as a process, over an unpacked bundle."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from sagemaker_server.programs import HERE, ROOT

SERVE = (sys.executable, "-m", "birdsong.serving.server")
"""The program of the image `serve`."""

MADE_SERVE = (sys.executable, str(HERE / "made_serve.py"))
"""A cheap program in its place."""


class Serving:
    """A started server.

    Attributes:
        address: http://127.0.0.1:PORT
    """

    def __init__(
        self, folder: Path, environment: dict[str, str], command: Sequence[str] = SERVE
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

    def wait(self, seconds: float = 120) -> None:
        """Until it answers /ping.

        Raises:
            RuntimeError: It ended, or did not answer in time; in SageMaker's words.
        """
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up and self.process.poll() is None:
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"{self.address}/ping", timeout=2).close()  # noqa: S310
                return
            time.sleep(0.05)
        tail = self.log.read_text(errors="replace")[-300:]
        self.stop()
        raise RuntimeError(
            "The primary container for production variant AllTraffic did not pass the ping health "
            f"check. Please check CloudWatch logs for this endpoint. {tail}"
        )

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
                break
        if self.process.stdin is not None:
            self.process.stdin.close()
