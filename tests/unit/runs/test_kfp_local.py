"""What kfp.local 2.17 gets wrong by itself comes out right here, or is refused in clear words.

One test for each such case that was found; those that are refused before a run are in
`test_lint.py`, those of containers in the tests of the runner.
"""

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from birdsong.runs import control_flow, engine
from birdsong.runs.record import Run, State

IMAGE = "python:3.11"
component = dsl.component(base_image=IMAGE, install_kfp_package=False)


@component
def number(value: int) -> int:
    return value


@component
def fraction(value: float) -> float:
    return value


@component
def add(a: int, b: int) -> int:
    return a + b


@component
def told(text: str) -> str:
    return text


@component
def numbers(count: int) -> list:
    return list(range(count))


@component
def as_text(values: list, more: dict) -> str:
    return f"{values} {sorted(more.items())}"


@component
def listed(values: list) -> str:
    return str(values)


@component
def figures() -> NamedTuple("Figures", [("mean", float), ("items", list), ("Output_more", int)]):
    from collections import namedtuple

    return namedtuple("Figures", "mean items Output_more")(2.5, [3, 4], 9)


@component
def labelled(out: Output[Dataset]) -> None:
    """Write a file with notes of whole numbers."""
    from pathlib import Path

    Path(out.path).write_text("x")
    out.metadata["epochs"] = 5
    out.metadata["share"] = 0.5
    out.metadata["list"] = [1, 2]


@component
def noted(data: Input[Dataset]) -> str:
    return f"{data.metadata['epochs']!r} {data.metadata['share']!r} {data.metadata['list']!r}"


@component
def nothing() -> str:
    return None


@component
def not_a_number(metrics: Output[Metrics]) -> None:
    """Log what JSON cannot hold."""
    metrics.log_metric("loss", float("nan"))


def executed(function: Callable[..., Any], runs: Path, **arguments: Any) -> Run:
    pipeline = dsl.pipeline(name=function.__name__.replace("_", "-"))(function)
    return engine.execute(pipeline, arguments, runs)


def outputs(run: Run, step: str) -> list[Any]:
    """Values of a step, in the order of the loop where it was executed in one."""
    assert run.state == State.SUCCEEDED, run.error
    names = sorted(name for name in run.steps if name.rpartition("/")[2] == step)
    return [
        run.steps[name].outputs["Output"]["value"]
        for name in names
        if run.steps[name].state == State.SUCCEEDED
    ]


def loop_with_another_output() -> None:
    base = number(value=100)
    with dsl.ParallelFor([1, 2]) as item:
        add(a=item, b=base.output)


def test_a_loop_hands_another_steps_output_on_beside_its_item(tmp_path: Path) -> None:
    assert outputs(executed(loop_with_another_output, tmp_path), "add") == [101, 102]


def loop_in_a_loop(outer: list) -> None:
    with dsl.ParallelFor(outer) as a, dsl.ParallelFor([10, 20]) as b:
        add(a=a, b=b)


def test_a_loop_within_a_loop_knows_both_items(tmp_path: Path) -> None:
    run = executed(loop_in_a_loop, tmp_path, outer=[1, 2])
    assert sorted(outputs(run, "add")) == [11, 12, 21, 22]


def loop_over_a_named_output() -> None:
    made = figures()
    with dsl.ParallelFor(made.outputs["items"]) as item:
        number(value=item)


def test_a_loop_goes_over_an_output_of_any_name(tmp_path: Path) -> None:
    assert outputs(executed(loop_over_a_named_output, tmp_path), "number") == [3, 4]


def loop_over_mappings() -> None:
    base = number(value=100)
    with dsl.ParallelFor([{"a": 1, "b": 2}, {"a": 3, "b": 4}]) as item:
        add(a=item.a, b=item.b)
        add(a=base.output, b=item.b)


def test_a_loop_over_mappings_hands_on_their_parts(tmp_path: Path) -> None:
    run = executed(loop_over_mappings, tmp_path)
    assert outputs(run, "add") == [3, 7]
    assert outputs(run, "add-2") == [102, 104]


def loop_over_nothing(count: int) -> None:
    with dsl.ParallelFor(numbers(count=count).output) as item:
        one = number(value=item)
    listed(values=dsl.Collected(one.output))


@pytest.mark.parametrize(("count", "expected"), [(0, "[]"), (2, "[0, 1]")])
def test_what_is_gathered_from_a_loop_over_nothing_is_an_empty_list(
    tmp_path: Path, count: int, expected: str
) -> None:
    assert outputs(executed(loop_over_nothing, tmp_path, count=count), "listed") == [expected]


