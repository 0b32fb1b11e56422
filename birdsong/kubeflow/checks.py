"""What `make cluster` needs: programs, an engine, room, images; told before minutes are spent."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from birdsong.errors import ConfigError
from birdsong.kubeflow.wish import NAMESPACE, ROOT, CommandError, Programs, Wish

KIND_VERSION = "0.33"
"""The kind whose node image k8s/kind/cluster.yaml names."""

TARGETS = ("data", "train", "cloud")
"""Image targets that steps of the pipeline run in."""

MEMORY_BYTES = 7_500_000_000
CORES = 4
DISK_BYTES = 15_000_000_000
"""What KFP (3.1 GiB of requests), a node and one small training need."""

OVERLAYS = ("mlflow", "network-policy", "s3-artifacts", "aws-role", "multi-user")
INSTALL = {
    "git": "git is not installed, by which kubectl gets the manifests of Kubeflow Pipelines.",
    "docker": "Docker is not installed: https://docs.docker.com/engine/install/",
    "kind": "kind is not installed: https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    "kubectl": "kubectl is not installed: https://kubernetes.io/docs/tasks/tools/",
}


def check_wish(wish: Wish) -> None:
    """Refuse what contradicts itself.

    Raises:
        ConfigError: Says what to change.
    """
    unknown = sorted(set(wish.overlays) - set(OVERLAYS))
    if unknown:
        raise ConfigError(f"OVERLAYS: no {', '.join(unknown)}. Known: {', '.join(OVERLAYS)}.")
    for overlay in wish.overlays:
        blanks = unfilled(ROOT / "k8s/overlays" / overlay)
        if blanks:
            raise ConfigError(
                f"k8s/overlays/{overlay}: fill in what is in capitals first: {', '.join(blanks)}."
            )
    if wish.data is not None and not wish.data.is_dir():
        raise ConfigError(f"DATA={wish.data}: it is no folder.")
    if wish.data is not None and not wish.own:
        raise ConfigError(
            "DATA is for the kind cluster. On a cluster that is there, make a claim named "
            "birdsong-data with the recordings."
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", wish.name):
        raise ConfigError(f"CLUSTER={wish.name}: small letters, digits, dots and hyphens.")
    if wish.own and wish.namespace != NAMESPACE:
        raise ConfigError(
            f"NAMESPACE={wish.namespace}: KFP's own manifests install into {NAMESPACE}. Another "
            "namespace is for a cluster that has KFP there (with CONTEXT=)."
        )


def unfilled(folder: Path) -> list[str]:
    """Words in capitals that stand for a value in the manifests of a folder."""
    words = re.compile(r"(?<![A-Z_])(BUCKET|REGION|ACCOUNT|ROLE)(?![A-Z_])")
    found: dict[str, None] = {}
    for file in sorted(folder.glob("*.yaml")):
        for line in file.read_text().splitlines():
            found |= dict.fromkeys(words.findall(line.partition("#")[0]))
    return list(found)


def check_tools(wish: Wish, programs: Programs) -> None:
    """Refuse where a program, its engine or room is missing; all findings at once.

    Raises:
        ConfigError: One line for each finding.
    """
    needed = ["kubectl", "git", *(["kind"] if wish.own else [])]
    needed += ["docker"] if wish.own or wish.load else []
    problems = [INSTALL[name] for name in needed if shutil.which(name) is None]
    if "docker" in needed and shutil.which("docker"):
        try:
            text = programs.ask(["docker", "info", "--format", "{{json .}}"])
            problems += _room(json.loads(text)) if wish.own else []
        except (CommandError, ValueError):
            problems.append(
                "Docker's engine does not answer. Start it (systemctl start docker, or Docker "
                "Desktop), or add yourself to the group docker."
            )
    if wish.own and shutil.which("kind"):
        version = programs.ask(["kind", "version"])
        found = re.search(r"v(\d+\.\d+)", version)
        if found and found[1] != KIND_VERSION:
            programs.tell(
                f"Note: kind is {found[1]}; the node image is of {KIND_VERSION}. Should the node "
                "not start, take that version."
            )
    if problems:
        raise ConfigError("\n".join(problems))


def _room(info: Mapping[str, object]) -> list[str]:
    problems = []
    memory, cores = info.get("MemTotal"), info.get("NCPU")
    if isinstance(memory, int) and memory < MEMORY_BYTES:
        problems.append(
            f"Docker has {memory / 1e9:.1f} GB of memory; Kubeflow Pipelines and one small "
            f"training need {MEMORY_BYTES / 1e9:.0f} GB or more."
        )
    if isinstance(cores, int) and cores < CORES:
        problems.append(f"Docker has {cores} cores; {CORES} or more are needed.")
    place = Path(str(info.get("DockerRootDir") or "/var/lib/docker"))
    if place.is_dir() and shutil.disk_usage(place).free < DISK_BYTES:
        problems.append(f"Less than {DISK_BYTES / 1e9:.0f} GB is free in {place}.")
    return problems


def images() -> dict[str, str]:
    """Target to the image that steps run in."""
    from components import images as names

    return {target: names.reference(target) for target in TARGETS}


def check_images(wish: Wish, programs: Programs, references: Mapping[str, str]) -> None:
    """Refuse where an image is not built, before minutes are spent on a cluster.

    Raises:
        ConfigError: Names them.
    """
    if not wish.own and not os.environ.get("BIRDSONG_REGISTRY") and not kind_of(wish):
        raise ConfigError(
            "BIRDSONG_REGISTRY is not set: it names the registry of images that this cluster "
            "pulls from, such as ghcr.io/me. (LOAD=no leaves the images to you.)"
        )
    missing = [
        image
        for image in references.values()
        if not programs.works(["docker", "image", "inspect", image])
    ]
    if missing:
        raise ConfigError(
            f"Not built: {', '.join(missing)}. Build them first: make images. (LOAD=no leaves "
            "the images to you.)"
        )


def kind_of(wish: Wish) -> str:
    """Name of the kind cluster that is meant; empty for another kind of cluster."""
    if wish.own:
        return wish.name
    return wish.context.removeprefix("kind-") if wish.context.startswith("kind-") else ""
