"""Refuses pipelines and values that kfp.local gets wrong, before anything runs.

kfp.local 2.17 runs most of what KFP compiles, but some shapes give a wrong result without a word,
and some fail late with an error that does not say why. Each is named here with what to do instead.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from birdsong.errors import ConfigError

Ir = Mapping[str, Any]
"""A compiled pipeline as plain values (`google.protobuf.json_format.MessageToDict`)."""

_PLACEHOLDER = re.compile(r"\{\{\$")


def check(ir: Ir, arguments: Mapping[str, Any]) -> None:
    """Refuse what would go wrong.

    Raises:
        ConfigError: One line for each finding.
    """
    problems = [*pipeline_problems(ir), *argument_problems(ir, arguments)]
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
    iterator = spec.get("parameterIterator")
    if iterator is not None:
        item = iterator.get("items", {}).get("inputParameter")
        for name, value in given.items():
            if "taskOutputParameter" in value and name != item:
                yield (
                    f"dsl.ParallelFor gives {name} the loop's item instead of the other step's "
                    "output, without a word; pass it as an artifact or a pipeline parameter."
                )
        if "inputParameter" not in iterator.get("items", {}) and iterator.get("items", {}).get(
            "raw"
        ) in (None, "[]"):
            yield "dsl.ParallelFor over nothing: what collects its results fails."
    for name, value in given.items():
        constant = value.get("runtimeValue", {}).get("constant")
        if isinstance(constant, list | dict):
            if _PLACEHOLDER.search(str(constant)):
                yield (
                    f"the list or mapping {name} holds outputs or parameters, which arrive as "
                    "texts; pass each as an input of its own."
                )
            elif _whole_numbers(constant):
                yield (
                    f"whole numbers inside {name} arrive as fractions (5 as 5.0); pass JSON as "
                    "text, or each number as an input of its own."
                )
    if spec.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED" and any(
        "taskOutputParameter" in value and "producerTask" in value["taskOutputParameter"]
        for value in given.values()
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
        for parameter, declared in _parameters(component).items():
            if (
                declared.get("parameterType") == "NUMBER_INTEGER"
                and declared.get("isOptional")
                and "defaultValue" not in declared
                and parameter not in given
            ):
                yield f"optional whole number {parameter} is left unset, which fails; set it."


def _whole_numbers(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        return float(value).is_integer()
    if isinstance(value, list):
        return any(_whole_numbers(item) for item in value)
    if isinstance(value, dict):
        return any(_whole_numbers(item) for item in value.values())
    return False


def argument_problems(ir: Ir, arguments: Mapping[str, Any]) -> list[str]:
    """What is wrong with the values given to the pipeline, one sentence each."""
    problems = []
    conditions = " ".join(
        spec.get("triggerPolicy", {}).get("condition", "") for _, _, spec in _tasks(ir)
    )
    for name, value in arguments.items():
        if value is None:
            problems.append(f"{name}: a parameter cannot be None; leave it out.")
        elif isinstance(value, str) and "{{$" in value:
            problems.append(f"{name}: the text {{{{$ is KFP's own and cannot be in a value.")
        elif isinstance(value, str) and "'" in value and f"channel--{name}'" in conditions:
            problems.append(
                f"{name}: a condition of the pipeline compares it, and kfp.local takes neither "
                "branch for a text with a single quote."
            )
        elif isinstance(value, list | dict) and _whole_numbers(value):
            problems.append(
                f"{name}: whole numbers inside lists and mappings arrive as fractions; give "
                "JSON as text."
            )
    return problems
