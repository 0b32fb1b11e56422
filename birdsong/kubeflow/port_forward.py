"""The UI's port on this machine: a `kubectl port-forward` that outlives `make`."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from birdsong.errors import StorageError
from birdsong.kubeflow.wish import Programs, Wish


def _state(wish: Wish) -> Path:
    """File that remembers the port-forward."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    name = (wish.context or f"kind-{wish.name}").replace("/", "_")
    return Path(base) / "birdsong" / f"{name}-{wish.port}.pid"


def _healthy(port: int) -> bool:
    address = f"http://127.0.0.1:{port}/apis/v2beta1/healthz"
    try:
        with urllib.request.urlopen(address, timeout=3) as answer:
            return "json" in str(answer.headers.get("Content-Type", ""))
    except (urllib.error.URLError, OSError, ValueError):
        return False


def forward(wish: Wish, programs: Programs) -> None:
    """Forward the port, unless that is done.

    Raises:
        StorageError: It cannot be, or nobody answers there.
    """
    pid = _forwarder(wish)
    if pid is not None and _healthy(wish.port):
        programs.tell(f"port {wish.port} is forwarded")
        return
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
    place = _state(wish)
    place.parent.mkdir(parents=True, exist_ok=True)
    log = place.with_suffix(".log")
    programs.tell(f"forwarding port {wish.port} of this machine to the UI")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(*wish.kubectl, "-n", wish.namespace, "port-forward", "--address=127.0.0.1"),
                *("svc/ml-pipeline-ui", f"{wish.port}:80"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it outlives `make`
        )
    place.write_text(str(process.pid))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            place.unlink()
            said = " ".join(log.read_text(errors="replace").split())[-300:]
            raise StorageError(
                f"Port {wish.port} cannot be forwarded ({said}). Take another one: make cluster "
                "PORT=8081."
            )
        if _healthy(wish.port):
            return
        time.sleep(0.5)
    os.kill(process.pid, signal.SIGTERM)
    place.unlink()
    raise StorageError(
        f"The UI does not answer on port {wish.port} after 30 s; see {log}. Then go on: make "
        "cluster."
    )


def _forwarder(wish: Wish) -> int | None:
    """Process of the port-forward that an earlier call started; None where it is gone."""
    try:
        pid = int(_state(wish).read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if b"port-forward" in command else None


def end(wish: Wish) -> bool:
    """End the port-forward that an earlier call started; whether there was one."""
    pid = _forwarder(wish)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
    _state(wish).unlink(missing_ok=True)
    return pid is not None
