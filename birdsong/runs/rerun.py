"""Which steps of an earlier run are executed again and which stand, decided before anything starts.

`resume` takes all that finished and is whole; `rerun` executes a step and what depends on it, or
what changed values touch, or one step alone with its recorded inputs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from birdsong.errors import ConfigError, DataError
from birdsong.runs import arguments, code, graph, record, resolved, reuse
from birdsong.runs.record import Run, State, Step

RUNS, REUSED, LEFT_OUT = "runs", "reused", "left out"


@dataclass(frozen=True)
class Line:
    """What becomes of one step: `what` is RUNS, REUSED or LEFT_OUT."""

    step: str
    what: str
    why: str


@dataclass
class Plan:
    """A run that goes on from another one.

    Attributes:
        parent: The run that it goes on from.
        values: Value of each parameter of the pipeline.
        lines: One for each step, in order.
        pinned: Steps that stand, and the finished steps for them.
        only: The step that is executed alone, with its inputs; None for a whole walk.
        note: Why the run exists.
    """

    parent: Run
    values: dict[str, Any]
    lines: list[Line] = field(default_factory=list)
    pinned: dict[str, reuse.Finished] = field(default_factory=dict)
    only: Step | None = None
    note: str = ""

    @property
    def runs(self) -> list[str]:
        """Steps that will be executed."""
        return [line.step for line in self.lines if line.what == RUNS]


def as_text(plan: Plan) -> str:
    """The plan for people, one line for each step."""
    wide = max((len(line.step) for line in plan.lines), default=0)
    lines = [f"plan for {plan.note} (run {plan.parent.id})"]
    for name, value in plan.values.items():
        if name not in plan.parent.arguments:
            lines.append(f"  {name}: {value!r}, which that run did not know yet")
        elif plan.parent.arguments[name] != value:
            lines.append(f"  {name}: {plan.parent.arguments[name]} -> {value}")
    lines += [f"  {line.step:<{wide}}  {line.what:<8}  {line.why}" for line in plan.lines]
    return "\n".join(lines)


def values_of(parent: Run, ir: graph.Ir, settings: Iterable[str]) -> dict[str, Any]:
    """The parameters of an earlier run, with changes.

    Raises:
        ConfigError: A name is unknown or a value does not fit, or the run is of another pipeline.
    """
    if parent.pipeline != ir["pipelineInfo"]["name"]:
        raise ConfigError(
            f"Run {parent.id} is of the pipeline {parent.pipeline!r}, not "
            f"{ir['pipelineInfo']['name']!r}."
        )
    known = graph.parameter_types(ir)
    recorded = {name: value for name, value in parent.arguments.items() if name in known}
    changed = dict(arguments.parse_setting(known, text) for text in settings)
    changed |= arguments.places(changed)
    values = graph.with_defaults(ir, recorded | changed)
    arguments.check(values)
    return values


def resume(parent: Run, ir: graph.Ir) -> Plan:
    """Execute what did not finish, and what depends on it.

    Raises:
        ConfigError: The run is at work.
    """
    _refuse_running(parent, "resume")
    plan = Plan(parent, values_of(parent, ir, ()), note="resume")
    _decide(plan, ir, {})
    return plan


def rerun(
    parent: Run, ir: graph.Ir, *, from_step: str | None = None, settings: Iterable[str] = ()
) -> Plan:
    """Execute a step, or what changed values touch, and all that depends on either.

    Raises:
        ConfigError: A step or a name is unknown, neither was given, or the run is at work.
    """
    _refuse_running(parent, "rerun")
    settings = list(settings)
    if from_step is None and not settings:
        raise ConfigError(
            "Say what to run again: --from STEP, --only STEP or --set NAME=VALUE. "
            f"Steps: {', '.join(graph.steps(ir))}."
        )
    plan = Plan(parent, values_of(parent, ir, settings))
    chosen: dict[str, str] = {}
    reached = resolved.parameters(ir)
    changed = [n for n, v in plan.values.items() if parent.arguments.get(n, _ABSENT) != v]
    for step in graph.steps(ir):
        known = reached.get(step, set())
        touched = [n for n in changed if n in known and reuse.matters(n, known, plan.values)]
        if touched:
            chosen[step] = f"{', '.join(touched)} changed"
    if from_step is not None:
        name = graph.step_name(graph.steps(ir), from_step)
        chosen[name] = "asked for"
    parts = [*([f"--from {from_step}"] if from_step else []), *(f"--set {s}" for s in settings)]
    plan.note = f"rerun {' '.join(parts)}"
    if chosen:
        _decide(plan, ir, chosen)
    else:
        plan.lines = [Line(step, REUSED, "nothing changed") for step in graph.steps(ir)]
    return plan


_ABSENT = object()


def only(parent: Run, ir: graph.Ir, asked: str, settings: Iterable[str] = ()) -> Plan:
    """Execute one step alone, with the inputs that the run has recorded for it.

    Raises:
        ConfigError: The step is unknown or was never started there, or the run is at work.
        DataError: A recorded input is gone or was changed.
    """
    _refuse_running(parent, "rerun")
    settings = list(settings)
    steps = graph.steps(ir)
    name = graph.step_name(steps, asked)
    old = parent.steps.get(name)
    if old is None or not old.inputs:
        raise ConfigError(
            f"{name} was never started in run {parent.id}, so it has no recorded inputs. "
            f"Go on with: resume {parent.id}"
        )
    note = " ".join([f"rerun --only {name}", *(f"--set {text}" for text in settings)])
    plan = Plan(parent, values_of(parent, ir, settings), note=note)
    inputs = {key: dict(value) for key, value in old.inputs.items()}
    _verify(parent, old)
    task = resolved.inputs(ir, name, plan.values, {n: s.outputs for n, s in parent.steps.items()})
    for key, given in (task or {}).items():
        # Recorded artifacts stay; a plain value may have been changed by --set.
        if "value" in given and "value" in inputs.get(key, {}):
            value = given["value"]
            if isinstance(inputs[key]["value"], int) and isinstance(value, float):
                value = int(value) if value.is_integer() else value
            inputs[key] = {"type": type(value).__name__, "value": value}
    plan.only = Step(name, task=old.task, component=steps[name].component, inputs=inputs)
    above = _upstream(steps, name)
    for step in steps:
        done = reuse.finished(parent, step)
        if step == name:
            plan.lines.append(Line(step, RUNS, "asked for, with its recorded inputs"))
        elif step in above and done is not None:
            plan.pinned[step] = done
            plan.lines.append(Line(step, REUSED, f"made the inputs in {done.run}"))
        else:
            plan.lines.append(Line(step, LEFT_OUT, "not asked for"))
    return plan


def _refuse_running(parent: Run, what: str) -> None:
    if record.is_elsewhere(parent):
        raise ConfigError(
            f"Run {parent.id} is at work on {parent.host or 'another machine'}; end it there. If "
            f"that machine is gone: resume {parent.id} --machine-is-gone"
        )
    if parent.state == State.RUNNING:
        raise ConfigError(
            f"Run {parent.id} is at work; wait for it, or end it with: stop {parent.id}. "
            f"Then {what} it."
        )


def _upstream(steps: Mapping[str, Step], name: str) -> set[str]:
    found: set[str] = set()
    waiting = list(steps[name].upstream)
    while waiting:
        step = waiting.pop()
        if step not in found:
            found.add(step)
            waiting += steps[step].upstream
    return found


def _verify(parent: Run, step: Step) -> None:
    made = {
        item["uri"]: (other.name, item.get("sha256"))
        for other in parent.steps.values()
        for value in other.outputs.values()
        for item in value.get("items", [value])
        if "uri" in item
    }
    for name, value in step.inputs.items():
        for item in value.get("items", [value]):
            if "uri" not in item:
                continue
            producer, known = made.get(item["uri"], ("", None))
            wrong = reuse.damage({name: {**item, "sha256": item.get("sha256") or known}})
            if wrong:
                again = f" Make it anew: rerun {parent.id} --from {producer}" if producer else ""
                raise DataError(f"The recorded input {wrong}.{again}")


def _decide(plan: Plan, ir: graph.Ir, chosen: Mapping[str, str]) -> None:
    """Fill in the plan: the chosen steps, those that did not finish, and all behind either."""
    parent, steps = plan.parent, graph.steps(ir)
    keys = reuse.Keys(ir, code.versions())
    why = dict(chosen)
    for step in resolved.behind_loops(ir):
        why.setdefault(step, "waits for a loop, which is always executed")
    # Not executed anyway: what is behind those is not looked at, which may be many bytes.
    behind = graph.downstream(steps, set(why))
    found: dict[str, reuse.Finished] = {}
    for step in steps:
        if step in behind:
            continue
        before = parent.steps.get(step)
        done = reuse.finished(parent, step)
        if done is None:
            if before is not None and _not_taken(parent, before):
                continue
            why[step] = f"did not finish: {before.state if before else 'unknown'}"
        elif (wrong := reuse.damage(done.outputs)) is not None:
            why[step] = f"its output {wrong}"
        else:
            found[step] = done
            continue
        behind = graph.downstream(steps, behind | {step})
    for step in steps:
        if step in why:
            plan.lines.append(Line(step, RUNS, why[step]))
        elif step in behind:
            cause = next(name for name in steps[step].upstream if name in behind)
            plan.lines.append(Line(step, RUNS, f"comes after {cause}"))
        elif step in found:
            plan.pinned[step] = found[step]
            text = f"finished in {found[step].run}"
            if reuse.code_changed(keys, parent.steps[step]):
                text += "; its code has changed since"
            plan.lines.append(Line(step, REUSED, text))
        else:
            plan.lines.append(Line(step, LEFT_OUT, "its condition was false"))


def _not_taken(parent: Run, step: Step) -> bool:
    """Whether a step was skipped by its condition, not because something before it failed."""
    return parent.state == State.SUCCEEDED and step.state == State.SKIPPED


def forecast(
    ir: graph.Ir,
    values: Mapping[str, Any],
    earlier: reuse.Earlier,
    versions: Mapping[str, str],
    images: Mapping[str, str] | None = None,
) -> list[Line]:
    """Which steps `run` would take from earlier runs, as far as it can be told before.

    A step behind one that runs may still be reused, when that one makes the same contents again.
    """
    keys = reuse.Keys(ir, versions, images)
    outputs: dict[str, Mapping[str, Any]] = {}
    lines = []
    for step, entry in graph.steps(ir).items():
        inputs = resolved.inputs(ir, step, values, outputs)
        if inputs is None:
            lines.append(Line(step, RUNS, "unless its inputs come out as in an earlier run"))
            continue
        key = keys.key(entry.component, inputs)
        found = earlier.find(key, entry.component, reuse.plain_values(inputs))
        if found is None:
            why = "new" if key else "what it reads cannot be told beforehand"
            lines.append(Line(step, RUNS, why))
        else:
            outputs[step] = found.outputs
            lines.append(Line(step, REUSED, f"from {found.run}"))
    return lines


def compare_metrics(old: Step, new: Step) -> str:
    """Metrics of a step in two runs side by side."""
    names = [*old.metrics, *(name for name in new.metrics if name not in old.metrics)]
    if not names:
        return "No metrics."
    wide = max(map(len, names))
    lines = [f"  {'metric':<{wide}}  {'old':>14}  {'new':>14}  {'difference':>14}"]
    for name in names:
        before, after = old.metrics.get(name), new.metrics.get(name)
        change = "" if before is None or after is None else f"{after - before:+.6g}"
        lines.append(f"  {name:<{wide}}  {_figure(before):>14}  {_figure(after):>14}  {change:>14}")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
