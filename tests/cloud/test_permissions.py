"""The policies: every call that our code makes is allowed, and nothing else is."""

import fnmatch
import json
from pathlib import Path
from typing import Any

import pytest
from made_bundles import write_stages
from made_features import Take, song, write_features
from sagemaker_server.server import BUCKET, REGION, Server
from sagemaker_server.serving import MADE_SERVE

from birdsong import artifacts, deployment, hyperparameters, registry
from birdsong.aws import at_work, endpoint, permissions, prices, train_step, tune_step
from birdsong.aws.clients import Account
from birdsong.aws.settings import JOBS_OF, VARIABLE, JobSettings
from birdsong.config import (
    DeployConfig,
    Hyperparameters,
    RegisterConfig,
    TrainConfig,
    TuneConfig,
)
from birdsong.errors import BirdsongError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/birdsong-job"
IMAGE = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/birdsong-python-serve:abc"
CONFIG = TrainConfig(backbone="tiny", weights="none", front_end="small", epochs=2)

S3 = {
    "HeadObject": "GetObject",
    "ListObjectsV2": "ListBucket",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
}
"""Calls whose permission is named otherwise."""

LISTS = {
    *("ListTrainingJobs", "ListHyperParameterTuningJobs"),
    *("ListEndpointConfigs", "ListModels"),
}
"""Calls that AWS allows for all or for nothing."""

NAMES = {
    "TrainingJob": ("TrainingJobName", "training-job"),
    "HyperParameterTuningJob": ("HyperParameterTuningJobName", "hyper-parameter-tuning-job"),
    "ModelPackageGroup": ("ModelPackageGroupName", "model-package-group"),
    "ModelPackage": ("ModelPackageGroupName", "model-package"),
    "ModelPackages": ("ModelPackageGroupName", "model-package-group"),
    "Model": ("ModelName", "model"),
    "EndpointConfig": ("EndpointConfigName", "endpoint-config"),
    "Endpoint": ("EndpointName", "endpoint"),
}


def _resource(service: str, call: str, asked: dict[str, Any]) -> str:
    if service == "s3":
        key = f"/{asked['Key']}" if "Key" in asked else ""
        return f"arn:aws:s3:::{asked['Bucket']}{key}"
    if service == "logs":
        group = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{asked['logGroupName']}"
        return f"{group}:log-stream:{asked['logStreamName']}" if "logStreamName" in asked else group
    for key in ("ResourceArn", "ModelPackageArn"):
        if key in asked:
            return str(asked[key])
    if str(asked.get("ModelPackageName", "")).startswith("arn:"):
        return str(asked["ModelPackageName"])
    thing = call
    for verb in ("Create", "Describe", "Delete", "Update", "Stop", "Invoke", "List"):
        thing = thing.removeprefix(verb)
    if call == "ListTrainingJobsForHyperParameterTuningJob":
        thing = "HyperParameterTuningJob"
    key, kind = NAMES[thing]
    tail = "/1" if call == "CreateModelPackage" else ""
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{kind}/{asked[key]}{tail}"


def _needs(service: str, call: str, asked: dict[str, Any]) -> list[tuple[str, str]]:
    """Permissions that a call needs, with the resource of each."""
    prefix = "sagemaker" if service.startswith("sagemaker") else service
    name = S3.get(call, call) if service == "s3" else call
    resource = "*" if call in LISTS else _resource(service, call, asked)
    found = [(f"{prefix}:{name}", resource)]
    if asked.get("Tags") and call.startswith("Create"):
        found.append(("sagemaker:AddTags", resource))
    role = asked.get("RoleArn") or asked.get("ExecutionRoleArn")
    role = role or (asked.get("TrainingJobDefinition") or {}).get("RoleArn")
    return [*found, ("iam:PassRole", role)] if role else found


def _as_list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def _allows(policy: dict[str, Any], action: str, resource: str) -> bool:
    return any(
        statement["Effect"] == "Allow"
        and action in _as_list(statement["Action"])
        and any(fnmatch.fnmatchcase(resource, one) for one in _as_list(statement["Resource"]))
        for statement in policy["Statement"]
    )


