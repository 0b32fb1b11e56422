"""Which steps of a run on the cluster will run again and which KFP should take from its cache."""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from birdsong.errors import ConfigError, DataError
from birdsong.kubeflow import nonces
from birdsong.kubeflow.api import Api
from birdsong.kubeflow.compiling import Compiled
from birdsong.runs import graph
from birdsong.runs.record import FINISHED, USABLE, Run
from birdsong.runs.rerun import LEFT_OUT, REUSED, RUNS, Line


@dataclass
class Plan:
    """A run that goes on from another one.

    Attributes:
        parent: The run that it goes on from.
        values: Value of each parameter of the pipeline.
        compiled: What will be submitted.
        lines: What becomes of each step.
        unasked: Steps before the asked one that would run again, and why.
        note: Why the run exists.
        name: Of the run.
    """

    parent: Run
    values: Mapping[str, Any]
    compiled: Compiled
    lines: list[Line] = field(default_factory=list)
    unasked: dict[str, str] = field(default_factory=dict)
    note: str = ""
    name: str = ""


def pipeline_of(api: Api, found: Any) -> Compiled:
    """The compiled pipeline that a run was made from.

    Args:
        api: The backend.
        found: `kfp_server_api.V2beta1Run`.

    Raises:
        DataError: The backend has none, or one that is not of this kind.
    """
    spec = found.pipeline_spec
    reference = found.pipeline_version_reference
    if not spec and reference is not None and reference.pipeline_version_id:
        spec = api.version_by_id(
            str(reference.pipeline_id), str(reference.pipeline_version_id)
        ).pipeline_spec
    if not isinstance(spec, dict) or not spec:
        raise DataError(f"The backend has no compiled pipeline of run {found.run_id}.")
    return _parse(spec, str(found.run_id))


def _parse(spec: Mapping[str, Any], run_id: str) -> Compiled:
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    pipeline = spec.get("pipeline_spec", spec)
    platform = spec.get("platform_spec", {})
    try:
        # Through KFP's own messages: the backend may give either spelling of names.
        read = json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
        extra = json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    except (json_format.ParseError, TypeError, AttributeError) as error:
        raise DataError(
            f"The compiled pipeline of run {run_id} cannot be read ({error})."
        ) from None
    return Compiled(json_format.MessageToDict(read), json_format.MessageToDict(extra))


def plan(
    parent: Run,
    before: Compiled,
    now: Compiled,
    values: Mapping[str, Any],
    *,
    from_step: str | None = None,
    only: str | None = None,
    settings: Iterable[str] = (),
    nonce: str | None = None,
) -> Plan:
    """Decide what a rerun executes.

    Args:
        parent: The run that is gone on from.
        before: The pipeline that it was made from.
        now: The pipeline as it is compiled now, which a step's new code is in.
        values: Value of each parameter for the new run.
        from_step: Run this step and all that depends on it.
        only: Run this step; nothing that depends on it.
        settings: Changed values as the person typed them, for the note.
        nonce: The text that makes the step new; None for a random one.

    Raises:
        ConfigError: The step is unknown, or nothing was asked for.
    """
    steps = graph.steps(now.pipeline)
    settings = list(settings)
    if from_step is not None and only is not None:
        raise ConfigError("Give either --from or --only.")
    if from_step is None and only is None and not settings:
        raise ConfigError(
            "Say what to run again: --from STEP, --only STEP or --set NAME=VALUE. "
            f"Steps: {', '.join(steps)}."
        )
    if parent.pipeline != now.pipeline["pipelineInfo"]["name"]:
        raise ConfigError(
            f"Run {parent.id} is of the pipeline {parent.pipeline!r}, not "
            f"{now.pipeline['pipelineInfo']['name']!r}."
        )
    if parent.state not in FINISHED:
        raise ConfigError(
            f"Run {parent.id} is at work; wait for it, or end it with stop. Then rerun it."
        )
    asked = only if only is not None else from_step
    step = graph.step_name(steps, asked) if asked is not None else None
    nonce = nonce or secrets.token_hex(6)
    kept = {name: text for name, text in nonces.nonces(before.pipeline).items() if name in steps}
    compiled = nonces.with_nonces(now, kept | ({step: nonce} if step else {}))
    parts = [
        *([f"--from {step}"] if step and only is None else []),
        *([f"--only {step}"] if only is not None else []),
        *(f"--set {text}" for text in settings),
    ]
    made = Plan(
        parent,
        values,
        compiled if only is None or step is None else nonces.only_up_to(compiled, step),
        note=f"rerun {' '.join(parts)} of {parent.id}",
        name=f"birdsong-{step or 'rerun'}-{nonce[:8]}",
    )
    inside = set(graph.steps(made.compiled.pipeline))
    changed = _changed(parent, before, compiled, values, steps, step)
    after_asked = graph.downstream(steps, {step}) if step else set()
    again = graph.downstream(steps, set(changed))
    for name in steps:
        if name not in inside:
            made.lines.append(Line(name, LEFT_OUT, "not asked for"))
        elif name == step:
            made.lines.append(Line(name, RUNS, "asked for"))
        elif name in changed:
            made.lines.append(Line(name, RUNS, changed[name]))
        elif name in again or name in after_asked:
            cause = next(n for n in steps[name].upstream if n in again or n in after_asked)
            made.lines.append(Line(name, RUNS, f"comes after {cause}"))
        else:
            made.lines.append(Line(name, REUSED, "KFP's cache should have it"))
        line = made.lines[-1]
        if line.what == RUNS and name != step and name not in after_asked and step is not None:
            made.unasked[name] = line.why
    return made


