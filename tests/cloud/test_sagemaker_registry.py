"""Register with SageMaker's Model Registry, on the test server: once, with its lineage."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import Artifact, Metrics, Model
from made_bundles import Stages, write_stages
from made_costs import HERE, NO_SEARCH, billed
from sagemaker_server.faults import KINDS
from sagemaker_server.server import BUCKET, REGION, Server

from birdsong import artifacts, cost
from birdsong.aws import calls
from birdsong.aws.registry import PackageShelf
from birdsong.config import RegisterConfig
from birdsong.errors import ConfigError, RefusedError
from birdsong.registry import fetch, list_versions
from birdsong.versions import Made
from components.register import register

pytestmark = [
    pytest.mark.usefixtures("in_deploy"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

PLACE = f"sagemaker://{BUCKET}/birds"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/birdsong-python-serve:abc"


def _register(stages: Stages, out: Path, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"registry": PLACE, "gate": "none", "serve_image": IMAGE, **more}
    register.python_func(
        model=Model(uri=str(stages.model)),
        thresholds=Artifact(uri=str(stages.thresholds)),
        evaluation=Artifact(uri=str(stages.evaluation)),
        version=Artifact(uri=str(out)),
        metrics=Metrics(uri=str(out) + ".metrics"),
        **given,
    )
    found: dict[str, Any] = artifacts.read_json(out / "version.json")
    return found


def _packages(server: Server) -> list[dict[str, Any]]:
    return list(server.registry.packages.values())


def test_a_version_waits_for_a_persons_approval_and_carries_its_lineage(
    tmp_path: Path,
    server: Server,
) -> None:
    found = _register(write_stages(tmp_path / "a"), tmp_path / "out/version")
    (package,) = _packages(server)
    assert (found["version"], found["status"]) == (1, "registered")
    assert found["approval"] == package["ModelApprovalStatus"] == "PendingManualApproval"
    assert found["arn"].endswith(":model-package/birdsong/1")
    told = package["CustomerMetadataProperties"]
    assert told["bundle_sha256"] == found["bundle_sha256"]
    assert told["origin"] == str(tmp_path / "out/version")
    assert len(told["model_sha256"]) == 64
    assert float(told["network_accuracy"]) == pytest.approx(0.8, abs=0.2)
    statistics = package["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"]
    s3 = calls.client("s3", REGION)
    for uri in (statistics, told["model_card"]):
        assert s3.get_object(Bucket=BUCKET, Key=uri.split("/", 3)[3])["Body"].read()


def test_a_version_has_a_card_of_sagemakers_with_figures_hashes_and_cost(
    tmp_path: Path,
    server: Server,
) -> None:
    spent = [billed("tune", 7200, 2400, 4), billed("train", 3600, 3600)]
    found = _register(write_stages(tmp_path / "a", spent=spent), tmp_path / "v")
    (package,) = _packages(server)
    assert package["ModelCard"]["ModelCardStatus"] == "PendingReview"
    card = json.loads(package["ModelCard"]["ModelCardContent"])
    [artifact] = card["model_overview"]["model_artifact"]
    assert artifact == package["InferenceSpecification"]["Containers"][0]["ModelDataUrl"]
    training = card["training_details"]["training_job_details"]
    told = {one["name"]: one["value"] for one in training["user_provided_training_metrics"]}
    assert told["cost_usd"] == 3.3833
    [tested] = card["evaluation_details"]
    assert tested["metric_groups"][0]["metric_data"][0] == {
        "name": "accuracy",
        "type": "number",
        "value": 0.75,
        "notes": "95 % interval 0.55 to 0.9",
    }
    more = card["additional_information"]["custom_details"]
    assert more["bundle_sha256"] == found["bundle_sha256"]
    assert more["train_job"] == "birdsong-train in us-east-1"
    assert more["model_card"] == package["CustomerMetadataProperties"]["model_card"]
    assert package["CustomerMetadataProperties"]["cost_usd"] == "3.3833"


def test_no_card_replaces_another_where_the_same_bundle_cost_something_else(
    tmp_path: Path,
    server: Server,
) -> None:
    server.faults.add("CreateModelPackage", "AccessDeniedException", message="no", times=20)
    with pytest.raises(RefusedError):
        _register(write_stages(tmp_path / "a", spent=[NO_SEARCH, HERE]), tmp_path / "v1")
    server.faults.clear()
    spent = [NO_SEARCH, billed("train", 3600, 1800)]
    for name in ("b", "c"):
        _register(write_stages(tmp_path / name, spent=spent), tmp_path / f"version {name}")
    s3 = calls.client("s3", REGION)
    cards = s3.list_objects_v2(Bucket=BUCKET, Prefix="birds/cards/")["Contents"]
    assert len(cards) == 2
    (package,) = _packages(server)
    uri = package["CustomerMetadataProperties"]["model_card"]
    text = s3.get_object(Bucket=BUCKET, Key=uri.split("/", 3)[3])["Body"].read().decode()
    assert text == (tmp_path / "version b/model_card.md").read_text(encoding="utf-8")
    assert "| 3,600 | 1,800 | 50 % | 1.01 |" in text


def test_the_gate_approves_where_a_parameter_allows_it(tmp_path: Path) -> None:
    found = _register(write_stages(tmp_path / "a"), tmp_path / "v", approval="gate")
    assert found["approval"] == "Approved"
    (version,) = list_versions("birdsong", PLACE)
    assert version.aliases == ("champion",)


def test_a_refused_model_is_a_rejected_package_with_the_reason(
    tmp_path: Path,
    server: Server,
) -> None:
    stages = write_stages(tmp_path / "a", thresholds=[None, None, None])
    found = _register(stages, tmp_path / "v", gate="baseline", approval="gate")
    (package,) = _packages(server)
    assert (found["status"], package["ModelApprovalStatus"]) == ("rejected", "Rejected")
    assert "No species has a threshold" in package["ModelPackageDescription"]
    again = _register(stages, tmp_path / "v2", approval="gate")
    assert (again["version"], again["approval"]) == (1, "Approved")


def test_the_same_bundle_is_the_same_version_and_uploaded_once(
    tmp_path: Path,
    server: Server,
) -> None:
    stages = write_stages(tmp_path / "a")
    first = _register(stages, tmp_path / "v1")
    puts = server.faults.calls.count("PutObject")
    second = _register(stages, tmp_path / "v2")
    assert (first["version"], second["version"]) == (1, 1)
    assert server.faults.calls.count("PutObject") == puts
    assert _register(write_stages(tmp_path / "b", note="other"), tmp_path / "v3")["version"] == 2


@pytest.mark.parametrize("seconds", [(60, 60), (60, 90)], ids=["alike", "of-other-cost"])
def test_two_racing_registrations_make_one_version(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, seconds: tuple[int, int]
) -> None:
    gate, found = threading.Barrier(2), []
    upload = PackageShelf._upload

    def uploaded(self: PackageShelf, made: Made) -> tuple[str, str]:
        told = upload(self, made)
        gate.wait(60)  # both have found no version by now
        return told

    monkeypatch.setattr(PackageShelf, "_upload", uploaded)
    both = [write_stages(tmp_path / name) for name in ("a", "b")]
    for stages, spent in zip(both, seconds, strict=True):
        cost.note(stages.model, cost.Part(step=cost.TRAIN, machine="", seconds=spent))

    def run(number: int) -> None:
        found.append(_register(both[number], tmp_path / f"v{number}")["version"])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [1, 1]
    assert len(_packages(server)) == 1


def test_a_bundle_comes_back_whole_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    made = _register(write_stages(tmp_path / "a"), tmp_path / "v", approval="gate")
    version, folder = fetch("birdsong", "champion", PLACE)
    assert version.version == 1
    assert (folder / "bundle.json").is_file()
    assert folder.is_relative_to(tmp_path / "cache")
    key = f"birds/bundles/{made['bundle_sha256']}/model.tar.gz"
    calls.client("s3", REGION).put_object(Bucket=BUCKET, Key=key, Body=b"no archive")
    assert fetch("birdsong", "1", PLACE)[1] == folder  # from the cache
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match=r"metrics\.json"):
        fetch("birdsong", "1", PLACE)


def test_the_champion_is_the_newest_approved_version_and_is_compared_by_its_scores(
    tmp_path: Path,
) -> None:
    ids, groups = [f"{n:064d}" for n in range(20)], [f"g{n}" for n in range(20)]
    best = write_stages(tmp_path / "a", correct=[True] * 20, sha256s=ids, groups=groups)
    _register(best, tmp_path / "v1", approval="gate")
    worse = write_stages(
        tmp_path / "b", correct=[False] * 20, sha256s=ids, groups=groups, note="worse"
    )
    found = _register(worse, tmp_path / "v2", gate="champion", approval="gate")
    assert (found["version"], found["status"]) == (2, "rejected")
    assert "of the champion on 20 test" in found["reason"]


CALLS = (
    *("GetBucketLocation", "ListModelPackages", "DescribeModelPackageGroup", "HeadObject"),
    *("CreateModelPackageGroup", "PutObject", "CreateModelPackage", "DescribeModelPackage"),
)
QUICK = {("CreateModelPackage", "reset"), ("PutObject", "throttle"), ("HeadObject", "500")}
FAULTS = [
    pytest.param(call, kind, marks=[] if (call, kind) in QUICK else [pytest.mark.slow])
    for call in CALLS
    for kind in KINDS
]


@pytest.mark.parametrize(("action", "kind"), FAULTS)
def test_a_failure_of_any_call_leaves_one_version_and_one_group(
    tmp_path: Path,
    server: Server,
    action: str,
    kind: str,
) -> None:
    server.faults.add(action, kind)
    found = _register(write_stages(tmp_path / "a"), tmp_path / "v")
    assert [met[0] for met in server.faults.met] == [action]
    assert (found["version"], found["status"]) == (1, "registered")
    assert len(_packages(server)) == 1
    assert len(server.registry.groups) == 1
    assert len(server.faults.calls) < 25


def test_a_call_that_fails_for_good_says_what_to_do_and_leaves_no_output(
    tmp_path: Path,
    server: Server,
) -> None:
    server.faults.add("CreateModelPackage", "AccessDeniedException", message="no", times=20)
    with pytest.raises(RefusedError, match=r"CreateModelPackage.*birdsong/aws/policies"):
        _register(write_stages(tmp_path / "a"), tmp_path / "v")
    assert not (tmp_path / "v").exists()
    server.faults.clear()
    assert _register(write_stages(tmp_path / "a2"), tmp_path / "v")["version"] == 1


def test_an_absent_bucket_and_expired_credentials_are_told_in_plain_words(
    tmp_path: Path,
    server: Server,
) -> None:
    stages = write_stages(tmp_path / "a")
    with pytest.raises(ConfigError, match="the bucket does not exist"):
        _register(stages, tmp_path / "v", registry="sagemaker://nobody-has-this/x")
    server.faults.add("ListModelPackages", "ExpiredTokenException", message="The token expired")
    with pytest.raises(RefusedError, match="no longer valid"):
        _register(stages, tmp_path / "v")


@pytest.mark.parametrize(
    "registry",
    [
        "sagemaker://",
        "sagemaker://UPPER/x",
        "sagemaker://b/x?zone=1",
        "sagemaker:///x",
        "sagemaker://bucket/x?region=EU_WEST",
    ],
)
def test_an_address_that_cannot_be_read_is_refused_before_anything_is_asked(
    tmp_path: Path,
    server: Server,
    registry: str,
) -> None:
    with pytest.raises(ConfigError, match="sagemaker://BUCKET/PREFIX"):
        _register(write_stages(tmp_path / "a"), tmp_path / "v", registry=registry)
    assert server.faults.calls == []


@pytest.mark.parametrize("image", ["", "birdsong-python-serve:abc", "x.dkr.ecr.a/b:c"])
def test_an_image_outside_of_ecr_is_refused(tmp_path: Path, image: str) -> None:
    with pytest.raises(ConfigError, match="serve_image"):
        _register(write_stages(tmp_path / "a"), tmp_path / "v", serve_image=image)


def test_reading_a_registry_needs_no_image(tmp_path: Path) -> None:
    assert list_versions("birdsong", PLACE) == []
    assert RegisterConfig().serve_image == ""
