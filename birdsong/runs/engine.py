"""Runs a compiled pipeline on this machine: a process per step, over kfp.local.

The engine keeps the record, the logs and the processes; kfp.local walks the DAG and hands inputs
and outputs on. One run per process at a time: kfp.local's settings are global.
"""

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from birdsong import artifacts
from birdsong.errors import BirdsongError
from birdsong.progress import Update
from birdsong.runs import code, graph, lint, processes, seams
from birdsong.runs.record import Recorder, Run, State, Step, now
from birdsong.runs.signals import Cancel, Cancelled
from birdsong.runs.step_process import StepProcess, explain

NO_FILE = {"system.Metrics", "system.ClassificationMetrics", "system.SlicedClassificationMetrics"}
"""Artifacts that live in their metadata; a step need not write a file for them."""


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
    reuse: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    parent: str | None = None,
    note: str = "",
) -> Run:
    """Run a pipeline to its end.

    Args:
        pipeline: A function decorated by `kfp.dsl.pipeline`.
        arguments: Values of its parameters; the others keep their defaults.
        runs: Folder of all runs.
        listener: Hears of steps and progress.
        cancel: Asked often whether to stop; without one, nothing stops the run but its end.
        reuse: Step to recorded outputs that are taken instead of executing the step.
        parent: The run that this one goes on from.
        note: Why it exists, for people.

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
    )
    host = _Host(recorder, listener or Silent(), cancel or Cancel(), reuse or {})
    state, error = State.FAILED, None
    try:
        with _watchdog(host.mark), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kfp.local: settings that only a cluster has
            with seams.installed(host, recorder.run.folder):
                host.cancel.check()
                pipeline(**values)
                host.cancel.check()
        failed = [step for step in recorder.run.steps.values() if step.state == State.FAILED]
        state = State.FAILED if failed else State.SUCCEEDED
        error = f"{failed[0].name}: {failed[0].error}" if failed else None
    except Cancelled as stop:
        state, error = State.CANCELLED, str(stop)
    except Exception as problem:  # of kfp.local or of the disk: belongs into the record
        error = f"{type(problem).__name__}: {problem}"
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


class _Host:
    """The engine's side of `seams.Host`."""

    def __init__(
        self,
        recorder: Recorder,
        listener: Listener,
        cancel: Cancel,
        reuse: Mapping[str, Mapping[str, Mapping[str, Any]]],
    ) -> None:
        self.recorder, self.listener, self.cancel, self.reuse = recorder, listener, cancel, reuse
        self.mark = secrets.token_hex(8)
        self._current = threading.local()  # loops run their steps in threads

    def step(
        self, call: seams.Call, execute: Callable[[], seams.Outputs | None]
    ) -> seams.Outputs | None:
        self.cancel.check()
        run = self.recorder.run
        inputs = {name: seams.to_record(value) for name, value in call.inputs.items()}
        known = {"task": call.task, "component": call.component, "inputs": inputs}
        if call.name in self.reuse:
            recorded = {name: dict(value) for name, value in self.reuse[call.name].items()}
            self._end(call.name, State.REUSED, started=now(), **known, **_made(recorded))
            return {name: seams.from_record(value) for name, value in recorded.items()}
        log = run.folder / "logs" / f"{call.name.replace('/', '.')}.log"
        self._change(
            call.name, state=State.RUNNING, started=now(), ended=None, log=str(log), **known
        )
        self._current.step, self._current.log = call.name, log
        try:
            outputs = execute()
            self.cancel.check()
            if outputs is None:
                self._end(call.name, State.FAILED, error=self._why(call.name, log))
                return None
            missing = _missing(call.declared, outputs)
            if missing:
                self._end(call.name, State.FAILED, error=missing)
                return None
            recorded = {name: _hashed(seams.to_record(value)) for name, value in outputs.items()}
        except Cancelled:
            self._end(call.name, State.CANCELLED, error="cancelled")
            raise
        except Exception as problem:
            self._end(call.name, State.FAILED, error=f"{type(problem).__name__}: {problem}")
            return None
        _name_pages(run.folder, call.name, recorded)
        self._end(call.name, State.SUCCEEDED, **_made(recorded))
        return outputs

    def process(self, command: list[str], environment: Mapping[str, str]) -> int:
        name, log = self._current.step, self._current.log
        step = self.recorder.run.steps[name]
        child = StepProcess(
            command,
            {**environment, "BIRDSONG_RUN": self.recorder.run.id, "BIRDSONG_STEP": name},
            log,
            f"{self.mark}/{name}",
            self.cancel,
            lambda update: self.listener.progressed(self.recorder.run, step, update),
        )
        self._change(name, pid=child.pid, attempts=step.attempts + 1, error=None)
        try:
            code = child.wait()
        finally:
            self.recorder.update(name, exit_code=child.exit_code, peak_memory=child.peak_memory)
        return code

    def sleep(self, seconds: float) -> None:
        self.cancel.sleep(seconds)

    def end_processes(self) -> None:
        processes.end(self.mark, grace_seconds=2.0, at_once=lambda: self.cancel.at_once)

    def _why(self, name: str, log: Path) -> str:
        return explain(log, self.recorder.run.steps[name].exit_code)

    def _change(self, name: str, **changes: Any) -> None:
        step = self.recorder.update(name, **changes)
        self.listener.step_changed(self.recorder.run, step)

    def _end(self, name: str, state: State, **changes: Any) -> None:
        self._change(name, state=state, ended=now(), **changes)


