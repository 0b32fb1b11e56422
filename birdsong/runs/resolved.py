"""What reaches each step of a compiled pipeline, as far as it can be told before a run.

Only parameters of the pipeline, constants and outputs of other steps of the same level are
followed; what comes out of a loop or of a nested pipeline is unknown.
"""

from collections.abc import Mapping
from typing import Any

Ir = Mapping[str, Any]


def parameters(ir: Ir) -> dict[str, set[str]]:
    """Step to the pipeline's parameters that reach it: as an input, or by a condition around it."""
    found: dict[str, set[str]] = {}

    def walk(component: Ir, known: Mapping[str, set[str]], around: set[str]) -> None:
        for spec in component.get("dag", {}).get("tasks", {}).values():
            inputs = spec.get("inputs", {}).get("parameters", {})
            given = {
                name: known.get(value.get("componentInputParameter", ""), set())
                for name, value in inputs.items()
            }
            reach = around | set().union(*given.values())
            name = spec["componentRef"]["name"]
            part = ir["components"][name]
            if "dag" in part:
                # A condition or a loop decides by any of its inputs what is executed inside.
                decides = "triggerPolicy" in spec or "parameterIterator" in spec
                walk(part, given, reach if decides else around)
            else:
                found[name.removeprefix("comp-")] = reach

    root = ir["root"]
    names = root.get("inputDefinitions", {}).get("parameters", {})
    walk(root, {name: {name} for name in names}, set())
    return found


def behind_loops(ir: Ir) -> set[str]:
    """Steps that wait for a loop; what a loop made is not told apart by the record."""
    found: set[str] = set()

    def leaves(component: Ir) -> set[str]:
        inside: set[str] = set()
        for spec in component.get("dag", {}).get("tasks", {}).values():
            name = spec["componentRef"]["name"]
            part = ir["components"][name]
            inside |= leaves(part) if "dag" in part else {name.removeprefix("comp-")}
        return inside

    def loops(component: Ir) -> bool:
        return any(
            "parameterIterator" in spec
            or "artifactIterator" in spec
            or loops(ir["components"][spec["componentRef"]["name"]])
            for spec in component.get("dag", {}).get("tasks", {}).values()
        )

    def walk(component: Ir) -> None:
        tasks = component.get("dag", {}).get("tasks", {})
        late = {
            task
            for task, spec in tasks.items()
            if "parameterIterator" in spec
            or "artifactIterator" in spec
            or loops(ir["components"][spec["componentRef"]["name"]])
        }
        grown = True
        while grown:
            more = {
                task
                for task, spec in tasks.items()
                if task not in late and late & set(spec.get("dependentTasks", []))
            }
            grown, late = bool(more), late | more
        for spec in tasks.values():
            name = spec["componentRef"]["name"]
            part = ir["components"][name]
            if "dag" in part:
                walk(part)
            waits = late & set(spec.get("dependentTasks", []))
            if waits:
                found.update(leaves(part) if "dag" in part else {name.removeprefix("comp-")})

    walk(ir["root"])
    return found


def inputs(
    ir: Ir, step: str, values: Mapping[str, Any], outputs: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]] | None:
    """The inputs of a step of the pipeline's top level, as a record would have them.

    Args:
        ir: The compiled pipeline.
        step: Its name.
        values: Value of each parameter of the pipeline.
        outputs: Step to its recorded outputs, of the steps whose outputs are known.

    Returns:
        None where an input is not known.
    """
    tasks = ir["root"].get("dag", {}).get("tasks", {})
    for spec in tasks.values():
        if spec["componentRef"]["name"] == f"comp-{step}":
            break
    else:
        return None
    found: dict[str, dict[str, Any]] = {}
    for name, given in spec.get("inputs", {}).get("parameters", {}).items():
        if "componentInputParameter" in given and given["componentInputParameter"] in values:
            found[name] = {"value": values[given["componentInputParameter"]]}
        elif "constant" in given.get("runtimeValue", {}):
            found[name] = {"value": given["runtimeValue"]["constant"]}
        elif "taskOutputParameter" in given:
            source = given["taskOutputParameter"]
            made = _output(tasks, source["producerTask"], source["outputParameterKey"], outputs)
            if made is None:
                return None
            found[name] = made
        else:
            return None
    for name, given in spec.get("inputs", {}).get("artifacts", {}).items():
        if "taskOutputArtifact" not in given:
            return None
        source = given["taskOutputArtifact"]
        made = _output(tasks, source["producerTask"], source["outputArtifactKey"], outputs)
        if made is None:
            return None
        found[name] = made
    return found


def _output(
    tasks: Mapping[str, Any],
    task: str,
    name: str,
    outputs: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any] | None:
    step = tasks[task]["componentRef"]["name"].removeprefix("comp-")
    value = outputs.get(step, {}).get(name)
    return None if value is None else dict(value)
