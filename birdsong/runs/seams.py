"""The one file that touches the inside of kfp.local.

kfp.local runs a compiled pipeline but tells nobody what it does: it has no hooks. Every leaf task
of its orchestrators goes through one function and every process through another; both are looked
up in their modules when they are called, so that they can be replaced while a run lasts. A check of
their signatures refuses a kfp that has moved them.
"""

import contextlib
import inspect
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Protocol

from birdsong.errors import ConfigError
from birdsong.runs import control_flow
from birdsong.runs.record import Step

FITTING = "2.17"
"""The kfp versions (major.minor) that this file was written and tested against."""

Outputs = dict[str, Any]
"""Name of each output to its value: a plain value or a kfp artifact."""


@dataclass(frozen=True)
class Call:
    """A step that kfp.local is about to execute.

    Attributes:
        name: Its name, unique in the run: that of the component, within the loop's iteration.
        task: Name of the task in its pipeline.
        component: Name of the component in the compiled pipeline.
        inputs: Its inputs as they are, artifacts as kfp objects.
        declared: The component's outputs: name to type, as "system.Dataset" or "STRING".
    """

    name: str
    task: str
    component: str
    inputs: dict[str, Any]
    declared: dict[str, str]


class Host(Protocol):
    """What a run has to supply."""

    def step(self, call: Call, execute: Callable[[], Outputs | None]) -> Outputs | None:
        """Execute a step or give its outputs otherwise; None for a failed step."""

    def process(self, command: list[str], environment: Mapping[str, str]) -> int:
        """Run the process of the current step and return its exit code."""

    def sleep(self, seconds: float) -> None:
        """Wait before a retry."""


def check() -> None:
    """Refuse a kfp whose inside is not the one that this file replaces.

    Raises:
        ConfigError: Says which kfp came and which versions fit.
    """
    import kfp
    from kfp.local import (
        executor_input_utils,
        io,
        logging_utils,
        subprocess_task_handler,
        task_dispatcher,
    )
    from kfp.local.orchestrator import (
        enhanced_dag_orchestrator,
        task_executor,
        task_spec_utils,
    )

    expected: list[tuple[Any, str, str]] = [
        (
            task_dispatcher,
            "run_single_task_implementation",
            "pipeline_resource_name component_name component_spec executor_spec arguments "
            "pipeline_root runner raise_on_error block_input_artifact unique_pipeline_id",
        ),
        (
            task_executor,
            "execute_single_task",
            "task_name task_spec pipeline_resource_name components executors io_store "
            "pipeline_root runner unique_pipeline_id fail_stack",
        ),
        (subprocess_task_handler, "run_local_subprocess", "full_command env_vars"),
        (subprocess_task_handler, "replace_python_executable", "full_command new_executable"),
        (executor_input_utils, "get_local_pipeline_resource_name", "pipeline_name"),
        (executor_input_utils, "executor_input_to_dict", "executor_input component_spec"),
        (
            enhanced_dag_orchestrator.ConditionEvaluator,
            "evaluate_condition",
            "condition io_store",
        ),
        (
            task_spec_utils,
            "create_parameter_loop_iteration_task_spec",
            "original_task_spec loop_item loop_task_name",
        ),
        (io.IOStore, "get_parent_input", "self key"),
        (io.IOStore, "get_task_output", "self task_name key"),
        (logging_utils, "indented_print", "num_spaces"),
        (logging_utils, "local_logger_context", ""),
        (logging_utils, "print_horizontal_line", ""),
    ]
    for module, name, parameters in expected:
        _check_one(module, name, parameters.split(), kfp.__version__)
    if not hasattr(task_executor, "time"):
        raise _moved("task_executor.time", "absent", kfp.__version__)
    for name in ("_task_output_data", "_parent_input_data", "_parent"):
        if not hasattr(io.IOStore(), name):
            raise _moved(f"IOStore.{name}", "absent", kfp.__version__)


def _check_one(module: ModuleType | type, name: str, parameters: list[str], version: str) -> None:
    function = getattr(module, name, None)
    if function is None:
        raise _moved(f"{module.__name__}.{name}", "absent", version)
    found = list(inspect.signature(function).parameters)
    if found != parameters:
        raise _moved(f"{module.__name__}.{name}", f"({', '.join(found)})", version)


def _moved(what: str, found: str, version: str) -> ConfigError:
    return ConfigError(
        f"kfp {version} does not fit: {what} is {found}. birdsong runs pipelines here over the "
        f"inside of kfp {FITTING}; install it with: pip install 'kfp=={FITTING}.*'"
    )


