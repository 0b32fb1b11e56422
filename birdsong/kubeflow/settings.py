"""What a cluster is like: where its images are, what a step may take, which secrets it names.

One YAML file describes one cluster (`k8s/clusters/`), so that submit, rerun and compile ask for the
same things. Every field has a default; secrets are names of Kubernetes secrets, never values.
"""

import difflib
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from birdsong.config import Settings
from birdsong.errors import ConfigError

STEPS = (
    *("ingest", "split", "featurize", "tune", "train"),
    *("evaluate-threshold", "register", "deploy"),
)
"""Steps of the pipeline, as KFP shows them."""

GPU_STEPS = ("tune", "train")
"""Steps that a GPU makes faster; no other step asks for one."""

_CPU = re.compile(r"^([0-9]*\.)?[0-9]+m?$")
_MEMORY = re.compile(r"^[0-9]+(\.[0-9]+)?(E|Ei|P|Pi|T|Ti|G|Gi|M|Mi|K|Ki)?$")
_NAME = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"


class Resources(Settings):
    """What one step asks for, as its request and as its limit: no pod takes from another."""

    cpu: str = Field(default="1", description="Cores, as 2 or 500m")
    memory: str = Field(default="2Gi", description="Memory, as 8Gi; a step above it is killed")
    gpus: int = Field(default=0, ge=0, le=64, description="GPUs; tune and train only")

    @field_validator("cpu", mode="before")
    @classmethod
    def _cores(cls, value: Any) -> str:
        text = str(value)  # YAML reads 2 as a number
        if not _CPU.match(text):
            raise ValueError(f"cpu {text!r} is no number of cores; write 2, 0.5 or 500m")
        return text

    @field_validator("memory", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> str:
        text = str(value)
        if not _MEMORY.match(text):
            raise ValueError(f"memory {text!r} is no amount of memory; write 8Gi or 512Mi")
        return text


class Toleration(Settings):
    """A taint of a node that GPU steps bear."""

    key: str = Field(default="nvidia.com/gpu", min_length=1)
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class Gpu(Settings):
    """How GPUs are asked for and on which nodes they are."""

    resource: str = Field(default="nvidia.com/gpu", description="Name of the extended resource")
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=lambda: [Toleration()])


class Secrets(Settings):
    """Names of secrets in the namespace of the pods; each is optional for a pod to start.

    `aws` has the keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where needed,
    AWS_SESSION_TOKEN, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL; `google` has key.json;
    `mlflow` has MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.
    """

    aws: str = Field(default="aws-credentials", pattern=rf"^$|{_NAME}")
    google: str = Field(default="", pattern=rf"^$|{_NAME}")
    mlflow: str = Field(default="mlflow-credentials", pattern=rf"^$|{_NAME}")


class Mount(Settings):
    """A claim whose files the steps that read recordings or weights see."""

    claim: str = Field(pattern=_NAME, description="Name of the PersistentVolumeClaim")
    path: str = Field(pattern=r"^/[^:]+$", description="Where a pod sees it")

    @field_validator("path")
    @classmethod
    def _own_place(cls, path: str) -> str:
        plain = path.rstrip("/")
        taken = ("/tmp", "/dev", "/proc", "/sys", "/etc", "/usr", "/minio", "/s3", "/gcs", "/app")  # noqa: S108
        if not plain or any(plain == place or plain.startswith(f"{place}/") for place in taken):
            raise ValueError(f"path {path} is taken in a pod; choose another, such as /data")
        return plain

    def holds(self, place: str) -> bool:
        """Whether a path lies in it."""
        return place == self.path or place.startswith(f"{self.path}/")


