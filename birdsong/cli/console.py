"""What the commands print: live lines of a run, its end, tables of runs."""

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from birdsong.progress import Update
from birdsong.runs.plan import duration
from birdsong.runs.record import FINISHED, Run, State, Step

if TYPE_CHECKING:
    from rich.progress import TaskID

_MARKS = {
    State.SUCCEEDED: ("✓", "ok", "green"),
    State.REUSED: ("↺", "reused", "cyan"),
    State.FAILED: ("✗", "FAILED", "red"),
    State.DIED: ("✗", "DIED", "red"),
    State.CANCELLED: ("■", "cancelled", "yellow"),
    State.SKIPPED: ("·", "skipped", "dim"),
    State.RUNNING: ("▶", "running", "blue"),
    State.PENDING: ("·", "pending", "dim"),
}


def _console() -> Console:
    # Lines are for people and for grep: never wrapped in the middle of a path.
    return Console(file=sys.stdout, soft_wrap=True, highlight=False)


def _mark(console: Console, state: State) -> str:
    sign, word, colour = _MARKS[state]
    text = sign if console.encoding.lower().startswith("utf") else word
    return f"[{colour}]{text}[/{colour}]"


def _line(console: Console, step: Step) -> str:
    if step.state == State.REUSED:
        return f"{_mark(console, step.state)} {step.name:<20}  reused from {step.reused_from}"
    seconds = "" if step.seconds is None else f"  {duration(step.seconds)}"
    return f"{_mark(console, step.state)} {step.name:<20}{seconds}"


class Live:
    """Hears a run and shows it: one line per ended step, a live bar of the running one."""

    def __init__(self, runs: Path) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._console = _console()
        self._runs, self._told, self._started = runs, False, 0.0
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[what]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "Live":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def step_changed(self, run: Run, step: Step) -> None:
        """A step started or ended."""
        if not self._told:
            self._console.print(f"run {run.id}")
            self._told = True
        if step.state == State.RUNNING and self._task is None:
            self._started = time.monotonic()
            self._task = self._bar.add_task(step.name, total=None, what="")
        elif step.state == State.RUNNING and step.error and step.tries:
            text = step.error.splitlines()[0]
            wait = duration(step.tries[-1]["delay_seconds"])
            self._console.print(escape(f"  {step.name}: {text} Trying again in {wait}."))
        elif step.state in FINISHED:
            if self._task is not None:
                self._bar.remove_task(self._task)
                self._task = None
            self._console.print(_line(self._console, step))

    def progressed(self, run: Run, step: Step, update: Update) -> None:
        """A running step told how far it is."""
        if self._task is not None:
            self._bar.update(
                self._task,
                completed=update.done,
                total=update.total,
                what=escape(f"{update.label} {update.done:,}/{update.total:,} {update.unit}"),
            )


def summary(run: Run, runs: Path) -> None:
    """Say what a run made, where to look and what to do next."""
    console = _console()
    took = "" if run.seconds is None else f" in {duration(run.seconds)}"
    if run.state == State.CANCELLED:
        console.print(f"\n{_mark(console, run.state)} Cancelled{took}; nothing is left running.")
        console.print(f"  record   {escape(str(run.folder / 'run.json'))}")
        _next(console, f"resume {run.id}", runs)
        return
    failed = next((step for step in run.steps.values() if step.state == State.FAILED), None)
    if run.state != State.SUCCEEDED:
        where = f"step {failed.name} failed" if failed else "the run failed"
        text = (failed.error if failed else run.error) or ""
        console.print(f"\n{_mark(console, State.FAILED)} {where}{took}:")
        for line in text.splitlines():
            console.print(f"  {escape(line)}")
        for page in _pages_of(run, failed):
            console.print(f"  page     {escape(page)}")
        if failed and failed.log:
            console.print(f"  log      {escape(failed.log)}")
        _go_on(console, run, failed, runs)
        return
    console.print(f"\n{_mark(console, run.state)} Done{took}.")
    for name, text in results(run):
        console.print(f"  {name:<9}{escape(text)}")
    _next(console, f"runs show {run.id}", runs)