@contextlib.contextmanager
def installed(host: Host, run_folder: Path) -> Iterator[list[str]]:
    """Send kfp.local's steps and processes to `host` while the context lasts.

    Yields a list that gets what kfp.local logs of errors that it does not raise. Outputs go to
    `run_folder`/artifacts/<step>/<output>. All runs of a folder share one pipeline root, because
    that is the one folder that kfp.local mounts into a container.
    """
    check()
    from kfp import local
    from kfp.local import (
        config,
        executor_input_utils,
        io,
        logging_utils,
        subprocess_task_handler,
    )
    from kfp.local.orchestrator import (
        enhanced_dag_orchestrator,
        task_executor,
        task_spec_utils,
    )

    resource_name = f"{run_folder.name}/artifacts"
    replacements: list[tuple[Any, str, Any]] = [
        (
            task_executor,
            "execute_single_task",
            _stepwise(host, task_executor.execute_single_task, resource_name),
        ),
        (task_executor, "time", SimpleNamespace(sleep=host.sleep)),
        (
            subprocess_task_handler,
            "run_local_subprocess",
            lambda full_command, env_vars=None: host.process(list(full_command), env_vars or {}),
        ),
        # The original replaces the text "python3" everywhere in the command, values included.
        (
            subprocess_task_handler,
            "replace_python_executable",
            lambda full_command, new_executable: list(full_command),
        ),
        (executor_input_utils, "get_local_pipeline_resource_name", lambda name: resource_name),
        (
            executor_input_utils,
            "executor_input_to_dict",
            _with_whole_numbers(executor_input_utils.executor_input_to_dict),
        ),
        (
            enhanced_dag_orchestrator.ConditionEvaluator,
            "evaluate_condition",
            staticmethod(control_flow.evaluate_in_store),
        ),
        (
            task_spec_utils,
            "create_parameter_loop_iteration_task_spec",
            control_flow.iteration,
        ),
        (io.IOStore, "get_parent_input", control_flow.parent_input),
        (io.IOStore, "get_task_output", control_flow.task_output),
        # The originals swap builtins.print and the root logger's handlers, and write to stdout.
        (logging_utils, "print_horizontal_line", lambda: None),
        (logging_utils, "indented_print", lambda num_spaces=4: contextlib.nullcontext()),
        (logging_utils, "local_logger_context", _quiet),
    ]
    saved = [
        (module, name, inspect.getattr_static(module, name)) for module, name, _ in replacements
    ]
    instance = config.LocalExecutionConfig.instance
    for module, name, value in replacements:
        setattr(module, name, value)
    # In the run's folder and not in the temporary one, where it would stay after a hard end.
    workspace = run_folder / "workspace"
    errors = _Errors()
    logging.root.addHandler(errors)
    try:
        workspace.mkdir()
        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=str(run_folder.parent),
            workspace_root=str(workspace),
            raise_on_error=True,  # a loop may fail although none of its steps did
        )
        yield errors.said
    finally:
        logging.root.removeHandler(errors)
        shutil.rmtree(workspace, ignore_errors=True)
        for module, name, value in saved:
            setattr(module, name, value)
        config.LocalExecutionConfig.instance = instance


class _Errors(logging.Handler):
    """Keeps what kfp.local logs of errors in the threads of loops, which it does not raise."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, or print what others log as without this handler."""
        if "/kfp/local/" not in Path(record.pathname).as_posix():
            if logging.lastResort is not None:
                logging.lastResort.handle(record)
        elif record.levelno >= logging.ERROR:
            self.said.append(record.getMessage())


