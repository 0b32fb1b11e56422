"""Finished steps of earlier runs that stand for a step: by key, and only if still whole.

The key of a step is a hash over all that its outputs depend on: the component, its code (see
`birdsong.image_code`), the installed packages, the plain values, the contents of the input
artifacts, and what a place outside holds where an input names one. A step whose key cannot be told
has none and always runs.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsong import artifacts, image_code
from birdsong.aws.settings import VARIABLE, of_step
from birdsong.errors import BirdsongError, StorageError
from birdsong.runs import outside, record
from birdsong.runs.record import USABLE, Run, Step

Ir = Mapping[str, Any]
Outputs = Mapping[str, Mapping[str, Any]]

NO_FILE = {"system.Metrics", "system.ClassificationMetrics", "system.SlicedClassificationMetrics"}
"""Artifacts that live in their metadata; a step need not write a file for them."""

LOCK = ".lock"
"""In the runs folder: shared while a run takes outputs of another, exclusive while gc looks."""

_VERSION = 2  # of the key
_WORKSPACE = "{{$.workspace_path}}"


@dataclass(frozen=True)
class Finished:
    """A finished step.

    Attributes:
        outputs: As recorded.
        run: Id of the run that executed it.
        key: Its key, None where it has none.
        code: Fingerprint of the code that it ran.
    """

    outputs: Outputs
    run: str
    key: str | None = None
    code: str = ""


def finished(run: Run, step: str) -> Finished | None:
    """The finished step of a run; None where it did not finish."""
    entry = run.steps.get(step)
    if entry is None or entry.state not in USABLE:
        return None
    return Finished(entry.outputs, entry.reused_from or run.id, entry.key, entry.code)


# --- the contents of inputs and outputs ---------------------------------------------------------


def is_here(uri: str) -> bool:
    """Whether an artifact lies in this machine's files."""
    return "://" not in uri


