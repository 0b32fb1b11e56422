"""Versions in SageMaker's registry and their endpoints, on the server that stands for SageMaker."""

from pathlib import Path
from typing import Any

from kfp.dsl import Artifact, Metrics
from made_bundles import write_stages
from sagemaker_server.server import BUCKET, REGION, Server

from birdsong import artifacts, registry
from birdsong.config import RegisterConfig
from components.deploy import deploy as component

ROLE = "arn:aws:iam::123456789012:role/birdsong-job"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/birdsong-python-serve:abc"
SETTINGS = {"target": "sagemaker", "endpoint_role": ROLE}


def register(
    folder: Path, note: str = "", approval: str = "gate", image: str = IMAGE, **varied: Any
) -> Path:
    """A registered version; its note says how its made-up server behaves."""
    stages = write_stages(folder / "run", note=note, **varied)
    config = RegisterConfig(
        registry=f"sagemaker://{BUCKET}/birds", gate="none", approval=approval, serve_image=image
    )
    out = folder / "version"
    registry.register(stages.model, stages.thresholds, stages.evaluation, out, config)
    return out


def deploy(version: Path, out: Path, **more: Any) -> dict[str, Any]:
    """The step deploy in this process; what its `endpoint.json` says."""
    component.python_func(
        version=Artifact(uri=str(version)),
        endpoint=Artifact(uri=str(out)),
        metrics=Metrics(uri=str(out) + ".metrics"),
        **{**SETTINGS, **more},
    )
    found: dict[str, Any] = artifacts.read_json(out / "endpoint.json")
    return found


def names(server: Server) -> tuple[set[str], set[str], set[str]]:
    """Endpoints, configurations and models that there are."""
    hosting = server.hosting
    return (
        {name for _, name in hosting.endpoints},
        {name for _, name in hosting.configs},
        {name for _, name in hosting.models},
    )


def served(server: Server, name: str = "birdsong") -> str:
    """The configuration that an endpoint serves."""
    return str(server.hosting.endpoints[REGION, name].config)
