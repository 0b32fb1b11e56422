"""Shared by all tests. Its place puts the folder `tests` on the path, for what tests share."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Before `tests`, whose folder `pipeline` would else stand for the module pipeline.py.
sys.path.insert(0, str(ROOT))


@dataclass
class DemoRun:
    """A run of the whole pipeline by the command line.

    Attributes:
        runs: Its runs folder.
        output: What the command printed.
        exit_code: How it ended.
    """

    runs: Path
    output: str
    exit_code: int


def run_demo(folder: Path, *more: str) -> DemoRun:
    """The whole DAG on few generated songs and with a short training.

    So little data cannot hold a rate of 1 %, so the promise is weaker and the gate is open.
    """
    runs = folder / "runs"
    settings = ["epochs=3", "target_fpr=0.3", "gate=none", "golden=2", "trials=0"]
    command = [sys.executable, str(ROOT / "pipeline.py"), "run", "--profile", "demo"]
    command += ["--source", "demo:?species=3&recordings=12&seed=0", "--runs", str(runs)]
    done = subprocess.run(
        [*command, *(part for text in settings for part in ("--set", text)), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    return DemoRun(runs, done.stdout, done.returncode)


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """The whole DAG, once for all tests, a process for each step."""
    return run_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def demo_run_in_containers(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """The same, a container for each step."""
    return run_demo(tmp_path_factory.mktemp("demo-in-containers"), "--runner", "docker")


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """A client of the container engine; all images of this code are there.

    Skips where they are not, but for `make test-docker`, which has built them.
    """
    from birdsong import image_code
    from birdsong.errors import ConfigError
    from birdsong.runs import containers
    from components import images

    try:
        found = containers.connect()
        containers.images(found, [images.reference(target) for target in image_code.STAGES])
    except ConfigError as error:
        if os.environ.get("BIRDSONG_ENGINE_IS_THERE"):
            raise
        pytest.skip(f"{error} (make test-docker)")
    yield found
    found.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window; the test is skipped where there is none."""
    from made_pages import chromium

    with chromium() as found:
        yield found
