"""Every stage as the launcher of Kubeflow Pipelines would run it in its image.

The launcher runs the command of the compiled pipeline with an executor input of its own making:
artifacts are addresses in an object store, which the SDK's executor maps to folders under /minio
and /s3. The user is the image's own, the root read-only, and nothing of birdsong's runner is there.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from made_demo import DemoRun

from birdsong.runs import arguments, graph, record, resolved
from components import images

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("engine")]

USER = 10_001
STORES = ("minio", "s3")


class Launcher:
    """Runs steps of a pipeline as the launcher does, artifacts in folders of this machine."""

    def __init__(self, ir: Mapping[str, Any], values: Mapping[str, Any], folder: Path) -> None:
        self.ir, self.values, self.folder = ir, values, folder
        self.outputs: dict[str, dict[str, Any]] = {}

    def run(self, step: str, component: str, number: int) -> Any:
        """Run a step whose inputs are there; returns its process."""
        spec = self.ir["components"][component]
        executor = self.ir["deploymentSpec"]["executors"][spec["executorLabel"]]["container"]
        inputs = resolved.inputs(self.ir, step, self.values, self.outputs)
        assert inputs is not None
        store = STORES[number % 2]
        place = f"bucket/v2/artifacts/birdsong/run/{step}"
        declared = spec.get("outputDefinitions", {}).get("artifacts", {})
        made = {
            name: {
                "type": kind["artifactType"]["schemaTitle"],
                "name": name,
                "uri": f"{store}://{place}/{name}",
                "path": str(self.folder / store / place / name),
                "metadata": {},
            }
            for name, kind in declared.items()
        }
        # The launcher makes the folders that artifacts go into.
        (self.folder / store / place).mkdir(parents=True)
        told = self.folder / "told" / step
        told.mkdir(parents=True)
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(self.folder)], check=True)
        given = {
            "inputs": {
                "parameterValues": {n: v["value"] for n, v in inputs.items() if "value" in v},
                "artifacts": {n: listed(v) for n, v in inputs.items() if "uri" in v},
            },
            "outputs": {
                "artifacts": {name: listed(value) for name, value in made.items()},
                "outputFile": "/tmp/kfp_outputs/output_metadata.json",  # noqa: S108
            },
        }
        words = [*executor["command"], *executor.get("args", [])]
        mounts = [f"{self.folder / one}:/{one}" for one in STORES]
        done = subprocess.run(
            ["docker", "run", "--rm", "--read-only", "--cap-drop", "ALL", "--network", "none"]
            + ["--security-opt", "no-new-privileges:true", "--tmpfs", "/tmp:mode=1777"]  # noqa: S108
            + [f"--volume={mount}" for mount in (*mounts, f"{told}:/tmp/kfp_outputs")]
            + [f"--entrypoint={words[0]}", executor["image"]]
            + [word.replace("{{$}}", json.dumps(given)) for word in words[1:]],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            said = json.loads((told / "output_metadata.json").read_text())
            for name, found in said.get("artifacts", {}).items():
                made[name]["metadata"] = found["artifacts"][0].get("metadata", {})
            self.outputs[step] = made
        return done


def listed(value: Mapping[str, Any]) -> dict[str, Any]:
    """An artifact as an executor input lists it."""
    artifact = {
        "name": value["name"],
        "type": {"schemaTitle": value["type"], "schemaVersion": "0.0.1"},
        "uri": value["uri"],
        "metadata": value["metadata"],
    }
    return {"artifacts": [artifact]}


def test_every_stage_runs_in_its_image_as_the_launcher_runs_it(
    demo_run: DemoRun, tmp_path: Path
) -> None:
    from pipeline import birdsong

    ir = graph.as_ir(birdsong)
    before = record.find(demo_run.runs, "latest")
    for store in STORES:
        (tmp_path / store).mkdir()
    values = dict(before.arguments) | {"registry": "sqlite:////minio/registry/mlflow.db"}
    arguments.check(values)
    launcher = Launcher(ir, values, tmp_path)
    for number, (name, step) in enumerate(graph.steps(ir).items()):
        done = launcher.run(name, step.component, number)
        assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        for output in launcher.outputs[name].values():
            metrics = output["type"].endswith("Metrics")
            assert metrics or Path(output["path"]).exists(), output
    found = launcher.outputs["evaluate-threshold"]["metrics"]["metadata"]
    for metric, value in before.steps["evaluate-threshold"].metrics.items():
        if "seconds" not in metric:
            assert found[metric] == pytest.approx(value, abs=0.05), metric
    place = Path(launcher.outputs["deploy"]["endpoint"]["path"]) / "endpoint.json"
    assert json.loads(place.read_text())["state"] == "checked"
    assert {path.stat().st_uid for path in tmp_path.rglob("*")} == {USER}


def test_a_stage_that_fails_ends_with_a_code_that_is_not_zero(tmp_path: Path) -> None:
    from pipeline import birdsong

    ir = graph.as_ir(birdsong)
    for store in STORES:
        (tmp_path / store).mkdir()
    values = graph.with_defaults(ir, {"source": "/no/such/folder"})
    done = Launcher(ir, values, tmp_path).run("ingest", "comp-ingest", 0)
    assert done.returncode != 0
    assert "/no/such/folder" in done.stdout + done.stderr


def test_the_compiled_pipeline_names_the_images_of_this_code() -> None:
    from pipeline import birdsong

    executors = graph.as_ir(birdsong)["deploymentSpec"]["executors"].values()
    named = {entry["container"]["image"] for entry in executors}
    assert named == {images.DATA, images.TRAIN, images.CLOUD}
