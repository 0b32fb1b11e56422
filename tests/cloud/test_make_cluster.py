"""`make cluster` and `make cluster-down`, with programs on PATH that record and fail as told."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from birdsong.kubeflow import checks

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Place:
    """A machine with made-up programs.

    Attributes:
        folder: What they record and read.
        programs: The folder on PATH.
        port: A free one.
    """

    folder: Path
    programs: Path
    port: int
    environment: dict[str, str]

    def run(self, what: str, *options: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "birdsong.kubeflow.cluster", what]
        done = subprocess.run(
            [*command, "--port", str(self.port), *options],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=self.environment,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    def set(self, **values: Any) -> None:
        for name, value in values.items():
            (self.folder / name).write_text(json.dumps(value))

    @property
    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return [json.loads(line)[0] for line in file.read_text().splitlines()]

    def came_in(self, start: str) -> list[str]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [text for call, text in map(json.loads, lines) if call.startswith(start)]

    def without(self, program: str) -> None:
        (self.programs / program).unlink()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    folder, programs = tmp_path / "fake", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    for name in ("kind", "kubectl", "docker", "git"):
        file = programs / name
        script = ROOT / "tests" / "fake_programs.py"
        # Through a copy, so that the program knows itself by its own name.
        file.write_text(f"#!{sys.executable} -SE\n{script.read_text()}")
        file.chmod(0o755)
    (folder / "calls").touch()
    (folder / "clusters").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if "BIRDSONG" not in name}
    environment |= {
        "PATH": str(programs),
        "FAKE_FOLDER": str(folder),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    found = Place(folder, programs, port, environment)
    found.set(fail={}, answers={})
    yield found
    for file in (tmp_path / "state").rglob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)


def index(calls: list[str], part: str) -> int:
    fitting = [number for number, call in enumerate(calls) if re.search(part, call)]
    assert fitting, f"{part} not in {calls}"
    return fitting[0]


def test_a_cluster_is_made_in_order_and_the_end_says_how_to_submit(place: Place) -> None:
    code, out, err = place.run("up")
    assert code == 0, err
    order = [
        "docker image inspect birdsong-python-data:",
        "kind create cluster --name birdsong",
        "apply -k k8s/kfp/cluster-scoped",
        "wait --for=condition=Established",
        "apply -k k8s/kfp$",
        "kind load docker-image --name birdsong",
        "wait --for=condition=Available --timeout=900s deployment --all",
        "apply -f k8s/kind/data.yaml",
        "kubectl kustomize k8s/overlays/mlflow",
        "rollout status deployment/mlflow",
        "port-forward --address=127.0.0.1 svc/ml-pipeline-ui",
    ]
    places = [index(place.calls, part) for part in order]
    assert places == sorted(places)
    for call in place.calls:
        if call.startswith("kubectl") and "kustomize" not in call:
            assert call.startswith("kubectl --context kind-birdsong ")
    loaded = place.calls[index(place.calls, "kind load")].split()[-3:]
    assert loaded == list(checks.images().values())
    assert f"http://localhost:{place.port}" in out
    assert f"submit --host http://localhost:{place.port} --cluster k8s/clusters/kind.yaml" in out
    applied = place.came_in("kubectl --context kind-birdsong apply -f -")
    assert f"image: {checks.images()['cloud']}\n" in applied[0]
    assert "unset" not in applied[0]


def test_a_second_call_makes_nothing_twice(place: Place) -> None:
    assert place.run("up")[0] == 0
    before = len(place.calls)
    code, out, _ = place.run("up")
    assert code == 0
    again = place.calls[before:]
    assert not any("create cluster" in call or "port-forward" in call for call in again)
    assert "cluster birdsong is there" in out
    assert "is forwarded" in out


def test_what_failed_is_told_and_the_next_call_goes_on(place: Place) -> None:
    place.set(fail={"apply -k k8s/kfp$": [1, "error: github.com: no route to host", 1]})
    code, _, err = place.run("up")
    assert code == 1
    assert "`kubectl --context kind-birdsong apply -k k8s/kfp` ended with 1" in err
    assert "no route to host" in err
    code, _, err = place.run("up")
    assert code == 0, err
    assert sum("create cluster" in call for call in place.calls) == 1


def test_pods_that_do_not_start_are_listed(place: Place) -> None:
    place.set(
        fail={"condition=Available": [1, "error: timed out waiting", 1]},
        answers={"get pods": "mysql-0   0/1   ImagePullBackOff"},
    )
    code, _, err = place.run("up", "--wait-minutes", "1")
    assert code == 1
    assert "timed out waiting" in err
    assert "ImagePullBackOff" in err
    assert "describe pod" in err


@pytest.mark.parametrize("program", ["kind", "kubectl", "docker", "git"])
def test_a_missing_program_is_named_with_where_to_get_it(place: Place, program: str) -> None:
    place.without(program)
    code, _, err = place.run("up")
    assert code == 2
    assert checks.INSTALL[program] in err
    assert not any("create cluster" in call for call in place.calls)


def test_all_that_is_missing_is_told_at_once(place: Place) -> None:
    place.without("kind")
    place.set(
        answers={
            "docker info": json.dumps(
                {"MemTotal": 2_000_000_000, "NCPU": 2, "DockerRootDir": "/nowhere"}
            )
        }
    )
    code, _, err = place.run("up")
    assert code == 2
    assert "kind is not installed" in err
    assert "2.0 GB of memory" in err
    assert "has 2 cores; 4 or more" in err


def test_an_engine_that_does_not_answer_is_told(place: Place) -> None:
    place.set(fail={"docker info": [1, "Cannot connect to the Docker daemon", 9]})
    code, _, err = place.run("up")
    assert code == 2
    assert "engine does not answer" in err


def test_images_that_are_not_built_are_named_before_minutes_are_spent(place: Place) -> None:
    place.set(fail={"image inspect birdsong-python-train": [1, "No such image", 9]})
    code, _, err = place.run("up")
    assert code == 2
    assert "Not built: birdsong-python-train:" in err
    assert "make images" in err
    assert not any("create cluster" in call for call in place.calls)
    code, _, _ = place.run("up", "--load", "no")
    assert code == 0
    assert not any("kind load" in call for call in place.calls)


def test_a_folder_of_recordings_is_mounted_read_only(place: Place, tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    code, _, err = place.run("up", "--data", str(tmp_path / "birds"))
    assert code == 0, err
    config = yaml.safe_load(place.came_in("kind create cluster")[0])
    assert config["nodes"][0]["extraMounts"] == [
        {"hostPath": str(tmp_path / "birds"), "containerPath": "/data", "readOnly": True}
    ]
    assert "@sha256:" in config["nodes"][0]["image"]


def test_a_folder_cannot_be_added_to_a_cluster_that_is_there(place: Place, tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    assert place.run("up")[0] == 0
    place.set(answers={"docker inspect": "[]"})
    code, _, err = place.run("up", "--data", str(tmp_path / "birds"))
    assert code == 2
    assert "make cluster-down" in err


def test_a_cluster_that_is_there_is_used_as_it_is(place: Place) -> None:
    place.environment["BIRDSONG_REGISTRY"] = "registry.example/birds"
    place.set(answers={"get deployment ml-pipeline": "ghcr.io/kubeflow/kfp-api-server:2.16.0"})
    code, out, err = place.run("up", "--context", "prod", "--namespace", "pipelines")
    assert code == 0, err
    assert "Kubeflow Pipelines 2.16.0 is there, left as it is" in out
    assert not any(call.startswith("kind") or "apply -k" in call for call in place.calls)
    assert sum(call.startswith("docker push registry.example/birds/") for call in place.calls) == 3
    applied = place.came_in("kubectl --context prod apply -f -")
    assert "mlflow.pipelines:5000" in applied[0]
    assert "mlflow.kubeflow" not in applied[0]
    assert "--set registry=http://mlflow.pipelines:5000" in out
    code, out, _ = place.run("down", "--context", "prod")
    assert code == 0
    assert "stays as it is" in out
    assert not any("delete" in call for call in place.calls)


def test_kubeflow_is_installed_into_a_cluster_that_lacks_it(place: Place) -> None:
    code, _, err = place.run("up", "--context", "kind-other")
    assert code == 0, err
    assert "kubectl --context kind-other apply -k k8s/kfp" in place.calls
    assert any("kind load docker-image --name other" in call for call in place.calls)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--context", "prod"), "BIRDSONG_REGISTRY is not set"),
        (("--data", "/nowhere"), "it is no folder"),
        (("--data", "/", "--context", "prod"), "DATA is for the kind cluster"),
        (("--overlays", "mlflow,grafana"), "no grafana. Known: mlflow"),
        (("--overlays", "s3-artifacts"), "fill in what is in capitals first: BUCKET, REGION"),
        (("--overlays", "aws-role"), "ACCOUNT, ROLE"),
        (("--namespace", "mine"), "install into kubeflow"),
        (("--name", "My Cluster"), "small letters"),
    ],
)
def test_what_contradicts_itself_is_refused(
    place: Place, options: tuple[str, ...], said: str
) -> None:
    code, _, err = place.run("up", *options)
    assert code == 2
    assert said in err
    assert not any("create" in call or "apply" in call for call in place.calls)


def test_a_context_that_does_not_answer_is_told(place: Place) -> None:
    place.environment["BIRDSONG_REGISTRY"] = "registry.example"
    place.set(fail={"get namespace default": [1, "connection refused", 9]})
    code, _, err = place.run("up", "--context", "prod")
    assert code == 2
    assert "get-contexts" in err


def test_a_port_that_is_taken_is_told(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", place.port))
        taken.listen()
        place.set(fail={"port-forward": [1, "unable to listen on port", 1]})
        code, _, err = place.run("up")
    assert code == 1
    assert "unable to listen on port" in err
    assert "PORT=8081" in err


def test_down_removes_the_cluster_and_the_port_forward_and_may_be_said_twice(place: Place) -> None:
    assert place.run("up")[0] == 0
    pid = int(next(iter(Path(place.environment["XDG_STATE_HOME"]).rglob("*.pid"))).read_text())
    code, out, _ = place.run("down")
    assert code == 0
    assert "no longer forwarded" in out
    assert "kind delete cluster --name birdsong" in place.calls
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)
    code, out, _ = place.run("down")
    assert code == 0
    assert "There is no cluster birdsong." in out


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_another_kind_is_told_as_a_note(place: Place) -> None:
    place.set(answers={"kind version": "kind v0.29.0 go1.24 linux/amd64"})
    code, out, _ = place.run("up")
    assert code == 0
    assert "kind is 0.29; the node image is of 0.33" in out


def test_the_makefile_passes_its_variables_on() -> None:
    done = subprocess.run(
        ["make", "-n", "cluster", "CONTEXT=prod", "DATA=/birds", "PORT=9", "OVERLAYS=", "LOAD=no"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    for part in (
        '--context "prod"',
        '--data "/birds"',
        '--port "9"',
        '--overlays ""',
        '--load "no"',
    ):
        assert part in done.stdout
