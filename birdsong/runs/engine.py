"""Runs a compiled pipeline on this machine, over kfp.local: a process or a container per step.

The engine keeps the record and the logs, a runner starts the steps; kfp.local walks the DAG and
hands inputs and outputs on. One run per process at a time: kfp.local's settings are global.
"""

import contextlib
import secrets
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from birdsong.errors import BirdsongError, DataError
from birdsong.progress import Update
from birdsong.runs import (
    code,
    graph,
    leftovers,
    lint,
    made,
    processes,
    retries,
    reuse,
    runners,
    seams,
    watchdog,
)
from birdsong.runs.record import Run, State, Step, now, read
from birdsong.runs.recorder import Recorder
from birdsong.runs.signals import Cancel, Cancelled
from birdsong.runs.step_process import Limits, explain


class Listener(Protocol):
    """Hears what happens while it happens."""

    def step_changed(self, run: Run, step: Step) -> None:
        """A step started or ended."""

    def progressed(self, run: Run, step: Step, update: Update) -> None:
        """A running step told how far it is."""


class Silent:
    """A listener that does nothing."""

    def step_changed(self, run: Run, step: Step) -> None:
        """Ignore it."""

    def progressed(self, run: Run, step: Step, update: Update) -> None:
        """Ignore it."""


def execute(
    pipeline: Callable[..., Any],
    arguments: Mapping[str, Any],
    runs: str | Path,
    *,
    listener: Listener | None = None,
    cancel: Cancel | None = None,
    pinned: Mapping[str, reuse.Finished] | None = None,
    cache: bool = False,
    only: Step | None = None,
    limits: Limits | None = None,
    runner: runners.Runner | None = None,
    parent: str | None = None,
    note: str = "",
    jobs_of: str = "",
) -> Run:
    """Run a pipeline to its end.

    Args:
        pipeline: A function decorated by `kfp.dsl.pipeline`.
        arguments: Values of its parameters; the others keep their defaults.
        runs: Folder of all runs.
        listener: Hears of steps and progress.
        cancel: Asked often whether to stop; without one, nothing stops the run but its end.
        pinned: Step to a finished one whose outputs are taken instead of executing the step.
        cache: Whether steps may be taken from earlier runs of the folder by their key.
        only: Execute this one step alone, with the inputs that it has recorded; `pinned` then
            only says what stands for the others in the record.
        limits: Time and memory of each step.
        runner: Starts the steps; by default each is a process.
        parent: The run that this one goes on from.
        note: Why it exists, for people.
        jobs_of: The run whose jobs elsewhere this one goes on with; empty for its own.

    Returns:
        The record: SUCCEEDED, FAILED or CANCELLED. A step's failure does not raise.

    Raises:
        ConfigError: The pipeline, a value or the installed kfp does not fit; nothing was started.
        StorageError: The runs folder cannot be written.
    """
    seams.check()
    ir = graph.as_ir(pipeline)
    values = graph.with_defaults(ir, arguments)
    lint.check(ir, values)
    runner = runner or runners.Processes()
    recorder = Recorder(
        runs,
        ir,
        values,
        graph.steps(ir),
        parent=parent,
        note=note,
        command=list(sys.argv),
        fingerprint=code.fingerprint(),
        versions=code.versions(),
        runner=str(runner.name),
        mark=secrets.token_hex(8),
        jobs_of=jobs_of,
    )
    if parent is not None:
        _end_orphans(recorder.run.folder.with_name(parent), runner)
    host = _Host(
        recorder,
        listener or Silent(),
        cancel or Cancel(),
        pinned or {},
        reuse.Keys(ir, recorder.run.versions, runner.images),
        cache,
        limits or Limits(),
        runner,
    )
    state, error = State.FAILED, None
    said: list[str] = []
    try:
        with watchdog.watching(host.mark, runner.watchdog), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kfp.local: settings that only a cluster has
            with seams.installed(host, recorder.run.folder) as said:
                host.cancel.check()
                if only is None:
                    pipeline(**values)
                else:
                    host.stand_in()
                    seams.single(host, pipeline, recorder.run.folder, only)
                host.cancel.check()
        failed = [step for step in recorder.run.steps.values() if step.state == State.FAILED]
        state = State.FAILED if failed else State.SUCCEEDED
        error = f"{failed[0].name}: {failed[0].error}" if failed else None
    except Cancelled as stop:
        state, error = State.CANCELLED, str(stop)
    except Exception as problem:  # of kfp.local or of the disk: belongs into the record
        error = said[-1] if said else _told(problem)
        failed = [step for step in recorder.run.steps.values() if step.state == State.FAILED]
        if failed:
            error = f"{failed[0].name}: {failed[0].error}"
    except BaseException as problem:
        error = type(problem).__name__
        raise
    finally:
        host.end_processes()
        recorder.finish(state, error)
    return recorder.run


