"""Versions of a model, and what a registry does with them: one interface for all registries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from birdsong.cost import Part
from birdsong.errors import ConfigError
from birdsong.gates import Verdict

CHAMPION = "champion"


@dataclass(frozen=True)
class Version:
    """A version of a model in the registry.

    Attributes:
        name: The model's name.
        version: Its number, from 1.
        status: registered, rejected, or pending while it is being made.
        reason: What the gate said.
        uri: Where its bundle is stored.
        bundle_sha256: The bundle's hash.
        aliases: Names that point to it, such as champion.
        created: Seconds since 1970.
        arn: Of its model package; empty where there is no SageMaker.
        approval: SageMaker's approval state; empty where there is none.
    """

    name: str
    version: int
    status: str
    reason: str
    uri: str
    bundle_sha256: str
    aliases: tuple[str, ...]
    created: float
    arn: str = ""
    approval: str = ""


@dataclass(frozen=True)
class Made:
    """A bundle that is to become a version.

    Attributes:
        folder: The bundle.
        sha256: Its hash.
        card: The version's model card, Markdown: the bundle's, and what it cost.
        spent: What tune and train cost.
    """

    folder: Path
    sha256: str
    card: str
    spent: Sequence[Part]


class Shelf(Protocol):
    """A registry as birdsong uses it.

    Attributes:
        uri: Its address.
    """

    @property
    def uri(self) -> str: ...

    def versions(self, name: str) -> list[Version]:
        """The versions of a model, the newest first; none where the name is unknown."""

    def find(self, name: str, sha256: str) -> Version | None:
        """The version of a bundle."""

    def champion(self, name: str) -> Version | None:
        """The version that new ones are compared with."""

    def get(self, name: str, number: str) -> Version:
        """One version, with all that is known of it."""

    def publish(self, name: str, made: Made, known: Version | None, verdict: Verdict) -> Version:
        """Store a bundle as a version, or judge the known one again; the same twice is no harm."""

    def fetch(self, version: Version) -> Path:
        """The bundle's folder, verified."""


def look_up(shelf: Shelf, name: str, which: str) -> Version:
    """The version with this number or alias.

    Raises:
        ConfigError: There is none; it lists what there is.
    """
    versions = shelf.versions(name)
    for version in versions:
        if which in (str(version.version), *version.aliases):
            return version
    if not versions:
        raise ConfigError(f"The registry {shelf.uri} has no model named {name!r}.")
    known = ", ".join(
        f"{version.version} ({', '.join((version.status, *version.aliases))})"
        for version in versions[:10]
    )
    what = f"version {which}" if which.isdigit() else f"version with the alias {which!r}"
    raise ConfigError(f"{name} has no {what}. There are: {known}.")