def branches(text: str = "a", count: int = 0, share: float = 0.0, flag: bool = False) -> None:
    made = figures()
    with dsl.If(made.outputs["mean"] > 2):
        told(text="named output above a whole number")
    with dsl.If(text == "a"):
        told(text="text")
    with dsl.If(count > 1.5):
        told(text="whole number above a fraction")
    with dsl.If(share >= 1):
        told(text="fraction at least a whole number")
    with dsl.If(flag == True):  # noqa: E712 - kfp's way
        told(text="flag")
    with dsl.If(fraction(value=share).output > 1):
        told(text="output above a whole number")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {"text"}),
        ({"text": "it's"}, set()),
        ({"text": "' || 'a' == 'a"}, set()),
        ({"count": 2}, {"text", "whole number above a fraction"}),
        ({"share": 1.0}, {"text", "fraction at least a whole number"}),
        ({"flag": True}, {"text", "flag"}),
        (
            {"share": 2.0, "text": "b"},
            {"fraction at least a whole number", "output above a whole number"},
        ),
    ],
)
def test_conditions_hold_as_on_a_cluster(
    tmp_path: Path, arguments: dict[str, Any], expected: set[str]
) -> None:
    run = executed(branches, tmp_path, **arguments)
    taken = {
        step.outputs["Output"]["value"]
        for step in run.steps.values()
        if step.name.startswith("told") and step.state == State.SUCCEEDED
    }
    assert run.state == State.SUCCEEDED
    assert taken == expected | {"named output above a whole number"}


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("", True),
        ("inputs.parameter_values['x'] == 'a && b'", True),
        ("!(inputs.parameter_values['x'] == 'a && b')", False),
        ("!(inputs.parameter_values['x'] == 'b') && inputs.parameter_values['x'] != 'c'", True),
        ("int(inputs.parameter_values['n']) > -1 && double(1) < 1.5e3", True),
        ("inputs.parameter_values['f'] == true || inputs.parameter_values['f'] == false", True),
    ],
)
def test_conditions_are_read_as_the_compiler_writes_them(condition: str, holds: bool) -> None:
    values = {"x": "a && b", "n": 3.0, "f": False}
    assert control_flow.evaluate(condition, values.__getitem__) is holds


@pytest.mark.parametrize("condition", ["__import__('os')", "'a' 'b' ==", "1 +", "inputs.x", "'a"])
def test_a_text_that_is_no_condition_is_not_evaluated(condition: str) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        control_flow.evaluate(condition, {}.__getitem__)


def whole_numbers_inside(more: dict) -> None:
    as_text(values=[1, 2.5, [3]], more=more)
    listed(values=numbers(count=2).output)


def test_whole_numbers_inside_of_lists_and_mappings_stay_whole(tmp_path: Path) -> None:
    run = executed(whole_numbers_inside, tmp_path, more={"epochs": 5, "share": 0.5})
    assert outputs(run, "as-text") == ["[1, 2.5, [3]] [('epochs', 5), ('share', 0.5)]"]
    assert outputs(run, "listed") == ["[0, 1]"]


def notes() -> None:
    noted(data=labelled().outputs["out"])


def test_whole_numbers_in_the_notes_of_an_artifact_stay_whole(tmp_path: Path) -> None:
    assert outputs(executed(notes, tmp_path), "noted") == ["5 0.5 [1, 2]"]


def python_in_a_value() -> None:
    told(text="python3.11-slim")


def test_the_text_python3_in_a_value_is_left_alone(tmp_path: Path) -> None:
    assert outputs(executed(python_in_a_value, tmp_path), "told") == ["python3.11-slim"]


@component
def braces() -> str:
    return "{{" + "$.x}}"


def placeholder_from_a_step() -> None:
    told(text=f"so: {braces().output}")


def test_a_placeholder_that_comes_from_a_step_is_refused_by_name(tmp_path: Path) -> None:
    run = executed(placeholder_from_a_step, tmp_path)
    assert run.state == State.FAILED
    assert "KFP's own" in str(run.steps["told"].error)


def texts_of_several_outputs(a: str) -> None:
    told(text=f"{a}-{number(value=3).output}-{dsl.PIPELINE_TASK_NAME_PLACEHOLDER}")


def test_texts_made_of_outputs_and_parameters_arrive(tmp_path: Path) -> None:
    run = executed(texts_of_several_outputs, tmp_path, a="x")
    assert outputs(run, "told") == ["x-3-told"]


def gives_nothing() -> None:
    told(text=nothing().output)


def test_a_step_that_gives_nothing_back_fails_by_itself(tmp_path: Path) -> None:
    run = executed(gives_nothing, tmp_path)
    assert run.steps["nothing"].state == State.FAILED
    assert run.steps["nothing"].error == "The step ended well but made no Output."
    assert run.steps["told"].state == State.SKIPPED


def logs_not_a_number() -> None:
    not_a_number()


def test_a_metric_that_is_no_number_fails_its_step_in_clear_words(tmp_path: Path) -> None:
    run = executed(logs_not_a_number, tmp_path)
    assert run.state == State.FAILED
    assert "metric" in str(run.steps["not-a-number"].error)


def test_nothing_of_the_process_is_left_changed_by_a_loop(tmp_path: Path) -> None:
    before = builtins.print
    kept = tmp_path / "workspace"
    kept.mkdir()
    (kept / "mine").touch()
    executed(loop_with_another_output, tmp_path)
    assert builtins.print is before
    assert (kept / "mine").exists()


@component
def breaks() -> int:
    raise KeyError("wing")


def a_step_of_a_loop_fails() -> None:
    with dsl.ParallelFor([1, 2]) as item:
        add(a=item, b=breaks().output)


def test_a_failure_within_a_loop_is_a_failure_of_the_run(tmp_path: Path) -> None:
    run = executed(a_step_of_a_loop_fails, tmp_path)
    assert run.state == State.FAILED
    assert "wing" in str(run.error)


def test_what_kfp_refuses_when_it_compiles_is_refused_before_there_is_a_run() -> None:
    def environment_of_a_parameter(value: str = "a") -> None:
        told(text="x").set_env_variable("NAME", value)

    with pytest.raises(TypeError, match="bad argument type"):
        dsl.pipeline(name="environment")(environment_of_a_parameter)
