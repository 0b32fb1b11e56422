"""The container engine in tests: what is left in it."""

import contextlib
from pathlib import Path

from birdsong.errors import ConfigError
from birdsong.runs import containers


def of_runs_folder(runs: Path) -> list[str]:
    """Names of the containers of runs of a folder, in any state; none without an engine."""
    try:
        client = containers.connect()
    except ConfigError:
        return []
    with contextlib.closing(client):
        found = containers.with_labels(client, runs=str(runs.absolute()))
        return [container["Names"][0] for container in found]


def remove(container: str) -> None:
    """End and remove a container from outside."""
    with contextlib.closing(containers.connect()) as client:
        containers.remove(client, container)
