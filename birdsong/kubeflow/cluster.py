"""`make cluster`: a Kubernetes cluster with Kubeflow Pipelines, our images and an MLflow server.

Every step looks first at what is there, so that a second `make cluster` goes on where the first
one stopped. It calls `kind`, `kubectl` and `docker`; nothing of the cluster is done by itself.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from birdsong.errors import BirdsongError, ConfigError, StorageError
from birdsong.kubeflow import checks, port_forward
from birdsong.kubeflow.wish import NAMESPACE, ROOT, CommandError, Programs, Wish

KFP_VERSION = "2.17.0"


_UNSET_IMAGE = "birdsong-python-cloud:unset"


# --- up -----------------------------------------------------------------------------------------


def up(wish: Wish, programs: Programs) -> None:
    """Bring the cluster up, or go on with it.

    Raises:
        BirdsongError: What is missing, or which program failed.
    """
    checks.check_wish(wish)
    references = checks.images() if wish.load or "mlflow" in wish.overlays else {}
    checks.check_tools(wish, programs)
    if wish.load:
        checks.check_images(wish, programs, references)
    if wish.own:
        _make_cluster(wish, programs)
    elif not programs.works([*wish.kubectl, "get", "namespace", "default"]):
        raise ConfigError(
            f"The cluster of the context {wish.context} does not answer. Contexts: "
            "kubectl config get-contexts"
        )
    _install_kfp(wish, programs)
    if wish.load:
        _hand_over_images(wish, programs, references)
    _wait(wish, programs)
    _apply_overlays(wish, programs, references)
    port_forward.forward(wish, programs)
    programs.tell(_end(wish))


def _make_cluster(wish: Wish, programs: Programs) -> None:
    if wish.name in programs.ask(["kind", "get", "clusters"]).split():
        programs.tell(f"cluster {wish.name} is there")
        if wish.data is not None and not _sees(wish, programs):
            raise ConfigError(
                f"The cluster {wish.name} was made without DATA={wish.data}, and a folder cannot "
                "be added. Remove it first: make cluster-down."
            )
        return
    programs.tell(f"making the cluster {wish.name}")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        file.write(kind_config(wish))
    try:
        programs.do(["kind", "create", "cluster", "--name", wish.name, "--config", file.name])
    finally:
        Path(file.name).unlink()


def _sees(wish: Wish, programs: Programs) -> bool:
    node = f"{wish.name}-control-plane"
    mounts = json.loads(programs.ask(["docker", "inspect", "--format", "{{json .Mounts}}", node]))
    wanted = str(wish.data.resolve()) if wish.data else ""
    return any(m.get("Destination") == "/data" and m.get("Source") == wanted for m in mounts)


def kind_config(wish: Wish) -> str:
    """kind's configuration, with the folder of recordings."""
    import yaml

    config = yaml.safe_load((ROOT / "k8s/kind/cluster.yaml").read_text())
    if wish.data is not None:
        for node in config["nodes"]:
            node["extraMounts"] = [
                {"hostPath": str(wish.data.resolve()), "containerPath": "/data", "readOnly": True}
            ]
    return str(yaml.safe_dump(config, sort_keys=False))


def _install_kfp(wish: Wish, programs: Programs) -> None:
    found = _installed(wish, programs)
    if found and not wish.own:
        programs.tell(f"Kubeflow Pipelines {found} is there, left as it is")
        return
    if not wish.own and wish.namespace != NAMESPACE:
        raise ConfigError(
            f"There is no Kubeflow Pipelines in {wish.namespace}, and its manifests install into "
            f"{NAMESPACE}. Give the namespace where it is, or NAMESPACE={NAMESPACE}."
        )
    programs.tell(f"installing Kubeflow Pipelines {KFP_VERSION}")
    programs.do([*wish.kubectl, "apply", "-k", "k8s/kfp/cluster-scoped"])
    programs.do(
        [
            *(*wish.kubectl, "wait", "--for=condition=Established", "--timeout=90s"),
            "crd/applications.app.k8s.io",
        ]
    )
    programs.do([*wish.kubectl, "apply", "-k", "k8s/kfp"])


def _installed(wish: Wish, programs: Programs) -> str:
    """The version of KFP that is there; empty for none."""
    template = "{.spec.template.spec.containers[0].image}"
    try:
        image = programs.ask(
            [
                *(*wish.kubectl, "-n", wish.namespace, "get", "deployment", "ml-pipeline"),
                *("-o", f"jsonpath={template}"),
            ]
        )
    except CommandError:
        return ""
    return image.strip().rpartition(":")[2]


def _hand_over_images(wish: Wish, programs: Programs, references: Mapping[str, str]) -> None:
    name = checks.kind_of(wish)
    if name:
        programs.tell("loading the images")
        programs.do(
            ["kind", "load", "docker-image", "--name", name, *dict.fromkeys(references.values())]
        )
        return
    programs.tell(f"pushing the images to {os.environ['BIRDSONG_REGISTRY']}")
    for image in dict.fromkeys(references.values()):
        programs.do(["docker", "push", image])


