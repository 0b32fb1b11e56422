"""MLflow's registry: versions in its database, the one that is offered carries the alias champion.

MLflow is imported in functions, since it costs about 5 s. Where the registry is a SQLite file, the
bundles lie in a folder beside it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from birdsong import artifacts, bundle, bundle_cache, cost, gates
from birdsong.errors import ConfigError, DataError
from birdsong.gates import Verdict
from birdsong.registry_place import Place, client
from birdsong.versions import CHAMPION, Made, Version

EXPERIMENT = "birdsong"


class MlflowShelf:
    """MLflow's registry as a shelf of versions."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._client = client(place)

    @property
    def uri(self) -> str:
        return self._place.uri

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

    def champion(self, name: str) -> Version | None:
        return next((one for one in self.versions(name) if CHAMPION in one.aliases), None)

    def get(self, name: str, number: str) -> Version:
        entry = self._client.get_model_version(name, number)
        return _version(entry, entry.aliases)

    def publish(self, name: str, made: Made, known: Version | None, verdict: Verdict) -> Version:
        if known is None:
            known = self.add(name, made, verdict.figures)
        # The alias before the status: after a death in between, the next attempt does both again.
        if verdict.accepted:
            self.point(name, CHAMPION, known.version)
        self.mark(known, "registered" if verdict.accepted else "rejected", verdict.reason)
        return self.get(name, str(known.version))

    def add(self, name: str, made: Made, figures: Mapping[str, float]) -> Version:
        """Store a bundle and make a version of it, not yet registered."""
        from mlflow.exceptions import MlflowException

        run = self._run(made.sha256)
        metrics = artifacts.read_json(made.folder / bundle.METRICS)
        told = {**gates.headline(metrics), **figures, **cost.figures(made.spent)}
        for key, value in told.items():
            self._client.log_metric(run.info.run_id, key, value)
        self._client.log_artifacts(run.info.run_id, str(made.folder), "bundle")
        # Beside the bundle, whose own card says nothing of the cost: it is in the bundle's hash.
        self._client.log_text(run.info.run_id, made.card, bundle.MODEL_CARD)
        self._client.set_terminated(run.info.run_id)
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        data = artifacts.read_json(made.folder / bundle.BUNDLE)["data"]
        tags = {f"{kind}_sha256": spec["sha256"] for kind, spec in data.items()}
        for spec in data.values():
            tags |= {f"{kind}_sha256": value for kind, value in spec["made_from"].items()}
        entry = self._client.create_model_version(
            name,
            source=f"{run.info.artifact_uri.rstrip('/')}/bundle",
            run_id=run.info.run_id,
            tags={**tags, "bundle_sha256": made.sha256, "status": "pending"},
            description=_described(made),
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
        def download(aside: Path) -> Path:
            run_id = self._client.get_model_version(version.name, str(version.version)).run_id
            return Path(self._client.download_artifacts(run_id, "bundle", str(aside)))

        return bundle_cache.folder(version.bundle_sha256, download)


def _described(made: Made) -> str:
    """What MLflow's page shows of a version: MLflow keeps 5,000 characters, a card has more."""
    return (
        f"{cost.markdown(made.spent)}\nWhat it is and how good it is: `{bundle.MODEL_CARD}` among "
        "the artifacts of this version's run.\n"
    )[:5000]


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
