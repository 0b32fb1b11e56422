"""What the compiled pipeline says: its parameters, its steps and what they wait for."""

import difflib
from collections.abc import Mapping
from typing import Any

from birdsong.errors import ConfigError
from birdsong.runs.record import Step

Ir = Mapping[str, Any]

_TYPES: dict[str, type] = {
    "STRING": str,
    "NUMBER_INTEGER": int,
    "NUMBER_DOUBLE": float,
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}


def as_ir(pipeline: Any) -> dict[str, Any]:
    """The compiled form of a function decorated by `kfp.dsl.pipeline`, as plain values."""
    from google.protobuf import json_format

    document: dict[str, Any] = json_format.MessageToDict(pipeline.pipeline_spec)
    inputs = document["root"].get("inputDefinitions", {})
    if "parameters" in inputs:
        # Protocol buffers keep no order; people want the one of the function.
        written = [name for name in pipeline.component_spec.inputs if name in inputs["parameters"]]
        inputs["parameters"] = {name: inputs["parameters"][name] for name in written}
    return document


def parameter_types(ir: Ir) -> dict[str, type]:
    """Name of each parameter of the pipeline and the type of its value."""
    return {
        name: _TYPES.get(declared.get("parameterType", ""), str)
        for name, declared in _declared(ir).items()
    }


def defaults(ir: Ir) -> dict[str, Any]:
    """Name of each parameter that has a default, and the default."""
    types = parameter_types(ir)
    return {
        # Numbers of the compiled form are all fractions.
        name: types[name](declared["defaultValue"])
        for name, declared in _declared(ir).items()
        if "defaultValue" in declared
    }


def _declared(ir: Ir) -> Mapping[str, Any]:
    found: Mapping[str, Any] = ir["root"].get("inputDefinitions", {}).get("parameters", {})
    return found


def with_defaults(ir: Ir, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters and their values.

    Raises:
        ConfigError: An argument is not a parameter, or a parameter has neither value nor default.
    """
    known = _declared(ir)
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)}: not a parameter of the pipeline. Known: {', '.join(known)}."
        )
    values = defaults(ir) | dict(arguments)
    missing = [name for name in known if name not in values and not known[name].get("isOptional")]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: the pipeline needs a value.")
    return {name: values[name] for name in known if name in values}


def steps(ir: Ir) -> dict[str, Step]:
    """The steps that may run, by name, an order in which they can run, none of them started.

    Steps inside of loops are not known before the loop runs and are left out.
    """
    found: dict[str, Step] = {}
    leaves: dict[tuple[str, ...], list[str]] = {}
    waits: list[tuple[list[str], list[str]]] = []

    def walk(component: Ir, scope: tuple[str, ...]) -> list[str]:
        tasks = component.get("dag", {}).get("tasks", {})
        inside: list[str] = []
        for task in _in_order(tasks):
            spec = tasks[task]
            name = spec["componentRef"]["name"]
            part = ir["components"][name]
            if "parameterIterator" in spec or "artifactIterator" in spec:
                own: list[str] = []
            elif "dag" in part:
                own = walk(part, (*scope, task))
            else:
                step = name.removeprefix("comp-")
                found[step] = Step(
                    name=step, task=spec.get("taskInfo", {}).get("name", task), component=name
                )
                own = [step]
            leaves[(*scope, task)] = own
            inside += own
            for before in spec.get("dependentTasks", []):
                waits.append((own, leaves.get((*scope, before), [])))
        return inside

    walk(ir["root"], ())
    for after, before in waits:
        for name in after:
            upstream = found[name].upstream
            upstream += [other for other in before if other not in upstream]
    return found


def _in_order(tasks: Mapping[str, Any]) -> list[str]:
    """Tasks so that each comes after those that it depends on; else as the pipeline has them."""
    done: list[str] = []

    def visit(task: str) -> None:
        if task not in done:
            for before in sorted(tasks[task].get("dependentTasks", [])):
                if before in tasks:
                    visit(before)
            done.append(task)

    for task in sorted(tasks):
        visit(task)
    return done


def downstream(all_steps: Mapping[str, Step], start: set[str]) -> set[str]:
    """`start` and every step that depends on one of them, directly or not."""
    reached = set(start)
    while True:
        more = {
            name
            for name, step in all_steps.items()
            if name not in reached and reached & set(step.upstream)
        }
        if not more:
            return reached
        reached |= more


def step_name(all_steps: Mapping[str, Step], asked: str) -> str:
    """The step that a person means: evaluate_threshold and evaluate-threshold are the same.

    Raises:
        ConfigError: There is none.
    """
    name = asked.replace("_", "-")
    if name not in all_steps:
        near = difflib.get_close_matches(name, all_steps, n=1, cutoff=0.4)
        guess = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"No step {asked!r}.{guess} Steps: {', '.join(all_steps)}.")
    return name