def _wait(wish: Wish, programs: Programs) -> None:
    programs.tell("waiting for Kubeflow Pipelines (minutes, while its images are pulled)")
    try:
        programs.do(
            [
                *(*wish.kubectl, "-n", wish.namespace, "wait", "--for=condition=Available"),
                *(f"--timeout={wish.wait_minutes * 60}s", "deployment", "--all"),
            ]
        )
    except CommandError as error:
        pods = ""
        with contextlib.suppress(CommandError):
            pods = programs.ask([*wish.kubectl, "-n", wish.namespace, "get", "pods"])
        raise StorageError(
            f"{error}\n{pods}Kubeflow Pipelines did not start in {wish.wait_minutes} minutes. What "
            f"holds a pod up: kubectl -n {wish.namespace} describe pod NAME. Then go on: make "
            "cluster."
        ) from None


def _apply_overlays(wish: Wish, programs: Programs, references: Mapping[str, str]) -> None:
    if wish.own:  # k8s/clusters/kind.yaml mounts it, also where it is empty
        programs.do([*wish.kubectl, "apply", "-f", "k8s/kind/data.yaml"])
    for overlay in wish.overlays:
        programs.tell(f"applying {overlay}")
        programs.do(
            [*wish.kubectl, "apply", "-f", "-"],
            stdin=manifests(overlay, wish, references, programs),
        )
    if "mlflow" in wish.overlays:
        programs.do(
            [
                *(*wish.kubectl, "-n", wish.namespace, "rollout", "status"),
                *("deployment/mlflow", "--timeout=300s"),
            ]
        )


def manifests(overlay: str, wish: Wish, references: Mapping[str, str], programs: Programs) -> str:
    """An overlay as it is applied: with our image, in the namespace of KFP."""
    text = programs.ask(["kubectl", "kustomize", f"k8s/overlays/{overlay}"])
    text = text.replace(_UNSET_IMAGE, references.get("cloud", _UNSET_IMAGE))
    if wish.namespace != NAMESPACE:
        text = text.replace(f"namespace: {NAMESPACE}\n", f"namespace: {wish.namespace}\n")
        text = text.replace(f"mlflow.{NAMESPACE}", f"mlflow.{wish.namespace}")
    return text


def _end(wish: Wish) -> str:
    host = f"http://localhost:{wish.port}"
    if wish.own:
        more = " --cluster k8s/clusters/kind.yaml"
    elif "mlflow" in wish.overlays:
        more = f" --set registry=http://mlflow.{wish.namespace}:5000"
    else:
        more = " --set registry=MLFLOW"
    lines = [f"\nKubeflow Pipelines: {host}", "Next:"]
    lines.append(f"  python pipeline.py submit --host {host}{more} --wait")
    return "\n".join(lines)


# --- down ---------------------------------------------------------------------------------------


def down(wish: Wish, programs: Programs) -> None:
    """Remove the kind cluster; of another cluster only the port-forward.

    Raises:
        BirdsongError: A program is missing or failed.
    """
    if port_forward.end(wish):
        programs.tell(f"port {wish.port} is no longer forwarded")
    if not wish.own:
        programs.tell(
            f"The cluster of {wish.context} stays as it is. What `make cluster` applied can be "
            "removed with: "
            + "; ".join(
                f"{' '.join(wish.kubectl)} delete -k k8s/overlays/{overlay}"
                for overlay in wish.overlays
            )
        )
        return
    if shutil.which("kind") is None:
        raise ConfigError(checks.INSTALL["kind"])
    if wish.name not in programs.ask(["kind", "get", "clusters"]).split():
        programs.tell(f"There is no cluster {wish.name}.")
        return
    programs.do(["kind", "delete", "cluster", "--name", wish.name])


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: `python -m birdsong.kubeflow.cluster up|down`."""
    parser = argparse.ArgumentParser(prog="make cluster", description=__doc__)
    parser.add_argument("what", choices=("up", "down"))
    parser.add_argument("--name", default="birdsong", help="Of the kind cluster.")
    parser.add_argument("--context", default="", help="Of kubectl, for a cluster that is there.")
    parser.add_argument("--namespace", default=NAMESPACE, help="Where KFP is.")
    parser.add_argument("--data", default="", help="Folder that pods see at /data.")
    parser.add_argument("--port", type=int, default=8080, help="Of the UI on this machine.")
    parser.add_argument("--overlays", default="mlflow", help="Of k8s/overlays, comma-separated.")
    parser.add_argument("--load", choices=("yes", "no"), default="yes", help="Images.")
    parser.add_argument("--wait-minutes", type=int, default=15, help="For KFP to start.")
    given = parser.parse_args(arguments)
    wish = Wish(
        given.name,
        given.context,
        given.namespace,
        Path(given.data).expanduser() if given.data else None,
        given.port,
        tuple(part for part in re.split(r"[,\s]+", given.overlays) if part),
        given.load == "yes",
        given.wait_minutes,
    )
    programs = Programs(lambda text: print(text, flush=True))
    try:
        {"up": up, "down": down}[given.what](wish, programs)
    except BirdsongError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("Cancelled; `make cluster` goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
