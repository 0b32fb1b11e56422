"""Stage: put the model into the registry, or refuse it with a reason.

MLflow keeps the versions; it is imported here and in `registry_place`, in functions, since it costs
about 5 s. Where the registry is a SQLite file, the bundles lie in a folder beside it.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from birdsong import artifacts, bundle, gates
from birdsong.config import RegisterConfig
from birdsong.errors import ConfigError, DataError
from birdsong.registry_place import Place, client, told

CHAMPION = "champion"
EXPERIMENT = "birdsong"
VERSION = "version.json"


@dataclass(frozen=True)
class Version:
    """A version of a model in the registry.

    Attributes:
        name: The model's name.
        version: Its number, from 1.
        status: registered or rejected.
        reason: What the gate said.
        uri: Where its bundle is stored.
        bundle_sha256: The bundle's hash.
        aliases: Names that point to it, such as champion.
        created: Seconds since 1970.
    """

    name: str
    version: int
    status: str
    reason: str
    uri: str
    bundle_sha256: str
    aliases: tuple[str, ...]
    created: float


def register(
    model_path: str | Path,
    thresholds_path: str | Path,
    evaluation_path: str | Path,
    version_path: str | Path,
    config: RegisterConfig,
) -> dict[str, float]:
    """Put the model into the registry, or refuse it with a reason.

    A refused model becomes a version marked rejected, so that it can be looked at; the stage
    succeeds. The same bundle again is the same version, also after a death half-way.

    Args:
        model_path: Output of train.
        thresholds_path: Thresholds of evaluate_threshold.
        evaluation_path: Evaluation of evaluate_threshold.
        version_path: Where `version.json` and `bundle/` are written.
        config: Name, gate and registry.

    Returns:
        The version's number, 1 or 0 for accepted, and the figures that the gate rests on.

    Raises:
        ConfigError: No registry is given, or its address is not understood.
        DataError: An input is incomplete or does not belong to this model.
        StorageError: The registry is locked, unreachable, unwritable or of another MLflow.
    """
    place = Place.parse(config.registry)
    inputs = {"model": model_path, "thresholds": thresholds_path, "evaluation": evaluation_path}
    with artifacts.create(version_path, kind="version", settings=config, inputs=inputs) as folder:
        made = folder.path / "bundle"
        sha256 = bundle.write_bundle(
            made, model_path, thresholds_path, evaluation_path, config.model_name
        )
        with place.locked(), told(place):
            shelf = _Shelf(place)
            version, figures = _publish(shelf, made, sha256, config)
        artifacts.write_json(
            folder.path / VERSION,
            {
                "name": version.name,
                "version": version.version,
                "status": version.status,
                "reason": version.reason,
                "registry": place.uri,
                "uri": version.uri,
                "bundle_sha256": version.bundle_sha256,
            },
        )
    accepted = version.status == "registered"
    print(f"{version.name} version {version.version} is {version.status}. {version.reason}")
    return {"version": float(version.version), "accepted": float(accepted), **figures}


def _publish(
    shelf: "_Shelf", made: Path, sha256: str, config: RegisterConfig
) -> tuple[Version, dict[str, float]]:
    """Find or make the version of a bundle, and let it carry the alias where it is accepted."""
    name = config.model_name
    known = shelf.find(name, sha256)
    if known is not None and known.status == "registered":
        print(f"This bundle is already version {known.version}; nothing is changed.")
        return known, {}
    champion = None
    if config.gate == "champion" and (carrier := shelf.by_alias(name, CHAMPION)) is not None:
        champion = shelf.fetch(carrier)
    verdict = gates.judge(config.gate, made, champion, config.seed)
    if known is None:
        known = shelf.add(name, sha256, made, verdict.figures)
    # The alias before the status: after a death in between, the next attempt does both again.
    if verdict.accepted:
        shelf.point(name, CHAMPION, known.version)
    shelf.mark(known, "registered" if verdict.accepted else "rejected", verdict.reason)
    return shelf.get(name, str(known.version)), verdict.figures


def default_registry(runs: str | Path) -> str:
    """The registry of a folder of runs: a SQLite file in it."""
    return f"sqlite:///{Path(runs).resolve() / 'registry' / 'mlflow.db'}"


def list_versions(name: str, registry: str) -> list[Version]:
    """The versions of a model, the newest first; none where the name is unknown.

    Raises:
        ConfigError: The address is not understood.
        StorageError: The registry cannot be read.
    """
    place = Place.parse(registry)
    if not place.exists:
        return []
    with place.locked(), told(place):
        return _Shelf(place).versions(name)


def fetch_bundle(name: str, version_or_alias: str | int, registry: str) -> Path:
    """Get the bundle of a version.

    Args:
        name: The model's name.
        version_or_alias: A number, or an alias such as champion.
        registry: MLflow's address.

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
    place = Place.parse(registry)
    if not place.exists:
        raise ConfigError(
            f"There is no registry at {place.uri}. Run `python pipeline.py run` first, or say "
            "where it is by --registry or --runs."
        )
    with place.locked(), told(place):
        shelf = _Shelf(place)
        found = shelf.look_up(name, str(version_or_alias))
        return found, shelf.fetch(found)