def _next(console: Console, command: str, runs: Path, what: str = "Next:") -> None:
    option = "" if runs == Path("runs") else f" --runs {runs}"
    console.print(what)
    console.print(escape(f"  python pipeline.py {command}{option}"))


def _go_on(console: Console, run: Run, failed: Step | None, runs: Path) -> None:
    """Say what helps after this failure: the same again, or something that has to be changed."""
    from birdsong.runs.retries import raised

    kind = raised(Path(failed.log)) if failed and failed.log else ""
    if kind == "birdsong.errors.ConfigError":
        _next(console, f"rerun {run.id} --set NAME=VALUE", runs, "Next, with another setting:")
    elif kind == "birdsong.errors.DataError":
        _next(console, f"resume {run.id}", runs, "Next, when that is mended:")
        _next(console, f"rerun {run.id} --set NAME=VALUE", runs, "or with another setting:")
    else:
        _next(console, f"resume {run.id}", runs)


def _pages_of(run: Run, step: Step | None) -> list[str]:
    """Pages that a failed step wrote before it failed, such as the audit."""
    if step is None:
        return []
    return [str(page) for page in sorted(run.folder.glob(f"pages/{step.name}.*.html"))]


def results(run: Run) -> list[tuple[str, str]]:
    """Headline results of a run of the birdsong pipeline, as names and texts; what is there."""
    found: list[tuple[str, str]] = []
    found += _accuracy(run)
    found += [("warning", text) for text in warnings(run)]
    version = _read(run, "register", "version", "version.json")
    if version:
        name = f"{version.get('name')} version {version.get('version')}"
        if version.get("status") == "rejected":
            found.append(("rejected", f"{name}: {version.get('reason')}"))
        else:
            found.append(("version", f"{name}, in {version.get('registry')}"))
    endpoint = _read(run, "deploy", "endpoint", "endpoint.json")
    if endpoint:
        state = str(endpoint.get("state"))
        text = f"{state}: {endpoint['reason']}" if endpoint.get("reason") else state
        found.append(("endpoint", text))
        if endpoint.get("command"):
            found.append(("serve", _command(endpoint["command"])))
    pages = sorted((run.folder / "pages").glob("*.html"))
    report = [page for page in pages if page.name == "evaluate-threshold.report.html"]
    found += [("report", str(page)) for page in report]
    found.append(("files", str(run.folder)))
    return found


def warnings(run: Run) -> list[str]:
    """What a run came to its end with and a person should know."""
    found = []
    ingest, evaluated = run.steps.get("ingest"), run.steps.get("evaluate-threshold")
    if ingest and ingest.metrics.get("species") == 1:
        found.append(
            "there is one species alone: a classifier has nothing to tell it from. Add others."
        )
    counts = evaluated.metrics if evaluated else {}
    without = int(counts.get("thresholds_none", 0))
    some = int(counts.get("thresholds_own", 0) + counts.get("thresholds_pooled", 0))
    if without and not some:
        note = _read(run, "evaluate-threshold", "thresholds", "thresholds.json").get("note", "")
        found.append(f"no species has a threshold, so none is reported as heard. {note}".strip())
    elif without:
        found.append(
            f"{without} of {without + some} species have no threshold and are never reported as "
            "heard; the report lists them."
        )
    return found