@pytest.fixture
def calls_made(
    server: Server, surroundings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, str, dict[str, Any]]]:
    """Service, call and request of every call of boto3 in this process but the server's own."""
    import botocore.client

    found: list[tuple[str, str, dict[str, Any]]] = []
    original = botocore.client.BaseClient._make_api_call

    def record(client: Any, call: str, asked: dict[str, Any]) -> Any:
        if "sagemaker-server" not in (client.meta.config.user_agent_extra or ""):
            found.append((client.meta.service_model.service_name, call, asked))
        return original(client, call, asked)

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", record)
    for name, value in surroundings.items():
        if name != "PYTHONPATH":
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BIRDSONG_SAGEMAKER_INTERVAL", "0.1")
    monkeypatch.setenv(JOBS_OF, "20260101-000000-abcd")
    monkeypatch.setattr(endpoint, "POLL_SECONDS", 0.02)
    settings = JobSettings(role=ROLE, place=f"s3://{BUCKET}/birds", image="train:test")
    monkeypatch.setenv(VARIABLE, settings.model_dump_json())
    server.serves = MADE_SERVE
    return found


def _compute(folder: Path, server: Server) -> None:
    """train and tune as jobs, what is at work, and a stop."""
    takes = [
        Take(code, [song(hertz, 2, seed=n)], part="validation" if n == 2 else "train")
        for code, hertz in (("low", 700.0), ("high", 5000.0))
        for n in range(3)
    ]
    write_features(folder / "development", ["low", "high"], takes)
    with artifacts.create(folder / "tuned", "hyperparameters", {}) as made:
        artifacts.write_json(made.path / hyperparameters.FILE, Hyperparameters().model_dump())
    train_step.train(
        folder / "development", folder / "tuned", folder / "m/model", folder / "m/h.html", CONFIG
    )
    tune_step.tune(
        folder / "development",
        folder / "t/hyperparameters",
        folder / "t/trials.html",
        TuneConfig(trials=1, epochs=2),
        CONFIG,
        Hyperparameters(),
    )
    account = Account(REGION, patience=5)
    for job in (*server.store.training.values(), *server.store.tuning.values()):
        job.status = "InProgress"  # as long as it is looked at and stopped
    for one in at_work.find(account, prices.load()):
        try:
            one.job.stop()
        except BirdsongError:  # it is over, in truth
            continue


def _release(folder: Path) -> None:
    """Versions, an endpoint with updates, a rollback, and its end."""
    for note in "abc":
        stages = write_stages(folder / note, note=note)
        place = f"sagemaker://{BUCKET}/birds"
        config = RegisterConfig(
            registry=place, approval="gate", gate="champion", serve_image=IMAGE, seed=0
        )
        out = folder / f"v-{note}"
        registry.register(stages.model, stages.thresholds, stages.evaluation, out, config)
        wish = DeployConfig(target="sagemaker", endpoint_role=ROLE)
        deployment.deploy(out, folder / f"e-{note}", wish)
    refused = write_stages(folder / "d", note="d", thresholds=[None] * 3)
    for gate in ("baseline", "none"):  # refused, and judged again
        config = config.model_copy(update={"gate": gate})
        registry.register(
            refused.model, refused.thresholds, refused.evaluation, folder / f"d-{gate}", config
        )
    there = endpoint.Endpoint("birdsong", REGION)
    there.rollback()
    there.delete()


def test_the_pipelines_policy_allows_every_call_of_ours_and_nothing_else(
    calls_made: list[tuple[str, str, dict[str, Any]]], server: Server, tmp_path: Path
) -> None:
    _compute(tmp_path, server)
    _release(tmp_path)
    policy = permissions.filled("pipeline", ACCOUNT, REGION, BUCKET, "birdsong")
    needed = {need for call in calls_made for need in _needs(*call)}
    assert len(needed) > 30
    refused = sorted(need for need in needed if not _allows(policy, *need))
    assert refused == []
    used = {action for action, _ in needed}
    given = {
        (statement["Sid"], action)
        for statement in policy["Statement"]
        if statement["Effect"] == "Allow"
        for action in _as_list(statement["Action"])
    }
    # A failed upload of many parts is given up by this one; there was none here.
    unused = {action for _, action in given} - used - {"s3:AbortMultipartUpload"}
    assert unused == set()
    for statement in policy["Statement"]:
        if statement["Effect"] == "Allow":
            for one in _as_list(statement["Resource"]):
                assert any(
                    action in _as_list(statement["Action"]) and fnmatch.fnmatchcase(resource, one)
                    for action, resource in needed
                ), one