class _Shelf:
    """MLflow's registry as birdsong uses it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._client = client(place)

    def versions(self, name: str) -> list[Version]:
        from mlflow.exceptions import MlflowException

        try:
            # A listing of versions does not tell their aliases.
            carried: dict[int, list[str]] = {}
            for alias, number in self._client.get_registered_model(name).aliases.items():
                carried.setdefault(int(number), []).append(alias)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return []
            raise
        found, token = [], None
        while True:
            page = self._client.search_model_versions(
                f"name='{name}'", max_results=1000, page_token=token
            )
            found += [_version(entry, carried.get(int(entry.version), [])) for entry in page]
            token = page.token
            if not token:
                return sorted(found, key=lambda version: -version.version)

    def find(self, name: str, sha256: str) -> Version | None:
        """The first version of a bundle."""
        same = [version for version in self.versions(name) if version.bundle_sha256 == sha256]
        return same[-1] if same else None

    def by_alias(self, name: str, alias: str) -> Version | None:
        return next((one for one in self.versions(name) if alias in one.aliases), None)

    def get(self, name: str, number: str) -> Version:
        entry = self._client.get_model_version(name, number)
        return _version(entry, entry.aliases)

    def look_up(self, name: str, which: str) -> Version:
        """The version with this number or alias, or an error that lists what there is."""
        versions = self.versions(name)
        for version in versions:
            if which in (str(version.version), *version.aliases):
                return version
        if not versions:
            raise ConfigError(f"The registry {self._place.uri} has no model named {name!r}.")
        known = ", ".join(
            f"{version.version} ({', '.join((version.status, *version.aliases))})"
            for version in versions[:10]
        )
        what = f"version {which}" if which.isdigit() else f"version with the alias {which!r}"
        raise ConfigError(f"{name} has no {what}. There are: {known}.")

    def add(self, name: str, sha256: str, made: Path, figures: Mapping[str, float]) -> Version:
        """Store a bundle and make a version of it, not yet registered."""
        from mlflow.exceptions import MlflowException

        run = self._run(sha256)
        metrics = artifacts.read_json(made / bundle.METRICS)
        for key, value in {**gates.headline(metrics), **figures}.items():
            self._client.log_metric(run.info.run_id, key, value)
        self._client.log_artifacts(run.info.run_id, str(made), "bundle")
        self._client.set_terminated(run.info.run_id)
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        data = artifacts.read_json(made / bundle.BUNDLE)["data"]
        tags = {f"{kind}_sha256": spec["sha256"] for kind, spec in data.items()}
        for spec in data.values():
            tags |= {f"{kind}_sha256": value for kind, value in spec["made_from"].items()}
        entry = self._client.create_model_version(
            name,
            source=f"{run.info.artifact_uri.rstrip('/')}/bundle",
            run_id=run.info.run_id,
            tags={**tags, "bundle_sha256": sha256, "status": "pending"},
        )
        return _version(entry, [])

    def _run(self, sha256: str) -> Any:
        """MLflow's run that holds a bundle; the one that a dead attempt left is used again."""
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            store = self._place.store
            identity = self._client.create_experiment(
                EXPERIMENT, artifact_location=None if store is None else store.as_uri()
            )
            experiment = self._client.get_experiment(identity)
        if self._place.file is None and urlsplit(experiment.artifact_location).scheme in (
            "",
            "file",
        ):
            raise ConfigError(
                f"The MLflow server {self._place.uri} keeps artifacts in "
                f"{experiment.artifact_location}, a folder on its own machine. Start it with "
                "--serve-artifacts (and delete its experiment "
                f"{EXPERIMENT!r}), or with an s3:// or gs:// artifact root."
            )
        left = self._client.search_runs(
            [experiment.experiment_id], f"tags.bundle_sha256 = '{sha256}'", max_results=1
        )
        if left:
            return left[0]
        return self._client.create_run(
            experiment.experiment_id, tags={"bundle_sha256": sha256, "mlflow.user": "birdsong"}
        )

    def point(self, name: str, alias: str, number: int) -> None:
        self._client.set_registered_model_alias(name, alias, str(number))

    def mark(self, version: Version, status: str, reason: str) -> None:
        number = str(version.version)
        self._client.set_model_version_tag(version.name, number, "reason", reason)
        self._client.set_model_version_tag(version.name, number, "status", status)

    def fetch(self, version: Version) -> Path:
        """The bundle's folder, verified."""
        served = self._place.file is None
        folder = self._cached(version) if served else self._local(version)
        bundle.verify_bundle(folder)
        if bundle.bundle_sha256(folder) != version.bundle_sha256:
            raise DataError(
                f"{folder} is not the bundle that {version.name} version {version.version} was "
                "registered with. Register the model again."
            )
        return folder

    def _local(self, version: Version) -> Path:
        folder = Path(unquote(urlsplit(version.uri).path))
        store = self._place.store
        if not folder.is_dir() and store is not None:
            # The folder of runs was moved: the same path under the store's new place.
            folder = store.joinpath(*folder.parts[-3:])
        return folder

    def _cached(self, version: Version) -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "birdsong" / "bundles" / version.bundle_sha256
        if folder.is_dir():
            return folder
        run_id = self._client.get_model_version(version.name, str(version.version)).run_id
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = folder.with_name(f".{folder.name}.{os.getpid()}.writing")
        aside.mkdir()
        try:
            came = Path(self._client.download_artifacts(run_id, "bundle", str(aside)))
            with contextlib.suppress(FileExistsError):
                came.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return folder


def _version(entry: Any, aliases: list[str]) -> Version:
    tags = entry.tags or {}
    return Version(
        name=entry.name,
        version=int(entry.version),
        status=tags.get("status", "unknown"),
        reason=tags.get("reason", ""),
        uri=entry.source,
        bundle_sha256=tags.get("bundle_sha256", ""),
        aliases=tuple(sorted(aliases)),
        created=entry.creation_timestamp / 1000,
    )
