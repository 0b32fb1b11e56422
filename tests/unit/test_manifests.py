"""The manifests of k8s/ against the schemas of Kubernetes, and what they promise."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from birdsong.kubeflow import checks
from birdsong.kubeflow.cluster import KFP_VERSION

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
VERSION = "1.34"
"""Of the node image in k8s/kind/cluster.yaml."""

KUSTOMIZATIONS = sorted(K8S.rglob("kustomization.yaml"))
MANIFESTS = sorted(
    file
    for file in K8S.rglob("*.yaml")
    if file.name not in {"kustomization.yaml", "cluster.yaml"} and file.parent.name != "clusters"
)


def documents(file: Path) -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all(file.read_text()) if found]


def validate(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


def name_of(file: Path) -> str:
    return str(file.relative_to(K8S))


def test_there_is_something_to_check() -> None:
    assert len(MANIFESTS) >= 8
    assert len(KUSTOMIZATIONS) >= 7


@pytest.mark.parametrize("file", MANIFESTS, ids=name_of)
def test_a_manifest_fits_the_schemas_of_kubernetes(file: Path) -> None:
    found = documents(file)
    assert found
    for document in found:
        validate(document)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["spec"].update(replicas="two"), "not of type"),
        (lambda d: d["spec"].update(replica=2), "replica"),
        (lambda d: d["spec"].pop("selector"), "selector"),
        (lambda d: d["spec"]["template"]["spec"]["containers"][0].pop("name"), "name"),
    ],
)
def test_a_bad_manifest_fails_here(change: Any, said: str) -> None:
    deployment = next(
        d for d in documents(K8S / "overlays/mlflow/mlflow.yaml") if d["kind"] == "Deployment"
    )
    validate(deployment)
    change(deployment)
    with pytest.raises(kubernetes_validate.ValidationError, match=said):
        validate(deployment)


def test_a_kind_that_kubernetes_does_not_have_fails_here() -> None:
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        validate({"apiVersion": "apps/v9", "kind": "Deployment", "metadata": {"name": "x"}})


@pytest.mark.parametrize("file", KUSTOMIZATIONS, ids=name_of)
def test_a_kustomization_names_files_that_are_there_or_a_pinned_version(file: Path) -> None:
    found = documents(file)[0]
    assert found["kind"] == "Kustomization"
    named = set(found.get("resources", [])) | {p["path"] for p in found.get("patches", [])}
    for resource in named:
        if "://" in resource:
            assert resource.startswith("https://github.com/kubeflow/pipelines//manifests/")
            assert resource.endswith(f"?ref={KFP_VERSION}")
        else:
            assert (file.parent / resource).is_file()
    others = {other.name for other in file.parent.glob("*.yaml")} - {file.name}
    assert others <= named


@pytest.mark.parametrize("file", KUSTOMIZATIONS, ids=name_of)
def test_kustomize_renders_what_lies_here(file: Path, tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")
    if any("://" in str(resource) for resource in documents(file)[0]["resources"]):
        pytest.skip("its base is on github.com; rendered by `make cluster` only")
    done = subprocess.run(
        ["kubectl", "kustomize", str(file.parent)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for document in yaml.safe_load_all(done.stdout):
        validate(document)


def test_the_namespace_of_kubeflow_gets_its_labels_and_keeps_others(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")
    # In place of the base on github.com a namespace as it has it.
    shutil.copytree(K8S / "kfp/cluster-scoped", tmp_path / "own")
    file = tmp_path / "own/kustomization.yaml"
    document = documents(file)[0]
    document["resources"] = ["../base"]
    file.write_text(yaml.safe_dump(document))
    (tmp_path / "base").mkdir()
    (tmp_path / "base/kustomization.yaml").write_text("resources: [namespace.yaml]\n")
    (tmp_path / "base/namespace.yaml").write_text(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: kubeflow\n"
        "  labels: {pod-security.kubernetes.io/enforce: baseline}\n"
    )
    done = subprocess.run(
        ["kubectl", "kustomize", str(tmp_path / "own")], capture_output=True, text=True, check=True
    )
    labels = yaml.safe_load(done.stdout)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/warn"] == "restricted"
    assert labels["pod-security.kubernetes.io/audit"] == "restricted"
    assert labels["pod-security.kubernetes.io/enforce"] == "baseline"


def test_the_namespace_of_a_team_enforces_the_restricted_standard() -> None:
    found = documents(K8S / "overlays/multi-user/namespace.yaml")[0]
    assert found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_pods_of_ours_meet_the_restricted_standard() -> None:
    pods = [
        document["spec"]["template"]["spec"]
        for file in MANIFESTS
        for document in documents(file)
        if document["kind"] in {"Deployment", "StatefulSet", "Job", "DaemonSet"}
    ]
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not any("hostPath" in volume for volume in pod["volumes"])
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert not container["image"].endswith(":latest")


def test_no_manifest_holds_a_secret() -> None:
    for file in MANIFESTS:
        for document in documents(file):
            assert document["kind"] != "Secret"
            if document["kind"] == "Deployment":
                for container in document["spec"]["template"]["spec"]["containers"]:
                    plain = [entry["name"] for entry in container.get("env", [])]
                    assert not re.search("PASSWORD|TOKEN|SECRET|KEY|USER", " ".join(plain))


def test_the_node_image_of_kind_is_pinned_by_its_contents() -> None:
    found = documents(K8S / "kind/cluster.yaml")[0]
    assert found["apiVersion"] == "kind.x-k8s.io/v1alpha4"
    for node in found["nodes"]:
        assert node["image"].startswith(f"kindest/node:v{VERSION}.")
        assert len(node["image"].partition("@sha256:")[2]) == 64


def test_the_claim_of_recordings_and_its_volume_belong_together() -> None:
    volume, claim = documents(K8S / "kind/data.yaml")
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert volume["spec"]["claimRef"]["name"] == claim["metadata"]["name"]
    assert volume["spec"]["claimRef"]["namespace"] == claim["metadata"]["namespace"]
    asked = claim["spec"]["resources"]["requests"]["storage"]
    assert asked == volume["spec"]["capacity"]["storage"]


def test_overlays_are_known_to_make_cluster_and_say_what_is_to_be_filled_in() -> None:
    assert {place.name for place in (K8S / "overlays").iterdir()} == set(checks.OVERLAYS)
    assert checks.unfilled(K8S / "overlays/mlflow") == []
    assert checks.unfilled(K8S / "overlays/s3-artifacts") == ["BUCKET", "REGION"]


def test_the_secret_of_the_artifact_store_has_the_keys_of_the_steps() -> None:
    """One secret serves the launcher and the steps."""
    from birdsong.kubeflow import compiling, settings

    found = documents(K8S / "overlays/s3-artifacts/kfp-launcher.yaml")[0]
    provider = yaml.safe_load(found["data"]["providers"])["s3"]["default"]["credentials"]
    assert provider["secretRef"]["secretName"] == settings.Secrets().aws
    for key in ("accessKeyKey", "secretKeyKey"):
        assert provider["secretRef"][key] in compiling._AWS_KEYS