def _made(recorded: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    metrics = {
        name: value
        for output in recorded.values()
        if output["type"] == "system.Metrics"
        for name, value in output["metadata"].items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {"outputs": recorded, "metrics": metrics, "error": None}


def _missing(declared: Mapping[str, str], outputs: Mapping[str, Any]) -> str | None:
    """Name the outputs that a step ended without; kfp.local lets the next step stumble on them."""
    lost = [
        name
        for name, kind in declared.items()
        if name not in outputs
        or (
            kind.startswith("system.")
            and kind not in NO_FILE
            and hasattr(outputs[name], "path")
            and _is_here(outputs[name].uri)
            and not Path(outputs[name].path).exists()
        )
    ]
    if not lost:
        return None
    return f"The step ended well but made no {', '.join(lost)}."


def _is_here(uri: str) -> bool:
    return "://" not in uri


def _hashed(output: dict[str, Any]) -> dict[str, Any]:
    """Add the content's hash: of an artifact folder from its spec, of a file from its bytes."""
    path = output.get("path")
    if not path or not _is_here(output["uri"]):
        return output
    place = Path(path)
    if place.is_file():
        return output | {"sha256": artifacts.file_sha256(place)}
    if (place / artifacts.SPEC).is_file():
        with contextlib.suppress(BirdsongError):
            return output | {"sha256": artifacts.read_spec(place).sha256}
    return output


def _name_pages(folder: Path, step: str, outputs: Mapping[str, Mapping[str, Any]]) -> None:
    """Give HTML outputs, which kfp writes without an ending, a name that browsers open."""
    for name, output in outputs.items():
        if output["type"] == "system.HTML" and Path(output["path"]).is_file():
            page = folder / "pages" / f"{step.replace('/', '.')}.{name}.html"
            page.parent.mkdir(exist_ok=True)
            page.unlink(missing_ok=True)
            try:
                page.hardlink_to(output["path"])
            except OSError:
                page.write_bytes(Path(output["path"]).read_bytes())


@contextlib.contextmanager
def _watchdog(mark: str) -> Iterator[None]:
    """Should this process be killed, another one ends the steps."""
    place = Path(__file__).with_name("watchdog.py")
    dog = subprocess.Popen(
        [sys.executable, "-S", "-E", str(place), mark, tempfile.gettempdir()],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=os.sep,
    )
    assert dog.stdin is not None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            dog.stdin.write(b"\n")
            dog.stdin.close()
        dog.wait()
