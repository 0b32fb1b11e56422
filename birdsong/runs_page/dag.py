"""The graph of a run: which step makes which artifact and who takes it.

What ran is in the record; what did not run yet is read from the compiled pipeline, so that the
whole graph stands from the first second.
"""

from collections.abc import Mapping
from typing import Any

from birdsong.runs.record import Run

Maker = tuple[str, str]
"""A step and the name of its output."""


def graph(run: Run, ir: Mapping[str, Any]) -> dict[str, Any]:
    """Artifacts and edges of a run.

    Returns:
        artifacts: List of {"step", "name", "type", "takers": [step, ...]}.
        after: List of [earlier step, later step], one per wait.
    """
    found: dict[Maker, dict[str, Any]] = {}

    def add(step: str, name: str, kind: str) -> None:
        found.setdefault((step, name), {"step": step, "name": name, "type": kind, "takers": []})

    for step in run.steps.values():
        for name, value in step.outputs.items():
            if str(value.get("type", "")).startswith("system."):
                add(step.name, name, value["type"])
        component = ir.get("components", {}).get(step.component, {})
        declared = component.get("outputDefinitions", {}).get("artifacts", {})
        for name, value in declared.items():
            add(step.name, name, value.get("artifactType", {}).get("schemaTitle", ""))
    for (step_name, name), taker in _edges(ir):
        if (step_name, name) in found and taker not in found[step_name, name]["takers"]:
            found[step_name, name]["takers"].append(taker)
    for taker, maker in _recorded(run):
        if taker not in found[maker]["takers"]:
            found[maker]["takers"].append(taker)
    after = [[before, step.name] for step in run.steps.values() for before in step.upstream]
    return {"artifacts": list(found.values()), "after": after}


def _recorded(run: Run) -> list[tuple[str, Maker]]:
    makers = {
        value["uri"]: (step.name, name)
        for step in run.steps.values()
        for name, value in step.outputs.items()
        if value.get("uri") and str(value.get("type", "")).startswith("system.")
    }
    return [
        (step.name, makers[value["uri"]])
        for step in run.steps.values()
        for value in step.inputs.values()
        if value.get("uri") in makers and makers[value["uri"]][0] != step.name
    ]


def _edges(ir: Mapping[str, Any]) -> list[tuple[Maker, str]]:
    """Which step takes which artifact by the compiled pipeline, also through nested DAGs."""
    edges: list[tuple[Maker, str]] = []
    components = ir.get("components", {})

    def walk(component: Mapping[str, Any], given: Mapping[str, list[Maker]]) -> dict[str, Any]:
        tasks = component.get("dag", {}).get("tasks", {})
        made: dict[str, dict[str, list[Maker]]] = {}
        waiting = list(tasks)
        while waiting:
            ready = [
                name
                for name in waiting
                if not set(tasks[name].get("dependentTasks", [])) & set(waiting)
            ] or waiting
            for name in ready:
                waiting.remove(name)
                made[name] = one(tasks[name], made, given)
        return made

    def one(
        task: Mapping[str, Any],
        made: Mapping[str, Mapping[str, list[Maker]]],
        given: Mapping[str, list[Maker]],
    ) -> dict[str, list[Maker]]:
        reference = task.get("componentRef", {}).get("name", "")
        part = components.get(reference, {})
        taken: dict[str, list[Maker]] = {}
        for name, value in task.get("inputs", {}).get("artifacts", {}).items():
            output = value.get("taskOutputArtifact", {})
            taken[name] = made.get(output.get("producerTask", ""), {}).get(
                output.get("outputArtifactKey", ""), []
            ) or given.get(value.get("componentInputArtifact", ""), [])
        if "dag" in part:
            inside = walk(part, taken)
            outputs = part["dag"].get("outputs", {}).get("artifacts", {})
            return {
                key: [
                    maker
                    for selector in value.get("artifactSelectors", [])
                    for maker in inside.get(selector.get("producerSubtask", ""), {}).get(
                        selector.get("outputArtifactKey", ""), []
                    )
                ]
                for key, value in outputs.items()
            }
        step = reference.removeprefix("comp-")
        edges.extend((maker, step) for makers in taken.values() for maker in makers)
        declared = part.get("outputDefinitions", {}).get("artifacts", {})
        return {name: [(step, name)] for name in declared}

    if "root" in ir:
        walk(ir["root"], {})
    return edges
