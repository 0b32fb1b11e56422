"""Refuses pipelines and values that kfp.local gets wrong, before anything runs.

kfp.local 2.17 runs most of what KFP compiles, but some shapes give a wrong result without a word,
and some fail late with an error that does not say why. Each is named here with what to do instead.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from birdsong.errors import ConfigError
from birdsong.runs import control_flow

Ir = Mapping[str, Any]
"""A compiled pipeline as plain values (`google.protobuf.json_format.MessageToDict`)."""

_PLACEHOLDER = re.compile(r"\{\{\$")


def check(ir: Ir, arguments: Mapping[str, Any]) -> None:
    """Refuse what would go wrong.

    Raises:
        ConfigError: One line for each finding.
    """
    problems = [*pipeline_problems(ir), *argument_problems(arguments)]
    if problems:
        raise ConfigError(
            "This pipeline cannot run on this machine as it is:\n"
            + "\n".join(f"  {problem}" for problem in problems)
        )


def _components(ir: Ir) -> dict[str, Ir]:
    return {"root": ir["root"], **ir.get("components", {})}


def _tasks(ir: Ir) -> Iterator[tuple[str, str, Ir]]:
    for name, component in _components(ir).items():
        for task, spec in component.get("dag", {}).get("tasks", {}).items():
            yield name, task, spec


def pipeline_problems(ir: Ir) -> list[str]:
    """What is wrong with the pipeline itself, one sentence each."""
    problems = []
    for name, component in _components(ir).items():
        outputs = component.get("dag", {}).get("outputs", {}).get("artifacts", {})
        for output, selectors in outputs.items():
            if len(selectors.get("artifactSelectors", [])) > 1:
                problems.append(
                    f"{name}: dsl.OneOf over artifacts ({output}) fails here; let each branch "
                    "go on by itself, or choose by a parameter."
                )
    for scope, task, spec in _tasks(ir):
        where = task if scope == "root" else f"{scope}/{task}"
        problems += [f"{where}: {text}" for text in _task_problems(ir, spec)]
    for name, parameter in _parameters(ir["root"]).items():
        if parameter.get("isOptional") and "defaultValue" not in parameter:
            problems.append(
                f"parameter {name}: optional without a default fails when it is not given; "
                "give it a default that means none, such as an empty text."
            )
    return problems


def _parameters(component: Ir) -> Mapping[str, Any]:
    found: Mapping[str, Any] = component.get("inputDefinitions", {}).get("parameters", {})
    return found


def _task_problems(ir: Ir, spec: Ir) -> Iterator[str]:
    given = spec.get("inputs", {}).get("parameters", {})
    condition = spec.get("triggerPolicy", {}).get("condition", "")
    try:
        control_flow.compared(condition)
    except ValueError as error:
        yield (
            f"its condition cannot be read ({error}); compare with texts that hold neither a "
            "quote nor a backslash."
        )
    if "parameterIterator" in spec or "artifactIterator" in spec:
        body = ir["components"][spec["componentRef"]["name"]].get("dag", {})
        for name in _gathered(body):
            if body["tasks"].get(name, {}).get("triggerPolicy", {}).get("condition"):
                yield (
                    f"dsl.Collected gathers what {name} makes under a dsl.If; where its condition "
                    "is false there is nothing to gather and the run fails. Let the step decide "
                    "by itself and always give something back."
                )
    for name, value in given.items():
        constant = value.get("runtimeValue", {}).get("constant")
        if isinstance(constant, list | dict) and _PLACEHOLDER.search(str(constant)):
            yield (
                f"the list or mapping {name} holds outputs or parameters, which arrive as "
                "texts; pass each as an input of its own."
            )
    taken = [*given.values(), *spec.get("inputs", {}).get("artifacts", {}).values()]
    if spec.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED" and any(
        "taskOutputParameter" in value or "taskOutputArtifact" in value for value in taken
    ):
        yield (
            "ignore_upstream_failure() with an input from the step that may fail ends the run "
            "with an error; take the input out."
        )
    name = spec.get("componentRef", {}).get("name", "")
    component = ir.get("components", {}).get(name, {})
    label = component.get("executorLabel")
    if label is not None:
        container = ir["deploymentSpec"]["executors"].get(label, {}).get("container")
        command = " ".join([*container.get("command", [])]) if container else ""
        if container is not None and "kfp.dsl.executor_main" not in command:
            yield "a container component cannot run as a process; use a lightweight component."
        elif "kfp-component" not in command and "pip install" in command:
            yield (
                "it installs packages when it runs, into this very environment; name an image "
                "that has them and set install_kfp_package=False."
            )
        if container is not None and (found := control_flow.placeholder(container.get("command"))):
            yield f"its source holds the text {found}, which is KFP's own; write it in parts."
        for parameter, declared in _parameters(component).items():
            if (
                declared.get("parameterType") == "NUMBER_INTEGER"
                and declared.get("isOptional")
                and "defaultValue" not in declared
                and parameter not in given
            ):
                yield f"optional whole number {parameter} is left unset, which fails; set it."


def _gathered(dag: Ir) -> Iterator[str]:
    """Tasks of a loop's body whose outputs are handed out of it."""
    outputs = dag.get("outputs", {})
    for value in outputs.get("parameters", {}).values():
        if "valueFromParameter" in value:
            yield value["valueFromParameter"]["producerSubtask"]
    for value in outputs.get("artifacts", {}).values():
        for selector in value.get("artifactSelectors", []):
            yield selector["producerSubtask"]


def argument_problems(arguments: Mapping[str, Any]) -> list[str]:
    """What is wrong with the values given to the pipeline, one sentence each."""
    problems = []
    for name, value in arguments.items():
        if value is None:
            problems.append(f"{name}: a parameter cannot be None; leave it out.")
        elif found := control_flow.placeholder(value):
            problems.append(f"{name}: the text {found} is KFP's own and cannot be in a value.")
    return problems
