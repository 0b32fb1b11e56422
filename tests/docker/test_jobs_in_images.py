"""A step's job on the server that stands for SageMaker, which runs the image itself in Docker."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sagemaker_server.programs import Container
from sagemaker_server.server import Server

from birdsong import artifacts
from components import images

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("engine")]


def test_a_training_in_the_image_loses_its_machine_and_ends_with_the_artifact(
    step: Callable[..., dict[str, float]],
    server: Server,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server.program = Container()
    server.interrupt_at("epoch 2/3")
    metrics = step(image=images.for_sagemaker("train"))
    assert metrics["epochs"] == 3
    assert artifacts.verify(tmp_path / "out" / "model").kind == "model"
    assert (tmp_path / "out" / "history.html").is_file()
    [name] = server.names
    assert server.job(name).attempts == 2
    said = capfd.readouterr().out
    assert said.count("SageMaker: Interrupted") == 1
    # The second container goes on where the first one was.
    assert said.count("epoch 1/3") == 1
