"""Shared by all tests. Its place puts the folder `tests` on the path, for what tests share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Before `tests`, whose folder `pipeline` would else stand for the module pipeline.py.
sys.path.insert(0, str(ROOT))

from made_demo import DemoRun, run_demo  # noqa: E402

# Fixtures of the server that stands for SageMaker.
from sagemaker_server.fixtures import (  # noqa: E402, F401
    in_deploy,
    in_step,
    job_inputs,
    only_here,
    resolved,
    search_step,
    server,
    step,
    surroundings,
)


@pytest.fixture(autouse=True)
def _clouds_stay_here(request: pytest.FixtureRequest) -> None:
    """No test of a cloud resolves a name outside of this machine."""
    if request.path.parent.name == "cloud":
        request.getfixturevalue("only_here")


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


@pytest.fixture(scope="session")
def listening_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose network hears three tones."""
    from made_listening import make_bundle

    return make_bundle(tmp_path_factory.mktemp("listening"))


@pytest.fixture(scope="session")
def listening(listening_bundle: Path) -> Iterator[str]:
    """The address of the server with its web page."""
    from made_listening import real_app, serving

    with serving(real_app(listening_bundle)) as address:
        yield address


@pytest.fixture
def visited(browser: Any) -> Iterator[Any]:
    """Opens a page that listens, see made_listening.visiting."""
    from made_listening import visiting

    with visiting(browser) as visit:
        yield visit
