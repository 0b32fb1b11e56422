"""The bundle: all that travels with a model, as one folder whose `bundle.json` holds the hashes.

It is the unit that register stores, deploy checks and the server loads:

    bundle.json          hashes of every other file, and of the data behind the model
    model/               the model artifact: settings, weights, the network for each runtime
    classes.json         species in the order of the scores, with their names
    thresholds.json      above which score a species counts as heard, for the reference, TensorFlow
    calibration.json     from scores to probabilities, for the reference
    runtimes.json        which other runtimes may be served, how they compare, and their tolerance
    runtimes/NAME/       thresholds.json and calibration.json fitted on the scores of that runtime
    metrics.json         figures on the test recordings, with intervals
    test_scores.parquet  each test recording's scores, for the comparison with a later model
    golden/              recordings with their stored scores, to check what is served
    model_card.md        the same in words

Nothing here imports TensorFlow, pandas or MLflow: the server starts with it.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsong import artifacts, model_card, runtimes
from birdsong.calibration import Calibration, from_json
from birdsong.config import FeatureConfig
from birdsong.errors import ConfigError, DataError

BUNDLE = "bundle.json"
SCHEMA_VERSION = 2
MODEL, CLASSES, THRESHOLDS = "model", "classes.json", "thresholds.json"
CALIBRATION, METRICS, TEST_SCORES = "calibration.json", "metrics.json", "test_scores.parquet"
GOLDEN, RUNTIMES, MODEL_CARD = "golden", "runtimes", "model_card.md"


@dataclass(frozen=True)
class Species:
    """One column of the scores.

    Attributes:
        code: eBird code.
        scientific_name: As in the metadata; empty where it had none.
        common_name: As in the metadata; empty where it had none.
        threshold: A score above it counts as heard; None: the species is never reported.
    """

    code: str
    scientific_name: str
    common_name: str
    threshold: float | None


@dataclass(frozen=True)
class Bundle:
    """A bundle as the server needs it.

    Attributes:
        path: Its folder.
        name: The model's name in the registry.
        sha256: Hash of `bundle.json`, and so of everything in the bundle.
        species: In the order of the scores, with the thresholds for the runtime's scores.
        calibration: From the runtime's scores to probabilities.
        features: How recordings become windows.
        runtime: Whose scores thresholds and calibration are for.
    """

    path: Path
    name: str
    sha256: str
    species: tuple[Species, ...]
    calibration: Calibration
    features: FeatureConfig
    runtime: str = runtimes.REFERENCE

    @property
    def model(self) -> Path:
        """The folder that `birdsong.scoring.Scorer` loads."""
        return self.path / MODEL

    @property
    def codes(self) -> list[str]:
        """eBird codes in the order of the scores."""
        return [species.code for species in self.species]


def write_bundle(
    folder: str | Path,
    model: str | Path,
    thresholds: str | Path,
    evaluation: str | Path,
    name: str = "birdsong",
) -> str:
    """Copy what a model needs to be served and judged into one folder.

    The folder depends on its inputs alone: made twice, it has the same hash.

    Args:
        folder: Where it shall stand; must not exist. Half a folder is left where this fails, so
            call it inside `artifacts.create`.
        model: Output of train.
        thresholds: Thresholds of evaluate_threshold.
        evaluation: Evaluation of evaluate_threshold.
        name: The model's name in the registry.

    Returns:
        The bundle's SHA-256.

    Raises:
        DataError: An input is incomplete or damaged, or the thresholds or the evaluation belong
            to another model.
    """
    places = {"model": Path(model), "thresholds": Path(thresholds), "evaluation": Path(evaluation)}
    specs = {kind: artifacts.read_spec(place, kind) for kind, place in places.items()}
    for kind, spec in specs.items():
        for behind in specs.keys() & spec.inputs.keys():
            if spec.inputs[behind] != specs[behind].sha256:
                raise DataError(
                    f"{places[kind]} was made with another {behind} than {places[behind]} (hash "
                    f"{spec.inputs[behind][:12]}, not {specs[behind].sha256[:12]}). "
                    "Run evaluate-threshold again for this model."
                )
    target = Path(folder)
    target.mkdir(parents=True)
    hashes: dict[str, dict[str, Any]] = {}
    for source, relative, expected in _files(places, specs):
        destination = target / relative
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, destination)
        except FileNotFoundError:
            raise DataError(f"{source} is missing. Run the step that makes it again.") from None
        sha256 = artifacts.file_sha256(destination)
        if expected is not None and sha256 != expected:
            raise DataError(
                f"{source} was changed after it was written. Run the step that makes it again."
            )
        hashes[relative] = {"sha256": sha256, "bytes": destination.stat().st_size}
    data = {kind: {"sha256": spec.sha256, "made_from": spec.inputs} for kind, spec in specs.items()}
    card = target / MODEL_CARD
    card.write_text(
        model_card.markdown(
            name=name,
            model=artifacts.read_json(target / MODEL / "model.json"),
            classes=artifacts.read_json(target / CLASSES),
            thresholds=artifacts.read_json(target / THRESHOLDS),
            calibration=artifacts.read_json(target / CALIBRATION),
            metrics=artifacts.read_json(target / METRICS),
            data=data,
            runtimes=runtimes.table(target),
        ),
        encoding="utf-8",
    )
    hashes[MODEL_CARD] = {"sha256": artifacts.file_sha256(card), "bytes": card.stat().st_size}
    artifacts.write_json(
        target / BUNDLE,
        {
            "version": SCHEMA_VERSION,
            "name": name,
            "data": data,
            "files": dict(sorted(hashes.items())),
        },
    )
    for runtime in runtimes.admitted(target):
        read_bundle(target, runtime)
    return bundle_sha256(target)


def _files(
    places: Mapping[str, Path], specs: Mapping[str, artifacts.Spec]
) -> Iterator[tuple[Path, str, str | None]]:
    """Source, name in the bundle and expected SHA-256 of each file."""
    for kind, place in places.items():
        for name, known in specs[kind].files.items():
            if kind == "model":
                yield place / name, f"{MODEL}/{name}", known["sha256"]
            elif name in (THRESHOLDS, CALIBRATION, METRICS, TEST_SCORES, runtimes.TABLE) or (
                name.startswith((f"{GOLDEN}/", f"{RUNTIMES}/"))
            ):
                yield place / name, name, known["sha256"]
    # The scorer reads the model folder like any artifact.
    yield places["model"] / artifacts.SPEC, f"{MODEL}/{artifacts.SPEC}", None
    yield (
        places["model"] / CLASSES,
        CLASSES,
        specs["model"].files.get(CLASSES, {}).get("sha256"),
    )


def bundle_sha256(path: str | Path) -> str:
    """The bundle's hash: of `bundle.json`, which holds the hashes of all other files."""
    manifest = _manifest(Path(path))
    return hashlib.sha256(
        json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / BUNDLE).read_text())
    except FileNotFoundError:
        raise DataError(
            f"{path} is not a bundle: it has no {BUNDLE}. Give the folder `bundle` of a "
            "registered version, for example runs/RUN/.../version/bundle."
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path / BUNDLE} cannot be read: {error}.") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DataError(f"{path / BUNDLE} is not a bundle's list of files.")
    if manifest.get("version") != SCHEMA_VERSION:
        raise DataError(
            f"{path} has layout version {manifest.get('version')}, this birdsong reads "
            f"{SCHEMA_VERSION}. Run the pipeline again from train, or serve it with the birdsong "
            "that made it."
        )
    return manifest


