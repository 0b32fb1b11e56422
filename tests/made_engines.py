"""The container engine in tests: what is left in it."""

import functools
from pathlib import Path
from typing import Any

from birdsong.errors import ConfigError
from birdsong.runs import containers


@functools.cache
def client() -> Any:
    """A client of this machine's engine; None where there is no engine."""
    try:
        return containers.connect()
    except ConfigError:
        return None


def of_runs_folder(runs: Path) -> list[str]:
    """Names of the containers of runs of a folder, in any state; none without an engine."""
    if client() is None:
        return []
    found = containers.with_labels(client(), runs=str(runs.absolute()))
    return [container["Names"][0] for container in found]
