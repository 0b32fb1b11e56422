"""Makes one step of a compiled pipeline run although KFP's cache has it, and no other.

KFP has no rerun from a step. Its cache knows a step by image, command, arguments and inputs, so an
argument that nothing reads makes a step new: `--rerun_nonce TEXT` at the end of its executor's
arguments, which kfp's executor passes over. What comes after gets new artifacts, and runs too.
"""

import copy
from collections.abc import Mapping
from typing import Any

from birdsong.kubeflow.compiling import Compiled
from birdsong.runs import graph

FLAG = "--rerun_nonce"


def executor_of(ir: graph.Ir, step: str) -> str:
    """Label of a step's executor."""
    return str(ir["components"][f"comp-{step}"]["executorLabel"])


def container_of(ir: graph.Ir, step: str) -> Mapping[str, Any]:
    """The container of a step."""
    found: Mapping[str, Any] = ir["deploymentSpec"]["executors"][executor_of(ir, step)]["container"]
    return found


def nonces(ir: graph.Ir) -> dict[str, str]:
    """Step to its nonce, of the steps that have one."""
    found = {}
    for step in graph.steps(ir):
        arguments = list(container_of(ir, step).get("args", []))
        if FLAG in arguments[:-1]:
            found[step] = str(arguments[arguments.index(FLAG) + 1])
    return found


def with_nonces(compiled: Compiled, wanted: Mapping[str, str]) -> Compiled:
    """The pipeline with a nonce for each of some steps; everything else is as before."""
    pipeline = copy.deepcopy(compiled.pipeline)
    for step, nonce in wanted.items():
        container = pipeline["deploymentSpec"]["executors"][executor_of(pipeline, step)][
            "container"
        ]
        container["args"] = [*_without(list(container.get("args", []))), FLAG, nonce]
    return Compiled(pipeline, compiled.platform)


def _without(arguments: list[str]) -> list[str]:
    if FLAG not in arguments:
        return arguments
    place = arguments.index(FLAG)
    return arguments[:place] + arguments[place + 2 :]


def only_up_to(compiled: Compiled, step: str) -> Compiled:
    """The pipeline with a step and what it needs, without the steps beside it and after it."""
    steps = graph.steps(compiled.pipeline)
    kept = {step}
    waiting = [step]
    while waiting:
        for before in steps[waiting.pop()].upstream:
            if before not in kept:
                kept.add(before)
                waiting.append(before)
    pipeline, platform = copy.deepcopy(compiled.pipeline), copy.deepcopy(compiled.platform)
    dropped = [name for name in steps if name not in kept]
    labels = {executor_of(pipeline, name) for name in dropped}
    labels -= {executor_of(pipeline, name) for name in kept}
    tasks = pipeline["root"]["dag"]["tasks"]
    for task in [key for key, spec in tasks.items() if _step(spec) in dropped]:
        del tasks[task]
    for name in dropped:
        del pipeline["components"][f"comp-{name}"]
    kubernetes = platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {})
    for label in labels:
        del pipeline["deploymentSpec"]["executors"][label]
        kubernetes.get("executors", {}).pop(label, None)
    return Compiled(pipeline, platform)


def _step(spec: Mapping[str, Any]) -> str:
    return str(spec["componentRef"]["name"]).removeprefix("comp-")


def cache_key_parts(compiled: Compiled, step: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What KFP's cache knows a step by, as far as it can be told before the run.

    The ids of the artifacts that come in stand as the steps that make them; those count too.
    """
    ir = compiled.pipeline
    container = container_of(ir, step)
    component = ir["components"][f"comp-{step}"]
    task = next(t for t in ir["root"]["dag"]["tasks"].values() if _step(t) == step)
    parameters = {}
    for name, given in task.get("inputs", {}).get("parameters", {}).items():
        if "componentInputParameter" in given:
            parameters[name] = _plain(values.get(given["componentInputParameter"]))
        else:
            parameters[name] = given
    executors = compiled.platform.get("platforms", {}).get("kubernetes", {})
    extra = executors.get("deploymentSpec", {}).get("executors", {})
    claims = extra.get(executor_of(ir, step), {}).get("pvcMount", [])
    return {
        "image": container.get("image"),
        "command": [*container.get("command", []), *container.get("args", [])],
        "parameters": parameters,
        "artifacts": task.get("inputs", {}).get("artifacts", {}),
        "outputs": {
            kind: {
                name: value.get("artifactType", value.get("parameterType"))
                for name, value in component.get("outputDefinitions", {}).get(kind, {}).items()
            }
            for kind in ("artifacts", "parameters")
        },
        "claims": sorted(str(claim.get("constant", claim)) for claim in claims),
    }


def _plain(value: Any) -> Any:
    # The backend gives whole numbers as fractions.
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