def _changed(
    parent: Run,
    before: Compiled,
    now: Compiled,
    values: Mapping[str, Any],
    steps: Iterable[str],
    asked: str | None,
) -> dict[str, str]:
    """Steps that KFP's cache cannot have, and why, those behind others left aside."""
    known = graph.steps(before.pipeline)
    found = {}
    for name in steps:
        if name == asked:
            continue
        old = parent.steps.get(name)
        if name not in known or old is None:
            found[name] = "was not part of that run"
        elif old.state not in USABLE:
            found[name] = f"did not finish there: {old.state}"
        elif not _cached(before, name) or not _cached(now, name):
            found[name] = "is not cached"
        else:
            was = nonces.cache_key_parts(
                before, name, graph.defaults(before.pipeline) | parent.arguments
            )
            is_now = nonces.cache_key_parts(now, name, values)
            different = [part for part in was if was[part] != is_now[part]]
            if different:
                found[name] = _why(different, was, is_now)
    return found


def _cached(compiled: Compiled, step: str) -> bool:
    tasks = compiled.pipeline["root"]["dag"]["tasks"].values()
    task = next(t for t in tasks if t["componentRef"]["name"] == f"comp-{step}")
    return bool(task.get("cachingOptions", {}).get("enableCache", False))


def _why(different: list[str], was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    part = different[0]
    if part == "image":
        return f"its image changed: {_tag(was['image'])} -> {_tag(now['image'])}"
    if part == "parameters":
        names = sorted(
            name
            for name in {**was[part], **now[part]}
            if was[part].get(name) != now[part].get(name)
        )
        return f"{', '.join(names)} changed"
    return f"its {part} changed"


def _tag(image: Any) -> str:
    return str(image).rpartition("/")[2]


def as_text(made: Plan) -> str:
    """The plan for people, one line for each step."""
    wide = max((len(line.step) for line in made.lines), default=0)
    lines = [f"plan for {made.note}"]
    for name, value in made.values.items():
        before = made.parent.arguments.get(name, value)
        if before != value:
            lines.append(f"  {name}: {before} -> {value}")
    lines += [f"  {line.step:<{wide}}  {line.what:<8}  {line.why}" for line in made.lines]
    if made.unasked:
        lines.append(
            f"Not asked for, but would run again: {', '.join(made.unasked)}. The cache of KFP is "
            "known by image and values: submit with the images and settings of that run to keep it."
        )
    return "\n".join(lines)
