"""Does to a component what KFP's launcher does in a pod, without a cluster.

The launcher fetches the input artifacts from the object store to /minio/BUCKET/KEY, runs the
container's command with the executor input in place of `{{$}}`, and stores what lies at the output
paths, file by file: there are no empty folders, no links and no times in an object store. Messages
are read with KFP's own protocol buffers, as the launcher does.
"""

import os
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from birdsong.kubeflow.compiling import Compiled
from birdsong.kubeflow.nonces import container_of, executor_of
from birdsong.runs import graph

PLACES = {"minio": Path("/minio"), "s3": Path("/s3")}
"""Scheme of an artifact's address to the folder that pods see it at."""


@dataclass
class Launcher:
    """One run of a pipeline.

    Attributes:
        compiled: The pipeline.
        values: Value of each parameter.
        store: A folder in place of the object store.
        scheme: minio or s3.
        environment: What a pod sets beside its own.
        contained: Each step runs in a container of its image, as Kubernetes starts it.
        outputs: Step to its artifacts, as the launcher tells them to the backend.
        logs: Step to what it printed.
    """

    compiled: Compiled
    values: dict[str, Any]
    store: Path
    scheme: str = "minio"
    environment: dict[str, str] = field(default_factory=dict)
    contained: bool = False
    outputs: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    run_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    bucket: str = field(default_factory=lambda: f"birdsong-{uuid.uuid4().hex[:8]}")

    @property
    def seen(self) -> Path:
        """The bucket as a step sees it."""
        return PLACES[self.scheme] / self.bucket

    def path(self, uri: str) -> Path:
        """Where a step sees an artifact."""
        return PLACES[self.scheme] / uri.partition("://")[2]

    def run(self, step: str) -> int:
        """Run a step; its exit code."""
        ir = self.compiled.pipeline
        task = next(
            spec
            for spec in ir["root"]["dag"]["tasks"].values()
            if spec["componentRef"]["name"] == f"comp-{step}"
        )
        component = ir["components"][f"comp-{step}"]
        pod = self.store.parent / f"pod-{step}-{uuid.uuid4().hex[:8]}"
        pod.mkdir(parents=True)
        artifacts = {
            name: self._fetched(given["taskOutputArtifact"])
            for name, given in task.get("inputs", {}).get("artifacts", {}).items()
        }
        made = {
            name: {
                "artifacts": [
                    {
                        "name": name,
                        "type": declared["artifactType"],
                        "uri": f"{self.scheme}://{self.bucket}/v2/artifacts/birdsong/"
                        f"{self.run_id}/{step}/{uuid.uuid4()}/{name}",
                        "metadata": {},
                    }
                ]
            }
            for name, declared in component["outputDefinitions"]["artifacts"].items()
        }
        for one in made.values():
            self.path(one["artifacts"][0]["uri"]).parent.mkdir(parents=True, exist_ok=True)
        types = component.get("inputDefinitions", {}).get("parameters", {})
        parameters = {
            name: _as_typed(
                self.values[given["componentInputParameter"]], types[name]["parameterType"]
            )
            for name, given in task.get("inputs", {}).get("parameters", {}).items()
        }
        message = json_format.ParseDict(
            {
                "inputs": {"parameterValues": parameters, "artifacts": artifacts},
                "outputs": {"artifacts": made, "outputFile": str(pod / "output_metadata.json")},
            },
            pipeline_spec_pb2.ExecutorInput(),
        )
        code = self._execute(step, json_format.MessageToJson(message, indent=None), pod)
        if code == 0:
            self.outputs[step] = self._stored(made, pod / "output_metadata.json")
        # The pod is gone, and what it had fetched and made with it.
        shutil.rmtree(self.seen, ignore_errors=True)
        return code

    def _execute(self, step: str, executor_input: str, pod: Path) -> int:
        container = container_of(self.compiled.pipeline, step)
        words = [*container["command"], *container["args"]]
        command = [executor_input if word == "{{$}}" else word for word in words]
        declared = {entry["name"]: entry["value"] for entry in container.get("env", [])}
        if self.contained:
            start = self._as_kubernetes_starts_it(step, pod, {**declared, **self.environment})
            return self._ended(step, [*start, container["image"], *command], pod, dict(os.environ))
        (pod / "tmp").mkdir()
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
            "TMPDIR": str(pod / "tmp"),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            **self.environment,
            **declared,
            "HOME": str(pod / "tmp"),
        }
        return self._ended(step, command, pod, environment)

    def _as_kubernetes_starts_it(
        self, step: str, pod: Path, environment: dict[str, str]
    ) -> list[str]:
        """User and mounts of the compiled pipeline, and what the backend adds by itself."""
        label = executor_of(self.compiled.pipeline, step)
        platform = self.compiled.platform["platforms"]["kubernetes"]["deploymentSpec"]
        config = json_format.ParseDict(
            platform["executors"][label], kubernetes_executor_config_pb2.KubernetesExecutorConfig()
        )
        user = config.security_context
        words = ["docker", "run", "--rm", "--network", "host"]
        words += ["--user", f"{user.run_as_user}:{user.run_as_group}", "--read-only"]
        words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        for mount in config.empty_dir_mounts:
            words += ["--tmpfs", f"{mount.mount_path}:mode=1777,exec"]
        # As the emptyDir volumes of KFP's own folders: anybody may write there.
        for place in (self.seen, pod):
            place.mkdir(parents=True, exist_ok=True)
            for folder in (place, *(p for p in place.rglob("*") if p.is_dir())):
                folder.chmod(0o777)
            words += ["--volume", f"{place}:{place}"]
        for name, value in environment.items():
            words += ["--env", f"{name}={value}"]
        return words

    def _ended(self, step: str, command: list[str], pod: Path, environment: dict[str, str]) -> int:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=pod,
            env=environment,
        )
        self.logs[step] = done.stdout
        return done.returncode

    def _fetched(self, source: dict[str, str]) -> dict[str, Any]:
        made = self.outputs[source["producerTask"]][source["outputArtifactKey"]]
        key = made["uri"].partition("://")[2]
        stored, target = self.store / key, self.path(made["uri"])
        if stored.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if stored.is_dir():
                shutil.copytree(stored, target, copy_function=shutil.copyfile, dirs_exist_ok=True)
            else:
                shutil.copyfile(stored, target)
        return {"artifacts": [made]}

    def _stored(self, made: dict[str, Any], told: Path) -> dict[str, dict[str, Any]]:
        output = pipeline_spec_pb2.ExecutorOutput()
        if told.is_file():
            json_format.Parse(told.read_text(), output)
        found = {}
        for name, one in made.items():
            artifact = dict(one["artifacts"][0])
            if name in output.artifacts:
                first = json_format.MessageToDict(output.artifacts[name].artifacts[0])
                assert first["uri"] == artifact["uri"]
                artifact["metadata"] = first.get("metadata", {})
            place, key = self.path(artifact["uri"]), artifact["uri"].partition("://")[2]
            files = [place] if place.is_file() else sorted(place.rglob("*"))
            for file in files:
                assert not file.is_symlink(), f"{file} is a link"
                if file.is_file():
                    target = self.store / key / (file.relative_to(place) if place.is_dir() else "")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, target)
            found[name] = artifact
        return found


def _as_typed(value: Any, kind: str) -> Any:
    return int(value) if kind == "NUMBER_INTEGER" else value


def usable() -> bool:
    """Whether this user may make the folders that pods have."""
    return all(os.access(place if place.exists() else "/", os.W_OK) for place in PLACES.values())


def steps(compiled: Compiled) -> list[str]:
    """Steps in an order in which they can run."""
    return list(graph.steps(compiled.pipeline))
