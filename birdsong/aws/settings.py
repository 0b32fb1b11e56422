"""Where and how jobs run on SageMaker: one YAML file, carried to the steps in one variable.

The file is named when a run is started, submitted or compiled (`--sagemaker FILE`). Its contents
travel as JSON in an environment variable of tune and train, which local processes, containers and
pods of a cluster have alike; so the steps' parameters and outputs stay the same, and KFP's cache
looks at the data and not at where it was computed. There is no secret in it: credentials come from
the SDK's own chain, as a role or a named Kubernetes secret.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from birdsong.config import Settings
from birdsong.errors import ConfigError

VARIABLE = "BIRDSONG_SAGEMAKER"
"""The settings as JSON, in the environment of tune and train."""

RUN, JOBS_OF = "BIRDSONG_RUN", "BIRDSONG_JOBS_OF"
"""Id of the run, in the environment of every step; and, on one machine, of the first run of a chain
of resumes, so that a resumed run finds the jobs of the one that it goes on from."""

ROLE = r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$"

EXAMPLE = (
    "role: arn:aws:iam::123456789012:role/birdsong-job\nplace: s3://MY-BUCKET/birdsong\n"
    "image: 123456789012.dkr.ecr.eu-west-1.amazonaws.com/birdsong-python-train:TAG-sagemaker"
)


class JobSettings(Settings):
    """All that is said about jobs of one project."""

    role: str = Field(pattern=ROLE, description="Role that the jobs run as (ARN)")
    place: str = Field(
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$",
        description="Bucket and prefix for features, checkpoints and models, s3://bucket/prefix",
    )
    region: str = Field(default="", description="Empty: as the SDK finds it (AWS_DEFAULT_REGION)")
    image: str = Field(
        default="", description="Image train in ECR; empty: that of this code, in BIRDSONG_REGISTRY"
    )
    instance: str = Field(default="ml.g5.4xlarge", pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9-]+$")
    count: int = Field(default=1, ge=1, description="Machines of one training")
    volume_gb: int = Field(
        default=0, ge=0, le=16_384, description="Of each machine; 0: from the features' bytes"
    )
    spot: bool = Field(default=True, description="Managed spot, with checkpoints in the bucket")
    max_runtime_hours: float = Field(
        default=4, ge=0.01, le=672, description="Longest training; the job is stopped there"
    )
    max_wait_hours: float = Field(
        default=0, ge=0, le=1344, description="Longest with waiting for spot; 0: twice the runtime"
    )
    input_mode: Literal["auto", "File", "FastFile"] = "auto"
    on_cancel: Literal["stop", "leave"] = Field(
        default="stop", description="What becomes of a job whose step is cancelled"
    )
    attempts: int = Field(default=3, ge=1, le=9, description="Jobs of one step, at most")
    strategy: Literal["Bayesian", "Random", "Hyperband"] = "Bayesian"
    early_stopping: bool = Field(default=True, description="SageMaker may end poor trials early")
    trial_max_runtime_hours: float = Field(default=1, ge=0.01, le=672)
    warm_start: list[str] = Field(
        default_factory=list, max_length=5, description="Earlier tuning jobs to learn from"
    )
    budget_usd: float = Field(
        default=0, ge=0, description="US dollars above which a step starts no job; 0: no budget"
    )
    prices: str = Field(default="", description="A price table of one's own, a file or URI")
    kms_key: str = Field(default="", description="Encrypts volumes and outputs; empty: AWS' own")
    subnets: list[str] = Field(default_factory=list, max_length=16)
    security_groups: list[str] = Field(default_factory=list, max_length=5)

    @field_validator("count")
    @classmethod
    def _one_machine(cls, count: int) -> int:
        if count > 1:
            raise ValueError(
                "a training is spread over the GPUs of one machine, not over machines: each would "
                "train the same. Take a larger instance, and --set devices= for its GPUs"
            )
        return count

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_wait_hours and self.max_wait_hours < self.max_runtime_hours:
            raise ValueError(
                f"max_wait_hours {self.max_wait_hours:g} is below max_runtime_hours "
                f"{self.max_runtime_hours:g}: waiting for spot comes on top"
            )
        if bool(self.subnets) != bool(self.security_groups):
            raise ValueError("subnets and security_groups belong together: give both or neither")
        return self

    @property
    def ends_trials_early(self) -> bool:
        """Whether SageMaker is asked to; Hyperband does by itself and refuses to be asked."""
        return self.early_stopping and self.strategy != "Hyperband"

    @property
    def prefix(self) -> str:
        """`place` without a slash at its end."""
        return self.place.rstrip("/")

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self.place.removeprefix("s3://").partition("/")[0]


def read(place: Path) -> JobSettings:
    """The settings in a YAML file.

    Raises:
        ConfigError: The file cannot be read, or a field is missing, unknown or does not fit.
    """
    import yaml

    try:
        found = yaml.safe_load(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"--sagemaker {place}: it cannot be read ({error.strerror}). Write such a file:\n"
            f"{EXAMPLE}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--sagemaker {place}: it is not YAML ({error}).") from error
    if not isinstance(found, dict):
        raise ConfigError(f"--sagemaker {place}: needs names with values, such as:\n{EXAMPLE}")
    try:
        return JobSettings(**{str(name): value for name, value in found.items()})
    except ConfigError as error:
        raise ConfigError(f"--sagemaker {place}: {error}") from None


def of_step(environment: Mapping[str, str] | None = None) -> JobSettings:
    """The settings that a step was given.

    Raises:
        ConfigError: There are none, or they do not fit.
    """
    text = (os.environ if environment is None else environment).get(VARIABLE, "")
    if not text:
        raise ConfigError(f"{VARIABLE} is not set: start the run with --runs-on sagemaker.")
    try:
        return JobSettings.model_validate_json(text)
    except ValueError as error:
        raise ConfigError(f"{VARIABLE}: {error}") from None


def wanted(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this step is to compute on SageMaker."""
    return bool((os.environ if environment is None else environment).get(VARIABLE))


def run_of_step() -> str:
    """Id of the run that this step belongs to.

    Raises:
        ConfigError: The environment does not say it.
    """
    found = os.environ.get(JOBS_OF) or os.environ.get(RUN, "")
    if not found:
        raise ConfigError(
            f"{RUN} is not set: without the id of the run a step cannot find its job again."
        )
    return found
