"""What tests of components under KFP's launcher share."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import launcher
import yaml
from launcher import Launcher

from birdsong import artifacts
from birdsong.kubeflow import arguments, compiling, nonces, settings
from birdsong.kubeflow.compiling import Compiled
from birdsong.runs import graph
from pipeline import birdsong

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("epochs=2", "target_fpr=0.3", "gate=none", "golden=2", "trials=0")


def compiled_for_a_cluster() -> Compiled:
    """The pipeline as `submit` uploads it."""
    described = settings.ClusterSettings()
    wanted = settings.resources(described, "demo")
    found = compiling.compile_for_cluster(described, wanted)
    # A rerun of these: the executor passes over the nonce.
    return nonces.with_nonces(found, {"ingest": "n1", "train": "n2"})


@contextlib.contextmanager
def launching(
    compiled: Compiled, folder: Path, registry: str, scheme: str = "minio"
) -> Iterator[Launcher]:
    values, _ = arguments.resolve(
        graph.as_ir(birdsong),
        settings.ClusterSettings(registry=registry),
        source="demo:?species=3&recordings=12&seed=0",
        settings=SMALL,
    )
    made = Launcher(compiled, values, folder / "store", scheme)
    there = [place for place in launcher.PLACES.values() if place.exists()]
    try:
        yield made
    finally:
        shutil.rmtree(made.seen, ignore_errors=True)
        for place in launcher.PLACES.values():
            if place not in there and place.exists():
                with contextlib.suppress(OSError):
                    place.rmdir()


def check(run: Launcher, step: str) -> None:
    """What holds for every step in a pod."""
    assert run.run(step) == 0, run.logs[step]
    declared = run.compiled.pipeline["components"][f"comp-{step}"]["outputDefinitions"]["artifacts"]
    assert set(run.outputs[step]) == set(declared)
    for name, artifact in run.outputs[step].items():
        kind = artifact["type"]["schemaTitle"].removeprefix("system.")
        place = run.store / artifact["uri"].partition("://")[2]
        if kind == "Metrics":
            assert artifact["metadata"], f"{step} shows no numbers"
            assert all(isinstance(v, int | float) for v in artifact["metadata"].values())
        elif kind == "ClassificationMetrics":
            assert artifact["metadata"]["confidenceMetrics"]
            assert artifact["metadata"]["confusionMatrix"]
        elif kind == "HTML":
            page = place.read_text()
            assert "<html" in page
            assert "/minio/" not in page, f"{name} of {step} names a path of its pod"
        else:
            assert artifacts.verify(place).kind


@contextlib.contextmanager
def mlflow_as_in_the_manifest(folder: Path) -> Iterator[str]:
    """The server of k8s/overlays/mlflow with its own options, at another place and port."""
    documents = yaml.safe_load_all((ROOT / "k8s/overlays/mlflow/mlflow.yaml").read_text())
    deployment = next(d for d in documents if d["kind"] == "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    command: list[str] = container["command"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    changed = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={port}"}
    options = [
        changed.get(word, word).replace("/data", str(folder / "data")) for word in command[2:]
    ]
    assert command[:2] == ["mlflow", "server"]
    (folder / "data").mkdir()
    with (folder / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(
            [str(Path(sys.executable).with_name("mlflow")), "server", *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=os.environ | {entry["name"]: entry["value"] for entry in container["env"]},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            assert server.poll() is None, (folder / "mlflow.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.5)
        # By a name that the manifest allows; an address alone is refused, as in the cluster.
        yield f"http://localhost:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def read(run: Launcher, step: str, output: str, file: str) -> dict[str, Any]:
    key = run.outputs[step][output]["uri"].partition("://")[2]
    found: dict[str, Any] = json.loads((run.store / key / file).read_text())
    return found
