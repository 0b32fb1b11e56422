"""The image that serves scores the same bytes as this process does, in every format."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import made_recordings
import numpy as np
import pytest
from made_demo import DemoRun
from made_servers import served

from birdsong import golden, runtimes
from birdsong.bundle import GOLDEN, read_bundle
from birdsong.runs import record
from birdsong.scoring import load_scorer
from components import images

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("engine")]


@pytest.fixture(scope="module")
def bundle(demo_run: DemoRun) -> Path:
    assert demo_run.exit_code == 0, demo_run.output
    found = record.find(demo_run.runs, "latest")
    return Path(found.steps["register"].outputs["version"]["path"]) / "bundle"


@pytest.fixture(scope="module")
def container(engine: Any, bundle: Path) -> Iterator[httpx.Client]:
    name = f"birdsong-parity-{os.getpid()}"
    start = ("docker", "run", "--detach", "--name", name, "--publish", "127.0.0.1::8080")
    inside = ("--read-only", "--tmpfs", "/tmp", "--volume", f"{bundle}:/opt/ml/model:ro")  # noqa: S108
    subprocess.run(
        [*start, *inside, images.reference("serve"), "serve"], check=True, capture_output=True
    )
    try:
        port = engine.api.port(name, 8080)[0]["HostPort"]
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False
        ) as client:
            deadline = time.monotonic() + 90
            while True:
                try:
                    assert client.get("/ping").status_code == 200
                    break
                except httpx.TransportError:
                    assert time.monotonic() < deadline
                    time.sleep(0.3)
            yield client
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)


def test_the_container_scores_every_format_as_this_process_does(
    container: httpx.Client, bundle: Path
) -> None:
    codes = read_bundle(bundle).codes
    sounds = {form: made_recordings.song(form, seconds=7) for form in made_recordings.FORMATS}
    for kept in golden.read_golden(bundle / GOLDEN, codes):
        sounds[kept.file.name] = kept.file.read_bytes()
    answers = {
        name: container.post("/invocations?scores=all", content=data).json()
        for name, data in sounds.items()
    }
    (runtime,) = {answer["runtime"] for answer in answers.values()}
    largest = 0.0
    with served(bundle, load_scorer(bundle, runtime)) as here:
        for name, data in sounds.items():
            mine = here.post("/invocations?scores=all", content=data).json()
            assert len(mine["windows"]) == len(answers[name]["windows"]) > 0
            for one, other in zip(mine["windows"], answers[name]["windows"], strict=True):
                scores = [[window["scores"][code] for code in codes] for window in (one, other)]
                largest = max(largest, float(np.abs(np.subtract(*scores)).max()))
    print(f"{runtime}: container and this process differ by at most {largest:.1e}")
    # Decoders and kernels are the same packages, but of another build of Python.
    assert largest <= runtimes.RUNTIMES[runtime].tolerance
