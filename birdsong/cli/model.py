"""Which model a command works with: a bundle's folder, or a version of the registry."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birdsong.errors import ConfigError

if TYPE_CHECKING:
    from birdsong.registry import Version

BundleFolder = Annotated[
    Path | None,
    typer.Option("--bundle", help="Folder of a bundle, such as that in endpoint.json."),
]
"""`--bundle DIR`."""

Model = Annotated[
    str,
    typer.Option(
        metavar="NAME@VERSION",
        help="A registered model: a number, or an alias such as champion, after the @. NAME alone "
        "is its champion, or where it has none the newest registered version.",
    ),
]
"""`--model NAME@VERSION`."""

CHAMPION = "birdsong@champion"

Registry = Annotated[
    str,
    typer.Option(
        help="MLflow's address, sqlite:///FILE or http(s)://HOST; by default the file in the runs "
        "folder."
    ),
]
"""`--registry URI`."""

Runtime = Annotated[
    str,
    typer.Option(
        help="What computes the network: auto (the fastest one that is admitted for the model and "
        "can be used here), tensorflow, onnx, openvino-fp32, openvino-bf16 or openvino-int8."
    ),
]
"""`--runtime NAME`."""


def find(bundle: Path | None, model: str, registry: str, runs: Path) -> tuple[Path, str | None]:
    """The folder of a bundle, and its version where it comes from a registry.

    Args:
        bundle: A folder; None for the registry.
        model: NAME@VERSION or NAME.
        registry: MLflow's address; empty for the file in the runs folder.
        runs: Folder of all runs.

    Raises:
        ConfigError: There is no such version, or its name cannot be read.
    """
    if bundle is not None:
        return bundle, None
    from birdsong.registry import default_registry, fetch, list_versions

    name, _, which = model.partition("@")
    if not name:
        raise ConfigError(f"--model is {model!r}, expected NAME@VERSION or NAME.")
    address = registry or default_registry(runs)
    found, folder = fetch(name, which or _chosen(list_versions(name, address)), address)
    if found.status != "registered":
        typer.echo(f"{name} version {found.version} is {found.status}: {found.reason}", err=True)
    return Path(folder), str(found.version)


def _chosen(versions: "Sequence[Version]") -> str:
    """The champion's alias, else the number of the newest version that a gate has let in."""
    registered = [str(one.version) for one in versions if one.status == "registered"]
    if not registered or any("champion" in one.aliases for one in versions):
        return "champion"
    return registered[0]
