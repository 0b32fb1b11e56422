"""Pipelines and values that kfp.local gets wrong are refused with what to do instead."""

from collections.abc import Callable
from typing import Any, Optional

import pytest
from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from birdsong.errors import ConfigError
from birdsong.runs import graph, lint

IMAGE = "python:3.11"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def number() -> int:
    return 1


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def add(a: int, b: int) -> int:
    return a + b


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def defaulted(a: int = 1) -> int:
    return a


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def many(values: list) -> int:
    return len(values)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def optional(value: Optional[int] = None) -> int:  # noqa: UP045 (kfp knows no other way)
    return value or 0


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def write(out: Output[Dataset]) -> None:
    """Write."""


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def read(data: Input[Dataset]) -> None:
    """Read."""


@dsl.component(base_image=IMAGE, packages_to_install=["attrs"])
def installing() -> int:
    return 1


@dsl.container_component
def container() -> dsl.ContainerSpec:
    return dsl.ContainerSpec(image="alpine", command=["true"])


def loop_over_another_steps_value() -> None:
    base = number()
    with dsl.ParallelFor([1, 2]) as item:
        add(a=item, b=base.output)


def loop_over_artifacts_and_parameters(b: int = 5) -> None:
    with dsl.ParallelFor([1, 2]) as item:
        add(a=item, b=b)


def one_of_two_artifacts(text: str = "a") -> Dataset:
    with dsl.If(text == "a"):
        first = write()
    with dsl.Else():
        second = write()
    read(data=dsl.OneOf(first.outputs["out"], second.outputs["out"]))
    return dsl.OneOf(first.outputs["out"], second.outputs["out"])


def list_of_outputs() -> None:
    many(values=[number().output, number().output])


def list_of_whole_numbers() -> None:
    many(values=[1, 2])


def optional_parameter(value: Optional[int] = None) -> None:  # noqa: UP045
    add(a=1, b=2)


def optional_left_unset() -> None:
    optional()


def a_container() -> None:
    container()


def installs() -> None:
    installing()


def ignores_a_failure() -> None:
    defaulted(a=number().output).ignore_upstream_failure()


def compiled(function: Callable[..., Any]) -> dict[str, Any]:
    return graph.as_ir(dsl.pipeline(name=function.__name__.replace("_", "-"))(function))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (loop_over_another_steps_value, "the loop's item instead of the other step's output"),
        (one_of_two_artifacts, "dsl.OneOf over artifacts"),
        (list_of_outputs, "arrive as texts"),
        (list_of_whole_numbers, "arrive as fractions"),
        (optional_parameter, "optional without a default"),
        (optional_left_unset, "left unset"),
        (a_container, "container component cannot run as a process"),
        (installs, "installs packages when it runs"),
        (ignores_a_failure, "ignore_upstream_failure"),
    ],
)
def test_a_shape_that_goes_wrong_here_is_refused(function: Callable[..., Any], said: str) -> None:
    problems = lint.pipeline_problems(compiled(function))
    assert len(problems) >= 1
    assert any(said in problem for problem in problems), problems


def test_a_loop_over_items_and_parameters_is_fine() -> None:
    assert lint.pipeline_problems(compiled(loop_over_artifacts_and_parameters)) == []


def test_the_birdsong_pipeline_is_fine() -> None:
    from pipeline import birdsong

    ir = graph.as_ir(birdsong)
    assert lint.pipeline_problems(ir) == []
    assert lint.argument_problems(ir, graph.defaults(ir)) == []


def choose(text: str = "a", other: str = "b") -> None:
    with dsl.If(text == "a"):
        add(a=1, b=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"text": "it's"}, "single quote"),
        ({"text": "{{$.x}}"}, "KFP's own"),
        ({"text": None}, "cannot be None"),
        ({"other": [1, 2]}, "arrive as fractions"),
    ],
)
def test_a_value_that_goes_wrong_here_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        lint.check(compiled(choose), arguments)


def test_a_quote_where_nothing_compares_it_is_fine() -> None:
    assert lint.argument_problems(compiled(choose), {"other": "it's"}) == []
