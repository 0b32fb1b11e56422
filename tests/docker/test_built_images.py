"""The images as they were built: user, read-only root, sizes, what is in them and what is not."""

import io
import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import DemoRun
from made_features import Take, song, write_features

from birdsong import artifacts, image_code
from birdsong.runs import record
from components import images

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
TARGETS = list(image_code.STAGES)
MOST_MB = {"data": 400}
"""Above the base; the others hold TensorFlow, see the README."""


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


def test_stages_of_the_image_data_have_no_tensorflow(engine: Any) -> None:
    assert (
        run("data", "sh", "-c", "ls /opt/venv/lib/python3.*/site-packages | grep -ci tensor; true")
        == "0"
    )


# --- the training job ----------------------------------------------------------------------------


def training_job(root: Path, name: str, seconds: float | None = None) -> tuple[int, str]:
    """A job as SageMaker starts it; with `seconds` it is stopped that long after its first epoch.

    Returns:
        Its exit code and what it printed.
    """
    child = subprocess.Popen(
        [
            *("docker", "run", "--name", name, "--read-only", "--tmpfs", "/tmp"),  # noqa: S108
            *("--cap-drop", "ALL", "--network", "none", "--volume", f"{root}:/opt/ml"),
            *("--user", f"{os.getuid()}:{os.getgid()}", images.reference("train"), "train"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        if seconds is not None:
            deadline = time.monotonic() + 120
            while not any((root / "checkpoints").rglob("*.npz")) and child.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            time.sleep(seconds)
            began = time.monotonic()
            subprocess.run(["docker", "stop", "--time", "120", name], check=True)
            assert time.monotonic() - began < 60
        said, _ = child.communicate(timeout=300)
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)
    return child.returncode, said


def test_a_training_job_that_is_stopped_goes_on_where_it_was(engine: Any, tmp_path: Path) -> None:
    development = [
        Take(code, [song(hertz, 2, seed=n)], part="train" if n else "validation")
        for code, hertz in (("low", 700.0), ("high", 5000.0))
        for n in range(4)
    ]
    for folder in ("input/config", "input/data", "model", "output", "checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    write_features(tmp_path / "input/data/development", ["low", "high"], development)
    given = {"backbone": "tiny", "weights": "none", "front_end": "small", "epochs": "40"}
    told = tmp_path / "input/config/hyperparameters.json"
    told.write_text(json.dumps(given | {"batch_size": "2"}))
    name = f"birdsong-train-{os.getpid()}"
    code, said = training_job(tmp_path, name, seconds=0.5)
    assert code == 143, said
    assert not (tmp_path / "output" / "failure").exists()
    code, said = training_job(tmp_path, name)
    assert code == 0, said
    assert "metric best_epoch=" in said
    assert artifacts.verify(tmp_path / "model" / "model").kind == "model"
    first = next(line for line in said.splitlines() if line.endswith("/40 epochs"))
    assert " 0/40 " not in first, said
    told.write_text(json.dumps({"epochs": "none"}))
    code, _ = training_job(tmp_path, name)
    assert code == 1
    assert "epochs" in (tmp_path / "output" / "failure").read_text()


# --- the server ---------------------------------------------------------------------------------


@pytest.fixture
def server(engine: Any, demo_run: DemoRun) -> Iterator[str]:
    """The address of the image serve, as SageMaker starts it, with the bundle of the demo run."""
    found = record.find(demo_run.runs, "latest")
    bundle = Path(found.steps["register"].outputs["version"]["path"]) / "bundle"
    name = f"birdsong-serve-{os.getpid()}"
    subprocess.run(
        [
            *("docker", "run", "--detach", "--name", name, "--read-only", "--tmpfs", "/tmp"),  # noqa: S108
            *("--cap-drop", "ALL", "--volume", f"{bundle}:/opt/ml/model:ro"),
            *("--publish", "127.0.0.1::8080", images.reference("serve"), "serve"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        port = engine.api.port(name, 8080)[0]["HostPort"]
        yield f"http://127.0.0.1:{port}"
        began = time.monotonic()
        subprocess.run(["docker", "stop", "--time", "30", name], check=True, capture_output=True)
        assert time.monotonic() - began < 29
        assert engine.api.inspect_container(name)["State"]["ExitCode"] == 0
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)


def test_the_image_serve_answers_as_sagemaker_asks(server: str) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(f"{server}/ping", timeout=2) as answer:  # noqa: S310
                assert answer.status == 200
                break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    request = urllib.request.Request(  # noqa: S310
        f"{server}/invocations", data=tone(), headers={"Content-Type": "audio/flac"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        found = json.load(answer)
    assert len(found["windows"]) == 1, found


def tone() -> bytes:
    """Six seconds of a tone as FLAC."""
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.sin(np.arange(6 * 22_050) / 3), 22_050, format="FLAC")
    return file.getvalue()