def verify_bundle(path: str | Path) -> None:
    """Check that every file of a bundle is there and unchanged.

    Raises:
        DataError: A file is missing or has other bytes; names the first one.
    """
    folder = Path(path)
    for name, expected in _manifest(folder)["files"].items():
        file = folder / name
        if not file.is_file():
            raise DataError(f"{folder} is damaged: {name} is missing. Fetch or register it again.")
        if artifacts.file_sha256(file) != expected["sha256"]:
            raise DataError(
                f"{folder} is damaged: {name} was changed after it was written. "
                "Fetch or register it again."
            )


def read_bundle(path: str | Path, runtime: str = runtimes.REFERENCE) -> Bundle:
    """Read a bundle's species, settings, and the thresholds and calibration for a runtime's scores.

    Args:
        path: The bundle's folder.
        runtime: Whose scores are to be judged: `Scorer.runtime` of what `scoring.load_scorer` gave.

    Raises:
        DataError: It is no bundle, or its parts do not fit together.
        ConfigError: The runtime is not admitted for this model.
    """
    folder = Path(path)
    manifest = _manifest(folder)
    runtimes.known(runtime)
    if runtime not in (allowed := runtimes.admitted(folder)):
        raise ConfigError(
            f"{folder} has no thresholds for runtime {runtime}; it has them for "
            f"{', '.join(allowed)}."
        )
    fitted = folder if runtime == runtimes.REFERENCE else folder / RUNTIMES / runtime
    classes = artifacts.read_json(folder / CLASSES)
    thresholds = artifacts.read_json(fitted / THRESHOLDS)
    calibration = artifacts.read_json(fitted / CALIBRATION)
    model = artifacts.read_json(folder / MODEL / "model.json")
    try:
        chosen = thresholds["species"]
        missing = [entry["code"] for entry in classes if entry["code"] not in chosen]
        if missing:
            raise DataError(
                f"{folder}: no threshold entry for {', '.join(missing[:5])}"
                f"{' and more' if len(missing) > 5 else ''}. Run evaluate-threshold again."
            )
        species = tuple(
            Species(
                code=entry["code"],
                scientific_name=entry.get("scientific_name") or "",
                common_name=entry.get("common_name") or "",
                threshold=_threshold(chosen[entry["code"]]["threshold"], entry["code"], folder),
            )
            for entry in classes
        )
        features = FeatureConfig(**model["features"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder}: its JSON files do not have the expected form ({error!r}). "
            "Register the model again."
        ) from error
    if not species:
        raise DataError(f"{folder}: {CLASSES} names no species.")
    return Bundle(
        path=folder,
        name=str(manifest.get("name") or "birdsong"),
        sha256=bundle_sha256(folder),
        species=species,
        calibration=from_json(calibration, str(fitted / CALIBRATION)),
        features=features,
        runtime=runtime,
    )


def _threshold(value: object, code: str, folder: Path) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{folder}: threshold {value!r} of {code} is not a number.")
    return float(value)