def _end_orphans(folder: Path, runner: runners.Runner) -> None:
    """End what a run that died left at work because its watchdog was killed as well."""
    with contextlib.suppress(DataError):  # a record that somebody removed meanwhile
        died = read(folder)
        if died.state == State.DIED and died.mark:
            processes.end(died.mark, grace_seconds=1.0)
            runner.end(died.mark, at_once=lambda: True)


class _Host:
    """The engine's side of `seams.Host`."""

    def __init__(
        self,
        recorder: Recorder,
        listener: Listener,
        cancel: Cancel,
        pinned: Mapping[str, reuse.Finished],
        keys: reuse.Keys,
        cache: bool,
        limits: Limits,
        runner: runners.Runner,
    ) -> None:
        self.recorder, self.listener, self.cancel, self.pinned = recorder, listener, cancel, pinned
        self.keys, self.cache, self.limits, self.runner = keys, cache, limits, runner
        self.known = set(recorder.run.steps)  # without those of loops, which come while it runs
        self._earlier: reuse.Earlier | None = None
        self._hashes: dict[str, str] = {}  # of this run's outputs, by their place
        self.mark = recorder.run.mark
        self._current = threading.local()  # loops run their steps in threads

    def step(
        self, call: seams.Call, execute: Callable[[], seams.Outputs | None]
    ) -> seams.Outputs | None:
        self.cancel.check()
        run = self.recorder.run
        inputs = {name: self._hashed(seams.to_record(v)) for name, v in call.inputs.items()}
        known = {"task": call.task, "component": call.component, "inputs": inputs}
        try:
            taken = self._take(call, known)
        except BirdsongError as problem:
            self._end(call.name, State.FAILED, started=now(), error=str(problem), **known)
            return None
        if taken is not None:
            return taken
        key, ran = self.keys.key(call.component, inputs), self.keys.code(call.component)
        log = run.folder / "logs" / f"{call.name.replace('/', '.')}.log"
        self._change(
            call.name, state=State.RUNNING, started=now(), ended=None, log=str(log), **known
        )
        self._current.step, self._current.log, self._current.exceeded = call.name, log, None
        try:
            outputs = execute()
            self.cancel.check()
            if outputs is None:
                self._fail(call, self._why(call.name, log))
                return None
            lost = made.missing(call.declared, outputs)
            if lost:
                self._end(call.name, State.FAILED, error=lost)
                return None
            recorded = {n: reuse.with_hash(seams.to_record(v)) for n, v in sorted(outputs.items())}
        except Cancelled:
            self._end(call.name, State.CANCELLED, error="cancelled")
            raise
        except Exception as problem:
            self._end(call.name, State.FAILED, error=_told(problem))
            return None
        made.name_pages(run.folder, call.name, recorded)
        self._remember(recorded)
        # Code or a source that was edited meanwhile: nobody knows which of both was at work.
        if call.name not in self.known or self.keys.key(call.component, inputs) != key:
            key = None
        self._end(call.name, State.SUCCEEDED, key=key, code=ran, **made.changes(recorded))
        return outputs

    def _take(self, call: seams.Call, known: Mapping[str, Any]) -> seams.Outputs | None:
        """The outputs of a finished step instead of executing it; None where there are none."""
        found, run = self.pinned.get(call.name), self.recorder.run
        if found is None and not (self.cache and call.name in self.known):
            return None
        with reuse.locked(run.folder.parent):
            if found is None:
                key = self.keys.key(call.component, known["inputs"])
                if key is not None and self._earlier is None:
                    self._earlier = reuse.Earlier(run.folder.parent)
                if key is not None and self._earlier is not None:
                    values = reuse.plain_values(known["inputs"])
                    found = self._earlier.find(key, call.component, values)
            elif lost := reuse.absent(found.outputs):
                raise DataError(
                    f"its output {lost}, which was to be reused, is gone since this run was "
                    "planned. Start the command again; the step will then be executed."
                )
            return None if found is None else self._stand_for(call.name, found, known)

    def _stand_for(
        self, name: str, found: reuse.Finished, known: Mapping[str, Any]
    ) -> seams.Outputs:
        recorded = {output: dict(value) for output, value in found.outputs.items()}
        self._remember(recorded)
        made.name_pages(self.recorder.run.folder, name, recorded)
        self._end(
            name,
            State.REUSED,
            started=now(),
            reused_from=found.run,
            key=found.key,
            code=found.code,
            **known,
            **made.changes(recorded),
        )
        return {output: seams.from_record(value) for output, value in recorded.items()}

    def stand_in(self) -> None:
        """Record all pinned steps as reused, before the one step of a run is executed alone."""
        for name, found in self.pinned.items():
            self._stand_for(name, found, {})

    def _remember(self, outputs: Mapping[str, Mapping[str, Any]]) -> None:
        for output in outputs.values():
            for value in output.get("items", [output]):
                if "sha256" in value:
                    self._hashes[value["uri"]] = value["sha256"]

    def _hashed(self, given: dict[str, Any]) -> dict[str, Any]:
        """An input with the hash of its content, known from the step that made it."""
        if "items" in given:
            return {**given, "items": [self._hashed(item) for item in given["items"]]}
        if given.get("uri") in self._hashes:
            return {**given, "sha256": self._hashes[given["uri"]]}
        return reuse.with_hash(given) if "uri" in given else given

    def process(self, command: list[str], environment: Mapping[str, str]) -> int:
        while True:
            start = self._current.log.stat().st_size if self._current.log.exists() else 0
            exit_code = self._attempt(command, environment)
            step = self.recorder.run.steps[self._current.step]
            wait = None
            if not self._current.exceeded:
                tries = len(step.tries) + 1
                wait = retries.delay(tries, exit_code, self._current.log, start)
            if wait is None:
                return exit_code
            failed = {
                "ended": now(),
                "exit_code": exit_code,
                "error": explain(self._current.log, exit_code),
                "delay_seconds": wait,
            }
            self._change(step.name, tries=[*step.tries, failed], error=failed["error"])
            self.cancel.sleep(wait)

    def _attempt(self, command: list[str], environment: Mapping[str, str]) -> int:
        name, run = self._current.step, self.recorder.run
        step = run.steps[name]
        job = runners.Job(
            command=command,
            environment={
                # One folder for all runs: a later run goes on where a killed one's training ended.
                "BIRDSONG_CHECKPOINTS": str(run.folder.parent / leftovers.CHECKPOINTS),
                **environment,
                "BIRDSONG_RUN": run.id,
                "BIRDSONG_JOBS_OF": run.jobs_of or run.id,
                "BIRDSONG_STEP": name,
            },
            image=self.keys.image(step.component),
            run=run,
            step=name,
            log=self._current.log,
            mark=f"{self.mark}/{name}",
            cancel=self.cancel,
            progressed=lambda update: self.listener.progressed(run, step, update),
            limits=self.limits,
        )
        started = self.runner.start(job)
        self._change(
            name,
            pid=started.pid,
            container=started.container,
            attempts=step.attempts + 1,
            error=None,
        )
        try:
            code = started.wait()
        finally:
            self._current.exceeded = started.exceeded
            self.recorder.update(name, exit_code=started.exit_code, peak_memory=started.peak_memory)
        return code

    def sleep(self, seconds: float) -> None:
        self.cancel.sleep(seconds)

    def _fail(self, call: seams.Call, error: str) -> None:
        """Record a failure, and the pages that the step wrote before it, such as the audit."""
        run = self.recorder.run
        pages = {
            name: {"type": kind, "name": name, "uri": str(place), "path": str(place)}
            for name, kind in call.declared.items()
            if kind == "system.HTML"
            and (place := run.folder / "artifacts" / call.name / name).is_file()
        }
        made.name_pages(run.folder, call.name, pages)
        for name, page in pages.items():
            error = error.replace(page["path"], str(made.page(run.folder, call.name, name)))
        outputs = {name: {**reuse.with_hash(page), "metadata": {}} for name, page in pages.items()}
        self._end(call.name, State.FAILED, error=error, outputs=outputs)

    def end_processes(self) -> None:
        self.runner.end(self.mark, at_once=lambda: self.cancel.at_once)

    def _why(self, name: str, log: Path) -> str:
        exceeded: str | None = self._current.exceeded
        return exceeded or explain(log, self.recorder.run.steps[name].exit_code)

    def _change(self, name: str, **changes: Any) -> None:
        step = self.recorder.update(name, **changes)
        self.listener.step_changed(self.recorder.run, step)

    def _end(self, name: str, state: State, **changes: Any) -> None:
        self._change(name, state=state, ended=now(), **changes)


def _told(problem: Exception) -> str:
    """An error as a text; one of birdsong says by itself what happened."""
    if type(problem).__name__ == "SerializeToJsonError":
        return (
            "A metric or a note of an output is no finite number (NaN or infinite), which no "
            "record can hold. Log a finite one, or none."
        )
    own = isinstance(problem, BirdsongError)
    return str(problem) if own else f"{type(problem).__name__}: {problem}"
