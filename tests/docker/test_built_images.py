"""The images as they were built: user, read-only root, sizes, what is in them and what is not."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from birdsong import image_code
from components import images

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
TARGETS = list(image_code.STAGES)
MOST_MB = {"data": 400, "serve": 600}
"""Above the base."""


def inspect(engine: Any, target: str) -> dict[str, Any]:
    found: dict[str, Any] = engine.api.inspect_image(images.reference(target))
    return found


def run(target: str, *command: str, options: tuple[str, ...] = ()) -> str:
    """A command in an image, with a read-only root, no rights and no network."""
    start = ("docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none")  # noqa: S108
    done = subprocess.run(
        [*start, "--cap-drop", "ALL", *options, images.reference(target), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_a_numbered_user_no_entry_point_and_labels(engine: Any, target: str) -> None:
    config = inspect(engine, target)["Config"]
    assert config["User"] == "10001:10001"
    assert not config["Entrypoint"]
    labels = config["Labels"]
    assert labels["birdsong.fingerprint"] == image_code.fingerprint(target)
    for name in ("source", "revision", "version", "title", "licenses"):
        assert labels[f"org.opencontainers.image.{name}"]
    assert run(target, "id", "-u") == "10001"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_holds_exactly_the_files_of_its_fingerprint(engine: Any, target: str) -> None:
    listed = run(target, "find", "/opt/birdsong", "-type", "f", "-not", "-path", "*/__pycache__/*")
    code = {str(file.relative_to(ROOT)) for file in image_code.image_files(target)}
    expected = {f"/opt/birdsong/{name}" for name in code if not name.startswith("docker/")}
    assert set(listed.splitlines()) == expected | {"/opt/birdsong/fingerprint"}


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_works_without_a_writable_root_as_any_user(engine: Any, target: str) -> None:
    code = {
        "data": "import birdsong.recordings, birdsong.splits, birdsong.features, birdsong.preview",
        "train": "import birdsong.search, birdsong.training, birdsong.evaluation",
        "cloud": "import birdsong.registry, birdsong.deployment, birdsong.serving.server",
        "serve": "import birdsong.serving.server",
    }[target]
    figure = "" if target == "serve" else "\nfrom matplotlib.figure import Figure; Figure()"
    who = "\nimport getpass, pathlib; print(getpass.getuser(), pathlib.Path.home())"
    said = run(target, "python3", "-c", code + figure + who, options=("--user", "4321:4321"))
    assert said == "birdsong /tmp"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_no_compilers_caches_or_tests(engine: Any, target: str) -> None:
    script = (
        "for tool in gcc cc g++ make uv cyclonedx-py git; do command -v $tool; done; "
        "find / -xdev \\( -path '*/pip/cache*' -o -path '*/.cache/*' -o -path '/sbom/*' -o -path "
        "'/requirements/*' -o -path '/var/lib/apt/lists/*_*' -o -path '*/site-packages/*/include/"
        "tensorflow' \\) -not -path '/proc/*' 2>/dev/null | head -5"
    )
    assert run(target, "sh", "-c", f"{script}; true") == ""


@pytest.mark.parametrize("target", TARGETS)
def test_no_secret_and_no_place_of_this_machine_is_in_an_image(engine: Any, target: str) -> None:
    config = inspect(engine, target)
    history = engine.api.history(images.reference(target))
    text = json.dumps([config["Config"], config["Comment"], history])
    words = ("TOKEN", "SECRET", "PASSWORD", "_KEY", "CREDENTIAL")
    secrets = {
        value
        for name, value in os.environ.items()
        if any(word in name.upper() for word in words) and len(value) > 7
    }
    assert [secret for secret in secrets if secret in text] == []
    assert str(ROOT) not in text
    assert "index-url" not in text
    listed = run(target, "find", "/opt/birdsong", "-name", ".*")
    assert listed == ""


def test_what_is_not_listed_does_not_reach_a_build(engine: Any, tmp_path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert next(line for line in ignored if line and line[0] not in "#!") == "*"
    assert {line for line in ignored if line.startswith("!")} == {
        "!birdsong",
        "!components",
        "!docker",
    }


@pytest.mark.parametrize("target", list(MOST_MB))
def test_an_image_stays_below_its_size(engine: Any, target: str) -> None:
    base = os.environ.get("BIRDSONG_BASE_IMAGE", "python:3.11-slim-bookworm")
    above = inspect(engine, target)["Size"] - engine.api.inspect_image(base)["Size"]
    assert above < MOST_MB[target] * 1e6, f"{above / 1e6:.0f} MB"


@pytest.mark.parametrize("target", TARGETS)
def test_the_list_of_what_is_in_an_image_is_what_is_in_it(engine: Any, target: str) -> None:
    document = json.loads((ROOT / "build" / "sbom" / f"{target}.cdx.json").read_text())
    assert document["bomFormat"] == "CycloneDX"
    listed = {normal(part["name"]): part["version"] for part in document["components"]}
    for name, version in image_code.locked(target).items():
        assert listed["tensorflow-cpu" if name == "tensorflow" else normal(name)] == version


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("target", ["data", "cloud", "serve"])
def test_only_the_image_train_holds_tensorflow(engine: Any, target: str) -> None:
    listed = run(target, "sh", "-c", "ls /opt/venv/lib/python3.*/site-packages")
    assert [name for name in listed.splitlines() if "tensor" in name or "keras" in name] == []
