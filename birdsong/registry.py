"""Stage: put the model into the registry, or refuse it with a reason.

The registry is MLflow's (`registry_mlflow`) or SageMaker's (`aws.registry`), behind the interface
of `versions`; both are imported where they are needed.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from birdsong import artifacts, bundle, cost, gates
from birdsong.config import RegisterConfig
from birdsong.errors import ConfigError
from birdsong.registry_place import Place, told
from birdsong.versions import CHAMPION, Made, Shelf, Version, look_up

__all__ = ["CHAMPION", "Version", "fetch", "fetch_bundle", "list_versions", "register"]

VERSION = "version.json"
SAGEMAKER = "sagemaker://"


def register(
    model_path: str | Path,
    thresholds_path: str | Path,
    evaluation_path: str | Path,
    version_path: str | Path,
    config: RegisterConfig,
    origin: str = "",
) -> dict[str, float]:
    """Put the model into the registry, or refuse it with a reason.

    A refused model becomes a version marked rejected, so that it can be looked at; the stage
    succeeds. The same bundle again is the same version, also after a death half-way.

    Args:
        model_path: Output of train.
        thresholds_path: Thresholds of evaluate_threshold.
        evaluation_path: Evaluation of evaluate_threshold.
        version_path: Where `version.json`, `bundle/` and `model_card.md` are written; the card is
            the bundle's with what it cost, which is in no hash of the bundle.
        config: Name, gate and registry.
        origin: Where the run keeps this output, for the lineage.

    Returns:
        The version's number, 1 or 0 for accepted, and the figures that the gate rests on.

    Raises:
        ConfigError: No registry is given, or its address is not understood.
        DataError: An input is incomplete or does not belong to this model.
        StorageError: The registry is locked, unreachable, unwritable or of another MLflow.
    """
    check_address(config.registry)
    inputs = {"model": model_path, "thresholds": thresholds_path, "evaluation": evaluation_path}
    with artifacts.create(version_path, kind="version", settings=config, inputs=inputs) as folder:
        place, spent = folder.path / "bundle", cost.read(model_path)
        sha256 = bundle.write_bundle(
            place, model_path, thresholds_path, evaluation_path, config.model_name
        )
        about = (place / bundle.MODEL_CARD).read_text(encoding="utf-8")
        card = f"{about}\n{cost.markdown(spent)}"
        (folder.path / bundle.MODEL_CARD).write_text(card, encoding="utf-8")
        with opened(config.registry, config, origin) as shelf:
            version, figures = _publish(shelf, Made(place, sha256, card, spent), config)
            address = shelf.uri
        artifacts.write_json(
            folder.path / VERSION,
            {
                "name": version.name,
                "version": version.version,
                "status": version.status,
                "reason": version.reason,
                "registry": address,
                "uri": version.uri,
                "bundle_sha256": version.bundle_sha256,
                "arn": version.arn,
                "approval": version.approval,
            },
        )
    accepted = version.status == "registered"
    state = f"{version.status}, {version.approval}" if version.approval else version.status
    print(f"{version.name} version {version.version} is {state}. {version.reason}")
    return {"version": float(version.version), "accepted": float(accepted), **figures}


def _publish(shelf: Shelf, made: Made, config: RegisterConfig) -> tuple[Version, dict[str, float]]:
    """Find or make the version of a bundle, and let it carry the alias where it is accepted."""
    name = config.model_name
    known = shelf.find(name, made.sha256)
    if known is not None and known.status == "registered":
        print(f"This bundle is already version {known.version}; nothing is changed.")
        return known, {}
    champion = None
    if config.gate == "champion" and (carrier := shelf.champion(name)) is not None:
        champion = shelf.fetch(carrier)
    verdict = gates.judge(config.gate, made.folder, champion, config.seed)
    return shelf.publish(name, made, known, verdict), verdict.figures


def check_address(registry: str) -> None:
    """Refuse what is no address of a registry.

    Raises:
        ConfigError: It is empty or of a kind that is not supported.
    """
    if registry.strip().startswith(SAGEMAKER):
        from birdsong.aws.registry_place import BucketPlace

        BucketPlace.parse(registry)
    else:
        Place.parse(registry)


@contextlib.contextmanager
def opened(
    registry: str, config: RegisterConfig | None = None, origin: str = ""
) -> Iterator[Shelf]:
    """Work with a registry; errors of its SDK become ours.

    Args:
        registry: Its address.
        config: Of register; None to read only.
        origin: Where the run keeps its output, for the lineage.
    """
    if registry.strip().startswith(SAGEMAKER):
        from birdsong.aws.calls import told as told_by_aws
        from birdsong.aws.registry import PackageShelf
        from birdsong.aws.registry_place import BucketPlace

        with told_by_aws(f"The registry {registry}"):
            yield PackageShelf(BucketPlace.parse(registry), config or RegisterConfig(), origin)
        return
    from birdsong.registry_mlflow import MlflowShelf

    place = Place.parse(registry)
    with place.locked(), told(place):
        yield MlflowShelf(place)


def default_registry(runs: str | Path) -> str:
    """The registry of a folder of runs: a SQLite file in it."""
    return f"sqlite:///{Path(runs).resolve() / 'registry' / 'mlflow.db'}"


def list_versions(name: str, registry: str) -> list[Version]:
    """The versions of a model, the newest first; none where the name is unknown.

    Raises:
        ConfigError: The address is not understood.
        StorageError: The registry cannot be read.
    """
    if not _exists(registry):
        return []
    with opened(registry) as shelf:
        return shelf.versions(name)


def _exists(registry: str) -> bool:
    """False for a SQLite file that is not there yet."""
    return registry.strip().startswith(SAGEMAKER) or Place.parse(registry).exists


def fetch_bundle(name: str, version_or_alias: str | int, registry: str) -> Path:
    """Get the bundle of a version.

    Args:
        name: The model's name.
        version_or_alias: A number, or an alias such as champion.
        registry: Its address.

    Returns:
        The bundle's folder, verified: in the registry itself where that is a file, else in a
        cache under the user's cache folder.

    Raises:
        ConfigError: There is no such model or version.
        StorageError: The registry cannot be read.
        DataError: The bundle is damaged.
    """
    return fetch(name, version_or_alias, registry)[1]


def fetch(name: str, version_or_alias: str | int, registry: str) -> tuple[Version, Path]:
    """As `fetch_bundle`, with the version that was found."""
    if not _exists(registry):
        raise ConfigError(
            f"There is no registry at {Place.parse(registry).uri}. Run `python pipeline.py run` "
            "first, or say where it is by --registry or --runs."
        )
    with opened(registry) as shelf:
        found = look_up(shelf, name, str(version_or_alias))
        return found, shelf.fetch(found)
