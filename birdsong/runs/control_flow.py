"""Conditions and loops of a pipeline, as a KFP backend understands them.

kfp.local 2.17 reads them in its own way, and where that fails it goes on without a word: a
condition that it cannot read counts as false, an input of a loop is taken for the loop's item.
`birdsong.runs.seams` puts these functions in its place.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from birdsong.errors import ConfigError, DataError

_CHANNEL = "pipelinechannel--"

_TOKENS = re.compile(
    r"""\s*(?:
        (?P<text>'[^'\\]*')
      | inputs\.parameter_values\['(?P<channel>[^']+)'\]
      | (?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<word>true|false|int|double|string)\b
      | (?P<sign>==|!=|<=|>=|<|>|&&|\|\||!|\(|\))
    )""",
    re.VERBOSE,
)
_PYTHON = {"&&": " and ", "||": " or ", "!": " not ", "true": "True", "false": "False"}
_PYTHON |= {"double": "float", "string": "str"}
_KNOWN = {"True": True, "False": False, "int": int, "float": float, "str": str}


def _tokens(condition: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each part of a condition.

    Raises:
        ValueError: It is none that kfp's compiler writes for values without quotes.
    """
    at, end = 0, len(condition.rstrip())
    while at < end:
        found = _TOKENS.match(condition, at)
        if found is None or found.lastgroup is None:
            raise ValueError(f"{condition}: cannot be read from {condition[at:]!r} on")
        yield found.lastgroup, found[found.lastgroup]
        at = found.end()


def compared(condition: str) -> list[str]:
    """Names of the inputs that a condition compares.

    Raises:
        ValueError: It cannot be read.
    """
    names = [text for kind, text in _tokens(condition) if kind == "channel"]
    evaluate(condition, None)
    return names


def evaluate(condition: str, value_of: Callable[[str], Any] | None) -> bool:
    """Whether a condition holds.

    Args:
        condition: In the expression language of the compiled pipeline.
        value_of: Gives the value of an input; None: only see whether it can be read.

    Raises:
        ValueError: It cannot be read, or compares values that cannot be compared.
    """
    parts, values = [], dict(_KNOWN)
    for kind, text in _tokens(condition):
        if kind == "channel":
            name = f"value_{len(values)}"
            values[name] = value_of(text) if value_of is not None else None
            parts.append(name)
        elif kind == "text":
            parts.append(repr(text[1:-1]))
        else:
            parts.append(_PYTHON.get(text, text))
    try:
        # Made of the parts above and nothing else; the values are names in it, never text.
        code = compile("".join(parts).strip() or "True", "<condition>", "eval")
    except SyntaxError as error:
        raise ValueError(f"{condition}: cannot be read ({error.msg})") from None
    if value_of is None:
        return True
    try:
        return bool(eval(code, {"__builtins__": {}}, values))
    except TypeError as error:
        raise ValueError(f"{condition}: {error}") from None


def evaluate_in_store(condition: str, io_store: Any) -> bool:
    """In place of kfp's `ConditionEvaluator.evaluate_condition`."""
    return evaluate(condition, lambda channel: parent_input(io_store, channel))


_ABSENT = object()


def parent_input(io_store: Any, key: str) -> Any:
    """In place of kfp's `IOStore.get_parent_input`: also outputs of tasks, whatever their name.

    kfp.local itself knows only outputs that are called Output.

    Raises:
        DataError: There is no such input.
    """
    plain = key.removeprefix(_CHANNEL)
    store = io_store
    while store is not None:
        for name in (key, f"{_CHANNEL}{plain}", plain):
            if name in store._parent_input_data:
                return store._parent_input_data[name]
        for task, outputs in store._task_output_data.items():
            for output, value in outputs.items():
                if plain == f"{task}-{output}":
                    return value
        store = store._parent
    raise DataError(
        f"The pipeline needs {plain}, which nothing has made: the step that makes it was skipped "
        "by its condition."
    )


def task_output(io_store: Any, task: str, key: str) -> Any:
    """In place of kfp's `IOStore.get_task_output`: a loop over nothing gives nothing.

    Raises:
        DataError: The task made no such output.
    """
    store, done = io_store, False
    while store is not None:
        done = done or task in store._task_output_data
        value = store._task_output_data.get(task, {}).get(key, _ABSENT)
        if value is not _ABSENT:
            return value
        store = store._parent
    if task.startswith("for-loop-") and not done:
        return []
    raise DataError(
        f"The pipeline needs the output {key} of {task}, which it did not make: it was skipped by "
        "its condition, or gave nothing back."
    )


def iteration(task_spec: Any, item: Any, task_name: str) -> Any:
    """In place of kfp's `create_parameter_loop_iteration_task_spec`: the task of one loop's item.

    kfp.local gives the item to every input that comes from another task or from an outer loop.
    """
    from kfp.compiler import pipeline_spec_builder

    once = type(task_spec)()
    once.CopyFrom(task_spec)
    once.ClearField("parameter_iterator")
    once.ClearField("artifact_iterator")
    constant = pipeline_spec_builder.to_protobuf_value(item)
    own = once.inputs.parameters[task_spec.parameter_iterator.item_input]
    own.runtime_value.constant.CopyFrom(constant)
    return once


def whole_numbers(value: Any) -> Any:
    """Numbers inside of lists and mappings as a KFP backend hands them on: 5.0 as 5.

    The compiled form knows one kind of number; kfp.local makes fractions of all of them.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: whole_numbers(item) for name, item in value.items()}
    return value


_OWN = re.compile(
    r"\{\{\$\.(inputs\.parameters\['pipelinechannel--[^']+'\]|pipeline_job_name|pipeline_job_uuid"
    r"|pipeline_task_name|pipeline_task_uuid|pipeline_root|workspace_path)\}\}"
)
_WORKSPACE = "/kfp-workspace"


def refuse_placeholders(inputs: dict[str, Any]) -> None:
    """Refuse texts that kfp.local would take for placeholders of its own and replace.

    Raises:
        ConfigError: Names the input.
    """
    for name, value in inputs.items():
        if found := placeholder(value):
            raise ConfigError(
                f"The input {name} holds the text {found}, which is KFP's own and would be "
                "replaced by something else on this machine. Pass it in a file or encoded."
            )


def placeholder(value: Any) -> str | None:
    """A text within a value that kfp.local would replace and that no pipeline means."""
    if isinstance(value, str):
        rest = _OWN.sub("", value)
        return next((text for text in ("{{$", _WORKSPACE) if text in rest), None)
    if isinstance(value, list | dict):
        items = value if isinstance(value, list) else [*value, *value.values()]
        return next(filter(None, map(placeholder, items)), None)
    return None