@pytest.mark.parametrize("missing", ["sagemaker:UpdateEndpoint", "iam:PassRole", "s3:GetObject"])
def test_a_policy_without_a_permission_would_be_found_out(missing: str) -> None:
    policy = permissions.filled("pipeline", ACCOUNT, REGION, BUCKET, "birdsong")
    for statement in policy["Statement"]:
        statement["Action"] = [one for one in _as_list(statement["Action"]) if one != missing]
    resource = {
        "sagemaker:UpdateEndpoint": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/birdsong",
        "iam:PassRole": ROLE,
        "s3:GetObject": f"arn:aws:s3:::{BUCKET}/x",
    }[missing]
    full = permissions.filled("pipeline", ACCOUNT, REGION, BUCKET, "birdsong")
    assert _allows(full, missing, resource)
    assert not _allows(policy, missing, resource)


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("s3:GetObject", "arn:aws:s3:::another-bucket/x"),
        ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/admin"),
        ("sagemaker:DeleteEndpoint", f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/prices"),
        ("sagemaker:CreateTrainingJob", f"arn:aws:sagemaker:eu-west-1:{ACCOUNT}:training-job/x"),
        ("s3:DeleteObject", f"arn:aws:s3:::{BUCKET}/birds/bundles/x"),
    ],
)
def test_what_belongs_to_others_is_not_allowed(action: str, resource: str) -> None:
    for which in ("pipeline", "job"):
        policy = permissions.filled(which, ACCOUNT, REGION, BUCKET, "birdsong")
        assert not _allows(policy, action, resource)


def test_only_known_machines_can_be_started() -> None:
    statements = permissions.policy("pipeline")["Statement"]
    [deny] = [one for one in statements if one["Effect"] == "Deny"]
    allowed = deny["Condition"]["ForAnyValue:StringNotLike"]["sagemaker:InstanceTypes"]
    for kind, wanted in (
        ("ml.g5.4xlarge", True),
        ("ml.m5.xlarge", True),
        ("ml.p5.48xlarge", False),
    ):
        assert any(fnmatch.fnmatchcase(kind, one) for one in allowed) is wanted
    assert JobSettings.model_fields["instance"].default == "ml.g5.4xlarge"
    assert DeployConfig().instance == "ml.m5.xlarge"
    creating = {"CreateTrainingJob", "CreateHyperParameterTuningJob", "CreateEndpointConfig"}
    assert {one.removeprefix("sagemaker:") for one in deny["Action"]} == creating


def test_policies_and_template_pass_cfn_lint_and_fit_iams_limits(tmp_path: Path) -> None:
    from cfnlint.api import lint

    wrapped = {
        "Resources": {
            which.replace("-", ""): {
                "Type": "AWS::IAM::ManagedPolicy",
                "Properties": {
                    "PolicyDocument": permissions.filled(which, ACCOUNT, REGION, BUCKET, "birdsong")
                },
            }
            for which in ("pipeline", "job", "job-vpc")
        }
    }
    for made in (permissions.template(), wrapped):
        assert [str(one) for one in lint(json.dumps(made), regions=["eu-west-1"])] == []
    broken = json.loads(json.dumps(wrapped))
    broken["Resources"]["pipeline"]["Properties"]["PolicyDocument"]["Statement"][0]["Effect"] = "?"
    assert lint(json.dumps(broken), regions=["eu-west-1"])
    for which in ("pipeline", "job", "job-vpc"):
        policy = permissions.filled(which, ACCOUNT, REGION, "b" * 63, "birdsong")
        assert len(json.dumps(policy, separators=(",", ":"))) < 6144
        assert "${" not in json.dumps(policy)


def test_the_template_closes_the_bucket_and_lets_only_sagemaker_take_the_role() -> None:
    resources = permissions.template()["Resources"]
    bucket = resources["Bucket"]["Properties"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    [statement] = resources["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    [trust] = resources["JobRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    rules = {rule["Id"]: rule for rule in bucket["LifecycleConfiguration"]["Rules"]}
    # As train_step's checkpoints lie: s3://BUCKET/PREFIX/checkpoints/.
    assert rules["checkpoints"]["Prefix"] == {"Fn::Sub": "${Prefix}/checkpoints/"}
    assert rules["checkpoints"]["ExpirationInDays"] == 30


@pytest.mark.parametrize(
    "wrong", [{"account": "1"}, {"region": "mars"}, {"bucket": "B"}, {"name": "x*"}]
)
def test_a_value_that_would_widen_a_policy_is_refused(wrong: dict[str, str]) -> None:
    given = {"account": ACCOUNT, "region": REGION, "bucket": BUCKET, "name": "birdsong", **wrong}
    with pytest.raises(BirdsongError, match=next(iter(wrong))):
        permissions.filled("pipeline", **given)
