"""What the container of a step gets to see: folders, environment, credentials.

Folders are mounted under their own paths, so that records and artifacts name the same places in
every runner. Credentials go only into steps that talk to what they are for; nothing of it is
written into a record.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from birdsong.errors import ConfigError

HOME = Path("/tmp")  # noqa: S108  # the one writable place in an image
"""Home of whoever runs in an image, see docker/Dockerfile."""

READS = {
    "data": ("source", "no_call_source"),
    "train": ("weights", "registry"),
    "cloud": ("registry", "target"),
}
"""Image target to the parameters that name what its stages talk to."""

_PROXY = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_AWS_FILES = (
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CA_BUNDLE",
)
_GCP = ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "STORAGE_EMULATOR_HOST")


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine in a container.

    Attributes:
        source: Here.
        target: There.
        writable: Whether the step may change it.
    """

    source: Path
    target: Path
    writable: bool = False


def mounts(values: Mapping[str, Any], runs: Path) -> list[Mount]:
    """Folders that all steps of a run see.

    Args:
        values: Value of each parameter of the pipeline.
        runs: Folder of all runs; the one that is writable, beside a registry that lies elsewhere.
    """
    here = runs.absolute()
    found = {here: Mount(here, here, writable=True)}
    for name in ("source", "no_call_source", "weights", "frame_labels"):
        place = _local(str(values.get(name) or ""))
        if place is not None and name == "frame_labels":
            place = place.parent  # where its recordings are
        if place is not None and here not in (place, *place.parents):
            found[place] = Mount(place, place)
    registry = str(values.get("registry") or "")
    if registry.startswith("sqlite:///"):
        folder = Path(registry.removeprefix("sqlite:///")).expanduser().absolute().parent
        if here not in (folder, *folder.parents):
            folder.mkdir(parents=True, exist_ok=True)
            found[folder] = Mount(folder, folder, writable=True)
    return list(found.values())


def _local(text: str) -> Path | None:
    plain = text.removeprefix("file://")
    if not plain or "://" in plain or plain.startswith(("demo:", "models:/")):
        return None
    place = Path(plain).expanduser().absolute()
    return place if place.exists() else None


def refuse_links(values: Mapping[str, Any]) -> None:
    """Refuse a source with links to places that a container does not see.

    Raises:
        ConfigError: Names the first one.
    """
    for name in ("source", "no_call_source"):
        source = _local(str(values.get(name) or ""))
        if source is not None and source.is_dir():
            _refuse_links_in(name, source)


def _refuse_links_in(parameter: str, source: Path) -> None:
    for folder, folders, files in os.walk(source):
        for name in (*folders, *files):
            place = Path(folder, name)
            if place.is_symlink() and source.resolve() not in place.resolve().parents:
                raise ConfigError(
                    f"{parameter}: {place} is a link to {place.resolve()}, outside of the folder, "
                    "which a container would not see. Give the folder that holds both, copy the "
                    "files, or take --runner subprocess."
                )


def needs(target: str | None, values: Mapping[str, Any]) -> set[str]:
    """What a step talks to: of "aws", "gcp", "mlflow", "web".

    Args:
        target: Image target; None for a foreign image, which may read any parameter.
        values: Value of each parameter of the pipeline.
    """
    names = READS.get(target, ()) if target else tuple(values)
    found = set()
    for name in names:
        text = str(values.get(name) or "")
        if text.startswith(("s3://", "sagemaker://")) or (name, text) == ("target", "sagemaker"):
            found |= {"aws", "web"}
        if text.startswith("gs://"):
            found |= {"gcp", "web"}
        if name == "registry" and text.startswith(("http://", "https://")):
            # Its artifacts may lie in a bucket that the client writes to itself.
            found |= {"mlflow", "aws", "gcp", "web"}
        if name == "weights" and (text == "imagenet" or text.startswith(("http://", "https://"))):
            found.add("web")
    return found


def credentials(
    wanted: set[str], environment: Mapping[str, str], home: Path
) -> tuple[dict[str, str], list[Mount]]:
    """Variables and files for what a step talks to, from those of the caller.

    Args:
        wanted: From `needs`.
        environment: Of the caller.
        home: The caller's.

    Returns:
        Variables, and files to mount read-only.
    """
    names: list[str] = []
    files: list[Mount] = []
    if "web" in wanted:
        names += [name for name in (*_PROXY, *_CERTIFICATES) if environment.get(name)]
        files += _named(_CERTIFICATES, environment)
    if "aws" in wanted:
        names += [name for name in environment if name.startswith("AWS_")]
        files += _named(_AWS_FILES, environment)
        if (home / ".aws").is_dir():
            files.append(Mount(home / ".aws", HOME / ".aws"))
    if "gcp" in wanted:
        names += [name for name in _GCP if environment.get(name)]
        files += _named(_GCP[:1], environment)
        default = Path(".config/gcloud/application_default_credentials.json")
        if (home / default).is_file():
            files.append(Mount(home / default, HOME / default))
    if "mlflow" in wanted:
        names += [name for name in environment if name.startswith("MLFLOW_TRACKING_")]
    return {name: environment[name] for name in names}, list(dict.fromkeys(files))


def _named(variables: tuple[str, ...], environment: Mapping[str, str]) -> list[Mount]:
    places = [Path(environment[name]).absolute() for name in variables if environment.get(name)]
    return [Mount(place, place) for place in places if place.exists()]


def refuse_loopback(
    values: Mapping[str, Any], network: str, environment: Mapping[str, str]
) -> None:
    """Refuse services of this machine's loopback, which a container's own would stand for.

    Raises:
        ConfigError: Names the address and the way around.
    """
    if network == "host":
        return
    addresses = {"registry": str(values.get("registry") or "")}
    wanted = set().union(*(needs(target, values) for target in READS))
    if "aws" in wanted:
        addresses |= {n: v for n, v in environment.items() if n.startswith("AWS_ENDPOINT_URL")}
    if "gcp" in wanted:
        addresses["STORAGE_EMULATOR_HOST"] = environment.get("STORAGE_EMULATOR_HOST", "")
    for name, address in addresses.items():
        host = urlsplit(address if "//" in address else f"//{address}").hostname or ""
        if host == "localhost" or host.startswith("127.") or host == "::1":
            raise ConfigError(
                f"{name} is {address}: inside of a container that is the container itself. Give "
                "an address that containers reach, or set BIRDSONG_DOCKER_NETWORK=host (Linux)."
            )