class ClusterSettings(Settings):
    """All that a compiled pipeline says about the cluster that runs it."""

    image_registry: str = Field(
        default="", description="Where the cluster pulls images; empty: BIRDSONG_REGISTRY, or none"
    )
    image_pull_secret: str = Field(default="", pattern=rf"^$|{_NAME}")
    namespace: str = Field(
        default="", description="Of a user, in a multi-user installation; empty: single-user"
    )
    service_account: str = Field(default="", description="Of the pods; empty: KFP's own")
    pipeline_root: str = Field(
        default="", description="Where artifacts go, s3://bucket/prefix; empty: the cluster's own"
    )
    registry: str = Field(
        default="", description="MLflow's address where --set registry= is not given"
    )
    user: int = Field(default=10001, ge=1, description="User number of the steps, not root")
    group: int = Field(default=10001, ge=1, description="Group number of the steps")
    retries: int = Field(default=2, ge=0, le=10, description="Further attempts of a failed step")
    backoff_seconds: int = Field(default=30, ge=1, description="Wait before the first, doubled")
    backoff_max_seconds: int = Field(
        default=86_400, ge=1, description="From the first start; no attempt is begun later"
    )
    ttl_hours: float = Field(
        default=72, gt=0, le=24 * 365, description="How long a finished workflow stays for resume"
    )
    deadline_hours: float = Field(default=168, gt=0, le=24 * 365, description="Longest run")
    caching: bool = Field(default=True, description="Whether KFP may reuse finished steps")
    steps: dict[str, Resources] = Field(default_factory=dict)
    gpu: Gpu = Field(default_factory=Gpu)
    secrets: Secrets = Field(default_factory=Secrets)
    mounts: list[Mount] = Field(default_factory=list)

    @model_validator(mode="after")
    def _known_steps(self) -> Self:
        for name, wanted in self.steps.items():
            if name not in STEPS:
                near = difflib.get_close_matches(name, STEPS, n=1)
                guess = f" Did you mean {near[0]}?" if near else ""
                raise ValueError(f"steps: there is no step {name}.{guess}")
            if wanted.gpus and name not in GPU_STEPS:
                raise ValueError(f"steps: {name} makes no use of a GPU; only tune and train do")
        if self.pipeline_root and "://" not in self.pipeline_root:
            raise ValueError("pipeline_root needs an address such as s3://bucket/prefix")
        return self


def read(place: Path | None) -> ClusterSettings:
    """The settings in a YAML file; the defaults where there is none.

    Raises:
        ConfigError: The file cannot be read, or a field is unknown or does not fit.
    """
    if place is None:
        return ClusterSettings()
    import yaml

    try:
        found = yaml.safe_load(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"--cluster {place}: it cannot be read ({error.strerror}). "
            "Examples are in k8s/clusters/."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = str(error).replace("\n", " ")
        raise ConfigError(f"--cluster {place}: it is not YAML ({text}).") from error
    if found is None:
        found = {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"--cluster {place}: needs names and values, such as `retries: 2`.")
    try:
        return ClusterSettings(**found)
    except ConfigError as error:
        raise ConfigError(f"--cluster {place}: {error}") from None


_LARGE: dict[str, dict[str, Any]] = {
    "ingest": {"cpu": "4", "memory": "4Gi"},
    "split": {"cpu": "1", "memory": "4Gi"},
    "featurize": {"cpu": "8", "memory": "8Gi"},
    "tune": {"cpu": "8", "memory": "32Gi", "gpus": 1},
    "train": {"cpu": "8", "memory": "32Gi", "gpus": 1},
    "evaluate-threshold": {"cpu": "8", "memory": "16Gi"},
    "register": {"cpu": "1", "memory": "4Gi"},
    "deploy": {"cpu": "2", "memory": "4Gi"},
}
_SMALL: dict[str, dict[str, Any]] = {
    "ingest": {"cpu": "1", "memory": "1Gi"},
    "split": {"cpu": "500m", "memory": "1Gi"},
    "featurize": {"cpu": "1", "memory": "2Gi"},
    "tune": {"cpu": "2", "memory": "4Gi"},
    "train": {"cpu": "2", "memory": "4Gi"},
    "evaluate-threshold": {"cpu": "2", "memory": "4Gi"},
    "register": {"cpu": "500m", "memory": "2Gi"},
    "deploy": {"cpu": "1", "memory": "3Gi"},
}
_DRIVES_A_JOB: dict[str, Any] = {"cpu": "500m", "memory": "2Gi"}


def resources(
    settings: ClusterSettings, profile: str | None, runs_on: str = "here"
) -> dict[str, Resources]:
    """What each step asks for.

    Small steps (one node of 4 cores, no GPU) for the profiles demo and quick, large ones and a GPU
    for tune and train for reference; the settings of the cluster replace single steps. With
    `runs_on` sagemaker tune and train only drive a job that runs elsewhere.
    """
    table = _LARGE if profile == "reference" else _SMALL
    wanted = {step: Resources(**table[step]) for step in STEPS} | settings.steps
    if runs_on == "sagemaker":
        wanted |= {step: Resources(**_DRIVES_A_JOB) for step in GPU_STEPS}
    return wanted
