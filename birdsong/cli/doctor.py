"""`doctor`: what this machine has, and what is missing for which way of running."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from birdsong.cli.options import RunsFolder

FITTING = {
    "kfp": ("2.17.", "it runs the DAG here; birdsong wraps its inside"),
    "protobuf": ("6.", "kfp and tensorflow must agree on it"),
    "tensorflow": ("2.21.", "training and scoring"),
    "tensorflow-io": ("0.37.", "masks in training"),
    "numpy": ("2.", "arrays everywhere"),
    "pandas": ("3.", "tables"),
    "pyarrow": ("", "Parquet"),
    "pydantic": ("2.", "settings"),
    "soundfile": ("", "decoding"),
    "soxr": ("", "resampling"),
    "scikit-learn": ("", "the baseline"),
    "mlflow": ("3.", "the registry"),
    "fastapi": ("", "serving"),
    "uvicorn": ("", "serving"),
}
"""Distribution to the start of the versions that fit and what it is for."""


def package_problems(installed: Mapping[str, str | None]) -> list[str]:
    """Packages that are absent or do not fit, one sentence each."""
    problems = []
    for name, (start, use) in FITTING.items():
        version = installed.get(name)
        if version is None:
            problems.append(f"{name} is not installed ({use}).")
        elif not version.startswith(start):
            problems.append(f"{name} is {version}, {start}x is needed ({use}).")
    return problems


def _installed() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in FITTING:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _has(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _tool(command: list[str]) -> str | None:
    """First line that a tool prints; empty if it is there but does not answer, None if absent."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else ""


def aws_credentials(environment: Mapping[str, str], home: Path) -> bool:
    """Whether credentials for AWS seem to be set up; their values are not read."""
    if environment.get("AWS_ACCESS_KEY_ID") and environment.get("AWS_SECRET_ACCESS_KEY"):
        return True
    names = ("AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    if any(environment.get(name) for name in names):
        return True
    files = (
        Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / ".aws/credentials"),
        Path(environment.get("AWS_CONFIG_FILE") or home / ".aws/config"),
    )
    return any(file.is_file() for file in files)


def gcp_credentials(environment: Mapping[str, str], home: Path) -> bool:
    """Whether credentials for Google Cloud seem to be set up; their values are not read."""
    named = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named:
        return Path(named).is_file()
    return (home / ".config/gcloud/application_default_credentials.json").is_file()


def doctor(
    runs: RunsFolder = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> int:
    """Say what this machine has, and what is missing for which way of running.

    Ends with 0 if `run` works here, with 1 if it does not.
    """
    import json

    findings = examine(runs)
    if as_json:
        typer.echo(json.dumps(findings, indent=1))
    else:
        typer.echo(as_text(findings))
    return 0 if not findings["ways"]["processes"] else 1


def examine(runs: Path) -> dict[str, dict[str, object]]:
    """Look at the machine.

    Returns:
        "machine", "packages", "tools" and "credentials" as found, and "ways": way of running to
        the list of what is missing for it.
    """
    import psutil

    from birdsong.errors import BirdsongError
    from birdsong.runs import seams

    installed = _installed()
    here = package_problems(installed)
    if installed["kfp"] is not None:
        try:
            seams.check()
        except (BirdsongError, ImportError) as error:
            here.append(str(error))
    if sys.version_info[:2] != (3, 11):
        here.append(f"Python is {platform.python_version()}, 3.11 is needed (tensorflow-io).")
    place = runs.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        here.append(f"{place} cannot be written; choose another folder with --runs.")
    if free < 1_000_000_000:
        here.append(f"Less than 1 GB is free in {place}.")
    memory = psutil.virtual_memory()
    if memory.available < 2_000_000_000:
        here.append("Less than 2 GB of memory is available; training may be killed.")
    docker = _tool(["docker", "version", "--format", "{{.Server.Version}}"])
    kubectl = _tool(["kubectl", "version", "--client", "-o", "yaml"])
    cluster = _tool(["kubectl", "config", "current-context"]) if kubectl is not None else None
    kind = _tool(["kind", "version"])
    aws = aws_credentials(os.environ, Path.home())
    gcp = gcp_credentials(os.environ, Path.home())
    ways = {
        "processes": here,
        "docker": _containers(),
        "kubeflow": _missing(
            (not _has("kfp-kubernetes"), "kfp-kubernetes is not installed (extra cli)."),
            (kubectl is None, "kubectl is not installed."),
            (
                kubectl is not None and not cluster and kind is None,
                "kubectl names no cluster, and kind, which could make one here, is not installed.",
            ),
            (
                kubectl is not None and not cluster and kind is not None,
                "kubectl names no cluster; make one with: make cluster",
            ),
            (not docker, "Images cannot be built here without Docker."),
        ),
        "sagemaker": _missing(
            (not aws, "No AWS credentials are set up (aws configure)."),
            (not _has("sagemaker"), "sagemaker is not installed (extra cloud)."),
        ),
    }
    return {
        "machine": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": memory.total,
            "memory_available_bytes": memory.available,
            "runs": str(runs.absolute()),
            "disk_free_bytes": free,
        },
        "packages": dict(installed),
        "tools": {
            "docker": docker,
            "kubectl": None if kubectl is None else "installed",
            "cluster": cluster or None,
            "kind": kind,
        },
        "credentials": {"aws": aws, "gcp": gcp},
        "ways": dict(ways),
    }


def _containers() -> list[str]:
    """What is missing for a container per step."""
    import contextlib

    from birdsong.errors import ConfigError
    from birdsong.runs import containers
    from components import images

    try:
        with contextlib.closing(containers.connect()) as client:
            containers.images(client, [images.DATA, images.TRAIN, images.CLOUD])
    except ConfigError as error:
        return [str(error)]
    return []


def _missing(*findings: tuple[bool, str]) -> list[str]:
    return [text for lacking, text in findings if lacking]


_WAYS = {
    "processes": "run here, a process per step",
    "docker": "run here, a container per step",
    "kubeflow": "submit to Kubeflow Pipelines",
    "sagemaker": "train and serve on SageMaker",
}


def as_text(findings: Mapping[str, Mapping[str, object]]) -> str:
    """The findings for people."""
    from birdsong.runs.plan import size

    machine = findings["machine"]
    lines = [
        f"Python {machine['python']} on {machine['system']}",
        f"{machine['cores']} cores, memory {size(float(str(machine['memory_bytes'])))} "
        f"({size(float(str(machine['memory_available_bytes'])))} available), "
        f"{size(float(str(machine['disk_free_bytes'])))} free for {machine['runs']}",
        "",
    ]
    lines += [
        f"  {name:<16}{version or 'absent'}" for name, version in findings["packages"].items()
    ]
    lines.append("")
    for name, found in findings["tools"].items():
        said = "absent" if found is None else found or "installed, does not answer"
        lines.append(f"  {name:<16}{said}")
    for name, present in findings["credentials"].items():
        lines.append(f"  {name + ' credentials':<16}{'present' if present else 'absent'}")
    lines.append("")
    for way, text in _WAYS.items():
        missing = findings["ways"][way]
        lines.append(f"{'not yet' if missing else 'ready  '}  {text}")
        if isinstance(missing, list):
            lines += [f"           {problem}" for problem in missing]
    return "\n".join(lines)