def with_hash(value: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded value with its content's hash: of an artifact folder from its spec, of a file
    from its bytes, of another folder from its files; without one where there is nothing here.
    """
    if "items" in value:
        return {**value, "items": [with_hash(item) for item in value["items"]]}
    path = value.get("path")
    if not path or not is_here(value["uri"]):
        return dict(value)
    place = Path(path)
    if place.is_file():
        return {**value, "sha256": artifacts.file_sha256(place)}
    if (place / artifacts.SPEC).is_file():
        with contextlib.suppress(BirdsongError):
            return {**value, "sha256": artifacts.read_spec(place).sha256}
    elif place.is_dir():
        return {**value, "sha256": _folder_sha256(place)}
    return dict(value)


def _folder_sha256(folder: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            name = file.relative_to(folder).as_posix()
            total.update(f"{name}\0{artifacts.file_sha256(file)}\0".encode())
    return total.hexdigest()


def absent(outputs: Outputs) -> str | None:
    """Name of a recorded output that is not there, without a look into it."""
    for name, value in sorted(outputs.items()):
        for item in value.get("items", [value]):
            if "sha256" in item and not Path(item["path"]).exists():
                return name
    return None


def damage(outputs: Outputs) -> str | None:
    """What is wrong with recorded outputs, as a clause; None where all are there and whole."""
    for name, value in sorted(outputs.items()):
        for item in value.get("items", [value]):
            wrong = _damage(name, item)
            if wrong:
                return wrong
    return None


def _damage(name: str, value: Mapping[str, Any]) -> str | None:
    if "uri" not in value:
        return None
    if not is_here(value["uri"]):
        return f"{name} is not on this machine"
    place = Path(value["path"])
    expected = value.get("sha256")
    if expected is None:
        return None if value["type"] in NO_FILE else f"{name} has no recorded hash"
    if not place.exists():
        return f"{name} is gone"
    try:
        if place.is_dir() and (place / artifacts.SPEC).is_file():
            spec = artifacts.read_spec(place)
            whole = spec.sha256 == expected and all(
                (place / file).is_file() and (place / file).stat().st_size == known["bytes"]
                for file, known in spec.files.items()
            )
            if whole:
                artifacts.verify(place)  # bytes, after the cheap look at the sizes
        else:
            whole = with_hash(value).get("sha256") == expected
    except (BirdsongError, OSError):
        whole = False
    return None if whole else f"{name} was changed or damaged"


# --- keys ---------------------------------------------------------------------------------------


class Keys:
    """Computes the keys of the steps of one pipeline."""

    def __init__(
        self, ir: Ir, versions: Mapping[str, str], images: Mapping[str, str] | None = None
    ) -> None:
        """Read the pipeline.

        Args:
            ir: The compiled pipeline.
            versions: Of the installed packages.
            images: Where steps run in containers: image to the fingerprint of the code in it.
        """
        self._ir, self._versions, self._images = ir, dict(versions), dict(images or {})
        self._never = set(_never_reused(ir))

    def code(self, component: str) -> str:
        """Fingerprint of the code of a component: of its image, or of its own source."""
        image = self.image(component)
        if image in self._images:
            return self._images[image]
        target = image_code.target_of(image)
        if target is not None:
            return image_code.fingerprint(target)
        command = self._container(component).get("command") or [""]
        try:
            return image_code.source_fingerprint(str(command[-1]))
        except SyntaxError:
            return ""

    def key(self, component: str, inputs: Mapping[str, Mapping[str, Any]]) -> str | None:
        """The key of a step; None where it must run.

        Args:
            component: Its name in the compiled pipeline.
            inputs: As recorded, artifacts with their hashes.
        """
        code = self.code(component)
        if component in self._never or not code:
            return None
        types = self._ir["components"][component].get("inputDefinitions", {}).get("parameters", {})
        values, contents = {}, {}
        for name, given in inputs.items():
            if "value" in given:
                values[name] = _typed(given["value"], types.get(name, {}).get("parameterType", ""))
                continue
            content = _content(given)
            if content is None:
                return None
            contents[name] = content
        place = outside.state(values)
        if place is None:
            return None
        values = {n: v for n, v in values.items() if matters(n, values, values)}
        container = self._container(component)
        document = {
            "version": _VERSION,
            "component": component,
            "code": code,
            "packages": self._packages(component, code),
            "command": [*container.get("command", []), *container.get("args", [])],
            "environment": [_what_matters(one) for one in container.get("env", [])],
            "values": values,
            "contents": contents,
            "outside": place,
        }
        text = json.dumps(document, sort_keys=True)
        if _WORKSPACE in text:
            return None  # what other steps left there is no input that could be hashed
        return hashlib.sha256(text.encode()).hexdigest()

    def image(self, component: str) -> str:
        """The image that the pipeline names for a component."""
        return str(self._container(component).get("image", ""))

    def _packages(self, component: str, code: str) -> Mapping[str, str]:
        """Versions of the packages that a component uses: its image's, in both runners alike."""
        image = self.image(component)
        target = image_code.target_of(image)
        if target is None or (image in self._images and code != image_code.fingerprint(target)):
            # Another image than this code makes is known by its own fingerprint or id.
            return {} if image in self._images else self._versions
        locked = image_code.locked(target)
        if image in self._images:
            return {name: locked[name] for name in self._versions if name in locked}
        return {name: self._versions[name] for name in self._versions if name in locked}

    def _container(self, component: str) -> Mapping[str, Any]:
        label = self._ir["components"][component].get("executorLabel")
        executors = self._ir.get("deploymentSpec", {}).get("executors", {})
        found: Mapping[str, Any] = executors.get(label, {}).get("container", {})
        return found


def _what_matters(variable: Mapping[str, Any]) -> Mapping[str, Any]:
    """A variable of a step; of settings for SageMaker the image alone: the machine, its limits and
    its price change no result, and a training is too dear to repeat for them."""
    if variable.get("name") != VARIABLE:
        return variable
    return {"name": VARIABLE, "value": of_step({VARIABLE: variable["value"]}).image}


def matters(name: str, names: Iterable[str], values: Mapping[str, Any]) -> bool:
    """Whether an input can change what its step makes.

    tune and train look up weights in the registry only where these are named models:/NAME/VERSION.

    Args:
        name: Of the input.
        names: Of all inputs of its step.
        values: Of the inputs, or of the parameters of the pipeline.
    """
    if name != "registry" or "weights" not in names:
        return True
    return str(values.get("weights", "")).startswith("models:/")


def _typed(value: Any, kind: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return int(value) if kind == "NUMBER_INTEGER" else float(value)


def _content(value: Mapping[str, Any]) -> Any:
    if "items" in value:
        items = [_content(item) for item in value["items"]]
        return None if None in items else items
    if value.get("sha256") is None and value["type"] not in NO_FILE:
        return None
    return [value["type"], value.get("sha256"), value["metadata"]]


def _never_reused(ir: Ir) -> Iterator[str]:
    """Components whose author switched reuse off, or that run whatever happened before."""
    for component in (ir["root"], *ir.get("components", {}).values()):
        for spec in component.get("dag", {}).get("tasks", {}).values():
            caching = spec.get("cachingOptions", {}).get("enableCache", False)
            strategy = spec.get("triggerPolicy", {}).get("strategy")
            if not caching or strategy == "ALL_UPSTREAM_TASKS_COMPLETED":
                yield spec["componentRef"]["name"]


# --- looking up ---------------------------------------------------------------------------------


class Earlier:
    """The finished steps of all runs in a folder, by key."""

    def __init__(self, runs: str | Path) -> None:
        """Read the records.

        Args:
            runs: Folder of all runs.
        """
        self._steps: dict[str, list[Finished]] = {}
        for run in record.list_runs(runs):
            for name, entry in run.steps.items():
                known = finished(run, name)
                if known is not None and entry.key:
                    self._steps.setdefault(entry.key, []).append(known)

    def find(self, key: str | None, component: str, values: Mapping[str, Any]) -> Finished | None:
        """A finished step with this key whose outputs are whole; the newest."""
        tried: set[str] = set()
        for known in self._steps.get(key or "", []):
            if known.run in tried:
                continue
            tried.add(known.run)
            name = component.removeprefix("comp-")
            if damage(known.outputs) is None and outside.still_holds(name, values, known.outputs):
                return known
        return None


def plain_values(inputs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Name and value of the inputs that are no artifacts."""
    return {name: given["value"] for name, given in inputs.items() if "value" in given}


@contextlib.contextmanager
def locked(runs: str | Path, *, exclusive: bool = False) -> Iterator[None]:
    """Hold the lock of a runs folder, so that gc removes nothing that is being taken.

    Raises:
        StorageError: The folder cannot be written.
    """
    place = Path(runs) / LOCK
    try:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise StorageError(f"{place} cannot be opened ({error.strerror}).") from error
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def code_changed(keys: Keys, step: Step) -> bool:
    """Whether a recorded step ran other code than it would now."""
    return bool(step.code) and step.code != keys.code(step.component)
