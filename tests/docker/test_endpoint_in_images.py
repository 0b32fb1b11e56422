"""An endpoint on the server that stands for SageMaker, which runs the image `serve` in Docker."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_demo import DemoRun
from made_endpoints import deploy, names, served
from sagemaker_server.server import BUCKET, Server
from sagemaker_server.serving import Container

from birdsong import registry
from birdsong.config import RegisterConfig
from birdsong.errors import DataError
from birdsong.golden_gate import GateError
from birdsong.runs import record
from components import images

pytestmark = [
    pytest.mark.docker,
    pytest.mark.usefixtures("engine", "in_deploy"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture
def image() -> Iterator[str]:
    """The image serve under a name of ECR, without which a registration is refused."""
    local = images.for_sagemaker("serve")
    name = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/{local.rpartition('/')[2]}"
    subprocess.run(["docker", "tag", local, name], check=True)
    yield name
    subprocess.run(["docker", "rmi", name], check=True, capture_output=True)


def register(demo_run: DemoRun, out: Path, image: str) -> Path:
    """The model of the demo run as a version that this image shall serve."""
    assert demo_run.exit_code == 0, demo_run.output
    steps = record.find(demo_run.runs, "latest").steps
    judged = steps["evaluate-threshold"].outputs
    config = RegisterConfig(
        registry=f"sagemaker://{BUCKET}/birds", gate="none", approval="gate", serve_image=image
    )
    model = steps["train"].outputs["model"]["path"]
    registry.register(
        model, judged["thresholds"]["path"], judged["evaluation"]["path"], out, config
    )
    return out


def test_a_bundle_passes_the_golden_gate_in_the_image_and_a_late_or_broken_one_is_gone_back_from(
    server: Server, image: str, demo_run: DemoRun, tmp_path: Path
) -> None:
    server.serves = Container()
    version = register(demo_run, tmp_path / "v1", image)
    good = deploy(version, tmp_path / "e1")
    assert (good["state"], good["action"]) == ("checked", "created")
    assert len(good["golden"]) == 2
    assert good["largest_difference"] < 1e-3
    assert good["runtime"] != "tensorflow"  # which is not in the image
    assert deploy(version, tmp_path / "e2")["action"] == "unchanged"
    before = names(server)
    # Another configuration, and a budget that no answer keeps.
    late = {"instance": "serverless", "latency_ms": 0.001}
    with pytest.raises(GateError, match="as before"):
        deploy(version, tmp_path / "e3", **late)
    # A runtime that is not in the image: its container ends at once.
    with pytest.raises(DataError, match=r"went back to .*ping health check.*tensorflow"):
        deploy(version, tmp_path / "e4", runtime="tensorflow")
    assert served(server) == good["config"]
    assert names(server) == before