def _with_whole_numbers(original: Callable[..., Any]) -> Callable[..., Any]:
    def executor_input_to_dict(executor_input: Any, component_spec: Any) -> Any:
        document = original(executor_input, component_spec)
        inputs, declared = document.get("inputs", {}), component_spec.input_definitions.parameters
        for name, value in inputs.get("parameterValues", {}).items():
            # Not declared: what a text is put together of, as in f"{task.output}".
            if isinstance(value, list | dict) or name not in declared:
                inputs["parameterValues"][name] = control_flow.whole_numbers(value)
        for listed in inputs.get("artifacts", {}).values():
            for artifact in listed.get("artifacts", []):
                artifact["metadata"] = control_flow.whole_numbers(artifact.get("metadata", {}))
        return document

    return executor_input_to_dict


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep kfp.local's own lines out of everybody's log; the record says the same."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def single(host: Host, pipeline: Any, run_folder: Path, step: Step) -> None:
    """Execute one step alone, with the inputs that it has recorded; within `installed`."""
    from kfp.local import config, placeholder_utils, status, task_dispatcher, utils

    spec = pipeline.pipeline_spec
    component = spec.components[step.component]
    executor = spec.deployment_spec["executors"][component.executor_label]
    inputs = {name: from_record(value) for name, value in step.inputs.items()}
    call = Call(step.name, step.task, step.component, inputs, _declared(component))

    def execute() -> Outputs | None:
        outputs, state = task_dispatcher.run_single_task_implementation(
            pipeline_resource_name=f"{run_folder.name}/artifacts",
            component_name=step.component,
            component_spec=component,
            executor_spec=utils.struct_to_executor_spec(executor),
            arguments=inputs,
            pipeline_root=str(run_folder.parent),
            runner=config.LocalExecutionConfig.instance.runner,
            raise_on_error=False,
            block_input_artifact=False,
            unique_pipeline_id=placeholder_utils.make_random_id(),
        )
        return dict(outputs) if state == status.Status.SUCCESS else None

    host.step(call, execute)


def _stepwise(host: Host, original: Callable[..., Any], resource_name: str) -> Callable[..., Any]:
    from kfp.local import status
    from kfp.local.orchestrator.orchestrator_utils import OrchestratorUtils

    def execute_single_task(
        task_name: str,
        task_spec: Any,
        pipeline_resource_name: str,
        components: Any,
        executors: Any,
        io_store: Any,
        **rest: Any,
    ) -> tuple[Outputs, Any]:
        component = task_spec.component_ref.name
        # kfp adds the loop's iteration to the resource name. The component's name, not the
        # task's: tasks of a nested pipeline that is used twice have the same name.
        scope = pipeline_resource_name.removeprefix(resource_name).strip("/")
        name = "/".join(part for part in (scope, component.removeprefix("comp-")) if part)
        call = Call(
            name=name,
            task=task_spec.task_info.name or task_name,
            component=component,
            inputs=OrchestratorUtils.make_task_arguments(
                task_inputs_spec=task_spec.inputs, io_store=io_store
            ),
            declared=_declared(components[component]),
        )

        def execute() -> Outputs | None:
            control_flow.refuse_placeholders(call.inputs)
            outputs, state = original(
                task_name=task_name,
                task_spec=task_spec,
                pipeline_resource_name=pipeline_resource_name,
                components=components,
                executors=executors,
                io_store=io_store,
                **rest,
            )
            return outputs if state == status.Status.SUCCESS else None

        result = host.step(call, execute)
        if result is None:
            return {}, status.Status.FAILURE
        return result, status.Status.SUCCESS

    return execute_single_task


def _declared(component: Any) -> dict[str, str]:
    from kfp.pipeline_spec import pipeline_spec_pb2

    outputs = component.output_definitions
    names = pipeline_spec_pb2.ParameterType.ParameterTypeEnum
    return {
        **{name: names.Name(spec.parameter_type) for name, spec in outputs.parameters.items()},
        **{name: spec.artifact_type.schema_title for name, spec in outputs.artifacts.items()},
    }


def to_record(value: Any) -> dict[str, Any]:
    """An input or output as plain JSON values.

    Returns:
        {"type", "value"} for a plain value, {"type", "name", "uri", "path", "metadata"} for an
        artifact, {"type": "list", "items"} for a list of artifacts.
    """
    from kfp import dsl

    if isinstance(value, dsl.Artifact):
        return {
            "type": value.schema_title,
            "name": value.name,
            "uri": value.uri,
            "path": value.path,
            "metadata": dict(value.metadata),
        }
    if isinstance(value, list) and value and all(isinstance(item, dsl.Artifact) for item in value):
        return {"type": "list", "items": [to_record(item) for item in value]}
    return {"type": type(value).__name__, "value": value}


def from_record(recorded: Mapping[str, Any]) -> Any:
    """The value that `to_record` wrote down, artifacts as kfp objects again."""
    from kfp.dsl import executor

    if "items" in recorded:
        return [from_record(item) for item in recorded["items"]]
    if "uri" not in recorded:
        return recorded["value"]
    return executor.create_artifact_instance(
        {
            "name": recorded["name"],
            "uri": recorded["uri"],
            "metadata": dict(recorded["metadata"]),
            "type": {"schemaTitle": recorded["type"]},
        }
    )
