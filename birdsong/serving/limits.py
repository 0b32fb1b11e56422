"""The limits of the server: settings with units, each a flag and an environment variable."""

import argparse
import json
from collections.abc import Mapping
from typing import Any, get_origin

from pydantic import Field, field_validator

from birdsong import audio
from birdsong.config import Settings
from birdsong.decoding import DecodeLimits
from birdsong.errors import ConfigError
from birdsong.workers import count_cores

PREFIX = "BIRDSONG_"
"""Of the environment variables: BIRDSONG_LARGEST_BYTES for --largest-bytes."""


class Limits(Settings):
    """What one request, and all of them together, may take."""

    largest_bytes: int = Field(
        default=64 * 2**20, ge=1024, description="Most bytes of a recording; beyond: 413"
    )
    longest_seconds: float = Field(
        default=86_400.0, gt=0, le=86_400, description="Most seconds of audio; beyond: 413"
    )
    most_channels: int = Field(
        default=audio.MOST_CHANNELS, ge=1, description="Most channels of a recording; beyond: 422"
    )
    lowest_rate: int = Field(
        default=audio.LOWEST_RATE, ge=1, description="Least samples per second; below: 422"
    )
    highest_rate: int = Field(
        default=audio.HIGHEST_RATE, ge=1, description="Most samples per second; beyond: 422"
    )
    decode_seconds: float = Field(
        default=120.0,
        gt=0,
        description="Longest that decoding a recording may take, seconds; beyond: 413",
    )
    decode_bytes: int = Field(
        default=256 * 2**20,
        ge=16 * 2**20,
        description="Most memory that decoding a recording may take, bytes; beyond: 413",
    )
    at_once: int = Field(
        default_factory=lambda: min(8, 2 * count_cores()),
        ge=1,
        le=64,
        description="Recordings that are decoded and scored at the same time",
    )
    queue: int = Field(
        default=64, ge=0, description="Recordings that may wait for their turn; beyond: 503"
    )
    held_bytes: int = Field(
        default=256 * 2**20,
        ge=1024,
        description="Most bytes of recordings that are held at the same time; beyond: 503",
    )
    connections: int = Field(
        default=2_000, ge=1, description="Most connections at the same time; beyond: 503"
    )
    header_seconds: float = Field(
        default=10.0, gt=0, description="Longest that a request's header may take; beyond: 408"
    )
    stall_seconds: float = Field(
        default=20.0,
        gt=0,
        description="Longest pause of a client inside its body (408) or in reading its answer",
    )
    body_seconds: float = Field(
        default=300.0, gt=0, description="Longest that a request's body may take; beyond: 408"
    )
    grace_seconds: float = Field(
        default=25.0,
        ge=1,
        description="Longest that requests which have begun may take when the server is stopped",
    )
    allow_uris: tuple[str, ...] = Field(
        default=(),
        description="Beginnings of s3:// and gs:// URIs that the server reads for its clients, "
        "with its own credentials; none: 403",
    )

    @field_validator("allow_uris", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("allow_uris")
    @classmethod
    def _bounded(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in value:
            scheme, found, rest = prefix.partition("://")
            if scheme not in ("s3", "gs") or not found or not rest.partition("/")[0]:
                raise ValueError(
                    f"{prefix!r} is not of the form s3://BUCKET/... or gs://BUCKET/..."
                )
        # s3://birds does not allow s3://birds-of-others.
        return tuple(p if "/" in p.partition("://")[2] else f"{p}/" for p in value)

    @property
    def bounds(self) -> audio.Bounds:
        """For the decoder."""
        return audio.Bounds(
            self.longest_seconds, self.most_channels, self.lowest_rate, self.highest_rate
        )

    @property
    def decoding(self) -> DecodeLimits:
        """For the decoder."""
        return DecodeLimits(decode_seconds=self.decode_seconds, decode_bytes=self.decode_bytes)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give a parser a flag for each limit; without it the environment counts, then the default."""
    group = parser.add_argument_group("limits", "each also as an environment variable, see above")
    for name, field in Limits.model_fields.items():
        listed = get_origin(field.annotation) is tuple
        group.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"limit_{name}",
            action="append" if listed else "store",
            metavar="URI" if listed else (field.annotation or float).__name__.upper(),
            help=f"{field.description} (default: "
            f"{_shown(field.get_default(call_default_factory=True))}; {PREFIX}{name.upper()})",
        )


def from_flags(given: argparse.Namespace, environment: Mapping[str, str]) -> Limits:
    """The limits as flags and environment say.

    Raises:
        ConfigError: One is no number, or out of its range.
    """
    values: dict[str, Any] = {}
    for name in Limits.model_fields:
        flag = getattr(given, f"limit_{name}", None)
        value = environment.get(f"{PREFIX}{name.upper()}") if flag is None else flag
        if value not in (None, ""):
            values[name] = ",".join(value) if isinstance(value, list) else value
    try:
        return Limits(**values)
    except ConfigError as error:
        raise ConfigError(f"Limits: {error}. See --help for units and defaults.") from None


def _shown(value: Any) -> str:
    return "none" if value == () else json.dumps(value)