def _command(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _read(run: Run, step: str, output: str, file: str) -> dict[str, Any]:
    import json

    entry = run.steps.get(step)
    path = entry.outputs.get(output, {}).get("path") if entry else None
    if not path or not (Path(path) / file).is_file():
        return {}
    document = json.loads((Path(path) / file).read_text())
    return document if isinstance(document, dict) else {}


def _accuracy(run: Run) -> list[tuple[str, str]]:
    metrics = _read(run, "evaluate-threshold", "evaluation", "metrics.json")
    texts = []
    for who in ("network", "baseline"):
        figure = (
            metrics.get(who, {}).get("accuracy") if isinstance(metrics.get(who), dict) else None
        )
        if isinstance(figure, dict) and figure.get("value") is not None:
            text = f"{figure['value']:.3f}"
            if figure.get("low") is not None and figure.get("high") is not None:
                text += f" ({figure['low']:.3f} to {figure['high']:.3f})"
            texts.append(f"{who} {text}")
    return [("accuracy", ", ".join(texts))] if texts else []


def table_of_runs(found: list[Run], runs: Path) -> None:
    """One line per run, newest first."""
    console = _console()
    if not found:
        console.print(f"No runs in {escape(str(runs))}.")
        return
    for run in found:
        step = next((s.name for s in run.steps.values() if s.state not in _WELL), "")
        took = duration(run.seconds) if run.seconds is not None else ""
        source = escape(str(run.arguments.get("source", "")))
        console.print(
            f"{run.id}  {_mark(console, run.state)} {run.state:<9}  {took:>12}  {source}"
            + (f"  at {step}" if step and run.state != State.SUCCEEDED else "")
        )


_WELL = {State.SUCCEEDED, State.REUSED, State.SKIPPED}


def show(run: Run) -> None:
    """All of a run that fits on a screen."""
    console = _console()
    took = f" in {duration(run.seconds)}" if run.seconds is not None else ""
    console.print(f"run {run.id}  {_mark(console, run.state)} {run.state}{took}")
    console.print(f"started {run.started}, pipeline {run.pipeline}")
    for name, value in run.arguments.items():
        console.print(escape(f"  {name} = {value}"))
    for step in run.steps.values():
        console.print(_line(console, step))
        for name, number in step.metrics.items():
            console.print(escape(f"    {name} = {number:g}"))
        for name, output in step.outputs.items():
            if "path" in output and Path(output["path"]).exists():
                console.print(escape(f"    {name}: {output['path']}"))
        for line in (step.error or "").splitlines():
            console.print(f"    [red]{escape(line)}[/red]")
        if step.error and step.log:
            console.print(escape(f"    log: {step.log}"))
    if run.error and not any(step.error for step in run.steps.values()):
        console.print(f"[red]{escape(run.error)}[/red]")
    if run.state == State.SUCCEEDED:
        for name, text in results(run):
            console.print(f"{name:<9}{escape(text)}")


def end_of_remote(run: Run, page: str) -> None:
    """Say how a run on a cluster ended."""
    console = _console()
    took = "" if run.seconds is None else f" in {duration(run.seconds)}"
    if run.state == State.SUCCEEDED:
        console.print(f"\n{_mark(console, run.state)} Done{took}.")
    elif run.state == State.CANCELLED:
        console.print(f"\n{_mark(console, run.state)} Cancelled{took}.")
    else:
        failed = next((step for step in run.steps.values() if step.state == State.FAILED), None)
        where = f"step {failed.name} failed" if failed else "the run failed"
        console.print(f"\n{_mark(console, State.FAILED)} {where}{took}:")
        text = (failed.error if failed else None) or run.error or "its log is on the page"
        console.print(f"  {escape(text)}")
    console.print(f"  page     {escape(page)}")


def table_of_remote_runs(found: list[Run], host: str) -> None:
    """One line per run of a cluster, newest first."""
    console = _console()
    if not found:
        console.print(f"No runs at {escape(host)}.")
    for run in found:
        took = duration(run.seconds) if run.seconds is not None else ""
        console.print(
            f"{run.id}  {run.started[:16].replace('T', ' ')}  {_mark(console, run.state)} "
            f"{run.state:<9}  {took:>12}  {escape(run.note)}"
        )


def show_remote(run: Run, page: str) -> None:
    """All that a cluster tells of a run."""
    console = _console()
    took = f" in {duration(run.seconds)}" if run.seconds is not None else ""
    console.print(
        f"run {run.id}  {_mark(console, run.state)} {run.state}{took}  {escape(run.note)}"
    )
    console.print(f"started {run.started}, pipeline {run.pipeline}")
    for name, value in run.arguments.items():
        console.print(escape(f"  {name} = {value}"))
    for step in run.steps.values():
        console.print(_line(console, step))
        if step.error:
            console.print(f"    [red]{escape(step.error)}[/red]")
    if run.error:
        console.print(f"[red]{escape(run.error)}[/red]")
    console.print(f"page {escape(page)}")
