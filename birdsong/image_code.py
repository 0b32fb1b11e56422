"""Which code a stage runs: one fingerprint for each container image, over the files that go in.

Those are the modules that the image's stages import, directly or not, inside of functions too, and
the locked requirements. So a change of the inference server or of the command line leaves the
results of ingest as they are, and no change that could matter is overlooked.

The build of an image takes exactly these files (`python -m birdsong.image_code TARGET FOLDER`), so
that a module which the fingerprint misses is missing in the image too, and does not work unseen.
Standard library only: the build runs it before anything is installed.
"""

import ast
import compileall
import functools
import hashlib
import py_compile
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the packages birdsong and components."""

STAGES = {
    "data": ("ingest", "split", "featurize"),
    "train": ("tune", "train", "evaluate_threshold"),
    "cloud": ("register", "deploy"),
    "serve": (),
}
"""Image target to the stages that run in it, as in components/images.py."""

PROGRAMS = {
    "train": ("aws.training_container",),
    "cloud": ("aws.train_step", "aws.tune_step", "shown"),
    "serve": ("serving.server",),
}
"""Image target to modules of birdsong that it runs beside stages. Without the package's name, which
would count as a use of the module in every image that holds this file."""

NAME = "birdsong-python-"
"""How the names of our images begin."""

PACKAGES = ("birdsong", "components")
REQUIREMENTS = "docker/requirements"
RECIPE = "docker/Dockerfile"


_NO_DATA = {".py", ".pyc", ".md"}
"""Endings of files that no program reads; a text for people must not make steps run again."""


def fingerprint(target: str, root: Path = ROOT) -> str:
    """SHA-256 over the names and bytes of the files of an image.

    Args:
        target: data, train, cloud or serve.
        root: The folder with the packages.
    """
    return _hash(image_files(target, root), root)


def image_files(target: str, root: Path = ROOT) -> list[Path]:
    """Code, requirements and recipe of an image, sorted."""
    stages = (f"components.{stage}" for stage in STAGES[target])
    programs = (f"birdsong.{module}" for module in PROGRAMS.get(target, ()))
    modules = closure([*stages, *programs], root)
    return sorted({*modules, *_requirements(target, root)})


def source_fingerprint(source: str, root: Path = ROOT) -> str:
    """The same for a component of another pipeline, from its source text alone."""
    files = closure(_imports(source, ""), root)
    everything = sorted({*files, *_requirements("dev", root)})
    return hashlib.sha256((source + _hash(everything, root)).encode()).hexdigest()


def _requirements(target: str, root: Path) -> list[Path]:
    folder = root / REQUIREMENTS
    own = [folder / f"{target}{kind}.txt" for kind in ("", "-gpu")]
    shared = folder / "dev.txt"
    found = own if own[0].is_file() else [shared]
    return [place for place in (*found, root / RECIPE) if place.is_file()]


def target_of(image: str) -> str | None:
    """Which of our images a reference names: data, train, cloud or serve; None for another one."""
    name = image.rpartition("/")[2].partition("@")[0].partition(":")[0]
    target = name.removeprefix(NAME)
    return target if name.startswith(NAME) and target in STAGES else None


def locked(target: str, root: Path = ROOT) -> dict[str, str]:
    """Versions of the packages that an image is built with; tensorflow whatever its build."""
    found = {}
    for line in (root / REQUIREMENTS / f"{target}.txt").read_text().splitlines():
        name, equal, version = line.partition(" ")[0].partition("==")
        if equal and not name.startswith("#"):
            found["tensorflow" if name == "tensorflow-cpu" else name] = version
    return found


def _hash(files: Iterable[Path], root: Path) -> str:
    total = hashlib.sha256()
    for file in files:
        data = file.read_bytes()
        total.update(f"{file.relative_to(root).as_posix()}\0{len(data)}\0".encode())
        total.update(data)
    return total.hexdigest()


def closure(modules: Iterable[str], root: Path = ROOT) -> set[Path]:
    """Files of modules and of all of birdsong and components that they import.

    Data files that lie in a package of the closure belong to it.
    """
    files: set[Path] = set()
    waiting = list(modules)
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        file = _file(module, root)
        if file is None:
            continue
        files.add(file)
        if "." in module:
            waiting.append(module.rpartition(".")[0])  # importing a.b runs a/__init__.py first
        state = file.stat()
        package = _package(module, file)
        waiting += _imports_of(file, package, state.st_mtime_ns, state.st_size)
        if file.name == "__init__.py":
            files.update(_data(file.parent))
    return files


def _file(module: str, root: Path) -> Path | None:
    if module.split(".")[0] not in PACKAGES:
        return None
    place = root.joinpath(*module.split("."))
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if file.is_file():
            return file
    return None


def _package(module: str, file: Path) -> str:
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


def _data(folder: Path) -> Iterator[Path]:
    for file in folder.iterdir():
        if file.is_file() and file.suffix not in _NO_DATA and not file.name.startswith("."):
            yield file


@functools.cache
def _imports_of(file: Path, package: str, changed: int, size: int) -> tuple[str, ...]:
    """As `_imports`, read once for each state of a file."""
    return tuple(_imports(file.read_text(), package))


def _imports(source: str, package: str) -> Iterator[str]:
    """Modules that a source text imports anywhere, or names in a text of its own.

    The latter finds `python -m birdsong.serving.server`, a module that is started by name.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                above = parts[: len(parts) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.startswith(tuple(f"{name}." for name in PACKAGES))
            and node.value.replace(".", "").isidentifier()
        ):
            yield node.value


def collect(target: str, folder: Path, root: Path = ROOT) -> None:
    """Copy the code of an image into a folder, with its bytecode."""
    for file in image_files(target, root):
        name = file.relative_to(root)
        if name.parts[0] in PACKAGES:
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
    # Not by the time of the sources, which differs from build to build.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, quiet=1, invalidation_mode=mode)


def main(arguments: list[str]) -> int:
    """`TARGET FOLDER`: collect the code of an image, and its fingerprint in the file fingerprint.

    The build compares it with the one that the image is named by: files may change meanwhile.
    """
    target, folder = arguments
    collect(target, Path(folder))
    (Path(folder) / "fingerprint").write_text(fingerprint(target) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
