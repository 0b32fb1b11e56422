"""Settings of an endpoint that are needed less often: a JSON object in one parameter."""

import json
from typing import Literal, Self

from pydantic import Field, model_validator

from birdsong.config import Settings
from birdsong.errors import ConfigError


class EndpointOptions(Settings):
    """What an endpoint on SageMaker needs less often."""

    instances: int = Field(default=1, ge=1, le=100, description="Of a real-time endpoint")
    memory_mb: Literal[1024, 2048, 3072, 4096, 5120, 6144] = Field(
        default=4096, description="Of a serverless endpoint, MB"
    )
    concurrency: int = Field(
        default=5, ge=1, le=200, description="Most requests at once of a serverless endpoint"
    )
    alarms: tuple[str, ...] = Field(
        default=(), max_length=10, description="CloudWatch alarms that undo an update"
    )
    bake_minutes: int = Field(
        default=5, ge=0, le=60, description="With alarms: how long old machines stay, minutes"
    )
    kms_key: str = Field(default="", description="Key of the volumes; empty: AWS' own")
    subnets: tuple[str, ...] = Field(default=(), max_length=16, description="Private subnets")
    security_groups: tuple[str, ...] = Field(default=(), max_length=5, description="Of the VPC")
    capture_percent: int = Field(
        default=0, ge=0, le=100, description="Share of requests that SageMaker keeps in the bucket"
    )
    startup_minutes: int = Field(
        default=10, ge=1, le=60, description="Longest start of the container"
    )
    wait_minutes: int = Field(default=40, ge=1, le=240, description="Longest wait for a change")

    @classmethod
    def parse(cls, text: str) -> "EndpointOptions":
        """Read the JSON object.

        Raises:
            ConfigError: It is none, or a setting is unknown or out of its range.
        """
        try:
            given = json.loads(text or "{}")
        except ValueError as error:
            raise ConfigError(f"endpoint_options is no JSON ({error}).") from error
        if not isinstance(given, dict):
            raise ConfigError(f"endpoint_options is {text!r}, needs a JSON object.")
        try:
            return cls(**given)
        except ConfigError as error:
            raise ConfigError(f"endpoint_options: {error}") from None

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if bool(self.subnets) != bool(self.security_groups):
            raise ValueError("subnets and security_groups go together; give both or neither")
        return self
