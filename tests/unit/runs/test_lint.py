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


def one_of_two_artifacts(text: str = "a") -> Dataset:
    with dsl.If(text == "a"):
        first = write()
    with dsl.Else():
        second = write()
    read(data=dsl.OneOf(first.outputs["out"], second.outputs["out"]))
    return dsl.OneOf(first.outputs["out"], second.outputs["out"])


def list_of_outputs() -> None:
    many(values=[number().output, number().output])


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


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def read_if_there(data: Input[Dataset] = None) -> None:
    """Read."""


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def holds_a_placeholder() -> str:
    return "{{$.x}}"


def source_with_a_placeholder() -> None:
    holds_a_placeholder()


def ignores_a_failed_artifact() -> None:
    read_if_there(data=write().outputs["out"]).ignore_upstream_failure()


def compares_with_a_quote(text: str = "a") -> None:
    with dsl.If(text == "it's"):
        add(a=1, b=2)


def compares_with_a_backslash(text: str = "a") -> None:
    with dsl.If(text == "C:\\new"):
        add(a=1, b=2)


def gathers_from_a_condition() -> None:
    with dsl.ParallelFor([1, 2]) as item, dsl.If(item == 1):
        one = defaulted(a=item)
    many(values=dsl.Collected(one.output))


def compiled(function: Callable[..., Any]) -> dict[str, Any]:
    return graph.as_ir(dsl.pipeline(name=function.__name__.replace("_", "-"))(function))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (one_of_two_artifacts, "dsl.OneOf over artifacts"),
        (list_of_outputs, "arrive as texts"),
        (optional_parameter, "optional without a default"),
        (optional_left_unset, "left unset"),
        (a_container, "container component cannot run as a process"),
        (installs, "installs packages when it runs"),
        (ignores_a_failure, "ignore_upstream_failure"),
        (ignores_a_failed_artifact, "ignore_upstream_failure"),
        (compares_with_a_quote, "neither a quote nor a backslash"),
        (compares_with_a_backslash, "neither a quote nor a backslash"),
        (source_with_a_placeholder, "its source holds the text"),
        (gathers_from_a_condition, "there is nothing to gather"),
    ],
)
def test_a_shape_that_goes_wrong_here_is_refused(function: Callable[..., Any], said: str) -> None:
    problems = lint.pipeline_problems(compiled(function))
    assert len(problems) >= 1
    assert any(said in problem for problem in problems), problems


def test_the_birdsong_pipeline_is_fine() -> None:
    from pipeline import birdsong

    ir = graph.as_ir(birdsong)
    assert lint.pipeline_problems(ir) == []
    assert lint.argument_problems(graph.defaults(ir)) == []


def choose(text: str = "a", other: str = "b") -> None:
    with dsl.If(text == "a"):
        add(a=1, b=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"text": "{{$.x}}"}, "KFP's own"),
        ({"text": "a /kfp-workspace/b"}, "KFP's own"),
        ({"other": [1, {"a": "{{$}}"}]}, "KFP's own"),
        ({"text": None}, "cannot be None"),
    ],
)
def test_a_value_that_goes_wrong_here_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        lint.check(compiled(choose), arguments)
