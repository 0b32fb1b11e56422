"""Registry and endpoint on a real account of AWS: a part of `make test-aws`. It costs cents.

The model of a finished run (`make demo` leaves one in `runs/`) is registered, and a serverless
endpoint of it made, updated, gone back from and deleted; requests to it take seconds. What stays:
the model package, and the bundle in the bucket, which the policy of the pipeline may not delete.
"""

from pathlib import Path
from typing import Any

import made_account
import pytest

from birdsong import artifacts, deployment, registry
from birdsong.aws import at_work, prices
from birdsong.aws.clients import Account
from birdsong.aws.endpoint import Endpoint
from birdsong.config import DeployConfig, RegisterConfig
from birdsong.golden_gate import GateError
from birdsong.runs import record

pytestmark = pytest.mark.aws

NAME = "birdsong-test"
NEEDED = {
    "BIRDSONG_AWS_PLACE": "sagemaker://BUCKET/PREFIX",
    "BIRDSONG_AWS_ROLE": "ARN of the role birdsong-job",
    "BIRDSONG_AWS_SERVE_IMAGE": "the image serve in ECR",
    "BIRDSONG_AWS_RUNS": "folder of runs, such as runs; the latest is taken",
}


@pytest.fixture
def given() -> dict[str, str]:
    """What the caller must say."""
    return made_account.told(NEEDED)


def _register(given: dict[str, str], out: Path) -> dict[str, Any]:
    steps = record.find(Path(given["BIRDSONG_AWS_RUNS"]), "latest").steps
    judged = steps["evaluate-threshold"].outputs
    config = RegisterConfig(
        model_name=NAME,
        registry=given["BIRDSONG_AWS_PLACE"],
        gate="none",
        approval="gate",
        serve_image=given["BIRDSONG_AWS_SERVE_IMAGE"],
    )
    registry.register(
        steps["train"].outputs["model"]["path"],
        judged["thresholds"]["path"],
        judged["evaluation"]["path"],
        out,
        config,
    )
    found: dict[str, Any] = artifacts.read_json(out / "version.json")
    return found


def test_a_version_is_registered_once_served_and_a_late_one_is_gone_back_from(
    given: dict[str, str], tmp_path: Path
) -> None:
    version = _register(given, tmp_path / "v1")
    assert _register(given, tmp_path / "v2")["version"] == version["version"]
    region = version["arn"].split(":")[3]
    wish = DeployConfig(
        target="sagemaker",
        endpoint_role=given["BIRDSONG_AWS_ROLE"],
        instance="serverless",
        endpoint_options='{"memory_mb": 3072, "concurrency": 1}',
    )
    endpoint = Endpoint(NAME, region)
    try:
        for folder, action in (("e1", "created"), ("e2", "unchanged")):
            deployment.deploy(tmp_path / "v1", tmp_path / folder, wish)
            made = artifacts.read_json(tmp_path / folder / "endpoint.json")
            assert (made["state"], made["action"]) == ("checked", action)
        # Another configuration, and a budget that no answer keeps.
        late = {"latency_ms": 0.001, "endpoint_options": '{"memory_mb": 3072, "concurrency": 2}'}
        with pytest.raises(GateError, match="as before"):
            deployment.deploy(tmp_path / "v1", tmp_path / "e3", wish.model_copy(update=late))
        now = endpoint.describe()
        assert now is not None
        assert now["EndpointConfigName"] == made["config"]
    finally:
        endpoint.delete()
    assert endpoint.describe() is None
    assert at_work.find(Account(region), prices.load(), run="none-of-this-name") == []
    print(
        f"Left: {version['arn']} (aws sagemaker delete-model-package, then "
        f"delete-model-package-group), and its bundle, {version['uri']}."
    )
