"""The container engine of this machine: reaching it, its images, and the containers of runs.

Containers carry labels with runs folder, run, step and the mark of the engine that started them,
so that whatever a killed engine has left is found again. As a program it removes the containers of
one mark: `python -m birdsong.runs.containers MARK`.
"""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from birdsong.errors import ConfigError, DataError
from birdsong.runs import record

RUNS, RUN, STEP, MARK = "birdsong.runs", "birdsong.run", "birdsong.step", "birdsong.mark"
"""Labels of containers."""

FINGERPRINT = "birdsong.fingerprint"
"""Label of images: the fingerprint of the code in them."""

_ANSWER_SECONDS = 60


def connect() -> Any:
    """A client of this machine's engine: of DOCKER_HOST, else of docker's current context.

    Raises:
        ConfigError: There is none, it does not answer, it may not be used, or it is elsewhere.
    """
    try:
        import docker
    except ImportError:
        raise ConfigError(
            "The Python package docker is missing. Install it: pip install 'birdsong[cli]'"
        ) from None
    address = os.environ.get("DOCKER_HOST") or _of_context(docker)
    if not address.startswith("unix://"):
        raise ConfigError(
            f"The container engine is {address}. It may be on another machine, which does not see "
            "the folders of this one. Unset DOCKER_HOST (or: docker context use default), or take "
            "--runner subprocess."
        )
    _knock(Path(address.removeprefix("unix://")))
    try:
        return docker.DockerClient(base_url=address, version="auto", timeout=_ANSWER_SECONDS)
    except docker.errors.DockerException as error:
        raise ConfigError(f"The container engine at {address} does not work: {error}") from error


def _of_context(docker: Any) -> str:
    with contextlib.suppress(Exception):  # of a context's broken file: then the default address
        return str(docker.ContextAPI.get_current_context().Host).removeprefix("http+")
    return "unix:///var/run/docker.sock"


def _knock(place: Path) -> None:
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(place))
    except PermissionError:
        raise ConfigError(
            f"You may not use the container engine at {place}. Add yourself to the group of that "
            "socket (usermod -aG docker USER, then log in again), or take --runner subprocess."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"No container engine answers at {place} ({error.strerror or error}). Start it (such "
            "as: systemctl start docker, or Docker Desktop), install it "
            "(https://docs.docker.com/engine/install), or take --runner subprocess."
        ) from None


def images(client: Any, references: Iterable[str]) -> dict[str, str]:
    """The images of a pipeline, as this machine has them.

    Args:
        client: From `connect`.
        references: As the pipeline names them.

    Returns:
        Each reference, and the fingerprint of the code in it; of a foreign image its id.

    Raises:
        ConfigError: Some are missing.
    """
    import docker

    found, missing = {}, []
    for reference in sorted(set(references)):
        try:
            image = client.images.get(reference)
            found[reference] = str(image.labels.get(FINGERPRINT) or image.id)
        except docker.errors.ImageNotFound:
            missing.append(reference)
    if missing:
        raise ConfigError(
            f"The image {', '.join(missing)} is not on this machine. The tag is the fingerprint of "
            "the code as it is now; build it with: make images"
            if len(missing) == 1
            else f"Images are not on this machine: {', '.join(missing)}. The tag is the "
            "fingerprint of the code as it is now; build them with: make images"
        )
    return found


def remove(client: Any, container: str) -> None:
    """End a container and remove it; one that is gone is fine.

    Raises:
        StorageError: The engine did not do so within a minute.
    """
    import docker

    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        try:
            client.api.remove_container(container, force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError:  # such as: its removal is already in progress
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def with_labels(client: Any, **labels: str) -> list[dict[str, Any]]:
    """Containers in any state that carry all of the labels (their part behind "birdsong.")."""
    wanted = [f"birdsong.{name}={value}" for name, value in labels.items()]
    found: list[dict[str, Any]] = client.api.containers(all=True, filters={"label": wanted})
    return found


def left_over(client: Any, runs: Path, run: str | None = None) -> list[dict[str, Any]]:
    """Containers of runs of a folder that are over or whose engine is dead.

    Args:
        client: From `connect`.
        runs: Folder of all runs.
        run: Of this run alone.
    """
    found = []
    for container in with_labels(client, runs=str(runs.absolute())):
        name = container["Labels"].get(RUN, "")
        if run in (None, name) and not _at_work(runs / name):
            found.append(container)
    return found


def _at_work(folder: Path) -> bool:
    try:
        return record.read(folder).state == record.State.RUNNING
    except DataError:
        return False


def sweep(client: Any, runs: Path, run: str | None = None) -> int:
    """Remove left-over containers; returns how many there were."""
    found = left_over(client, runs, run)
    for container in found:
        remove(client, container["Id"])
    return len(found)


def left_if_any(runs: Path, of: Iterable[record.Run]) -> list[str]:
    """Names of left-over containers, where one of the runs used containers and there is an engine.

    Args:
        runs: Folder of all runs.
        of: The runs in it.
    """
    if not any(run.runner == "docker" for run in of):
        return []
    try:
        client = connect()
    except ConfigError:
        return []
    with contextlib.closing(client):
        return [container["Names"][0].strip("/") for container in left_over(client, runs)]


def end(mark: str, looks: int = 4) -> None:
    """Remove the containers of one mark, also one that the engine is just about to create."""
    client = connect()
    for look in range(looks):
        if look:
            time.sleep(0.5)
        for container in with_labels(client, mark=mark):
            remove(client, container["Id"])


if __name__ == "__main__":
    end(sys.argv[1])
