"""Runs made by hand for tests of the page: a record, logs and artifacts, and nothing executed."""

from pathlib import Path
from typing import Any

from birdsong.runs.record import Run, State, Step, now
from birdsong.runs.recorder import Recorder

STEPS = ("ingest", "train", "evaluate-threshold")


def make_run(
    runs: Path, state: State = State.SUCCEEDED, failing: str | None = None, **arguments: Any
) -> Run:
    """Three steps in a row, each with one artifact, a page, metrics and a log."""
    steps = {
        name: Step(name=name, component=f"comp-{name}", upstream=list(STEPS[:number][-1:]))
        for number, name in enumerate(STEPS)
    }
    ir = {"pipelineInfo": {"name": "birdsong"}, "root": {}, "components": {}}
    recorder = Recorder(runs, ir, {"source": "demo:", "epochs": 3} | arguments, steps)
    folder = recorder.run.folder
    before: dict[str, Any] = {}
    for name in STEPS:
        log = folder / "logs" / f"{name}.log"
        log.write_text(f"{name} begins\nüber <b>bold</b>\nprogress examine 3/4 recordings\n")
        recorder.update(
            name, state=State.RUNNING, started=now(), log=str(log), inputs=before, attempts=1
        )
        if name == failing:
            recorder.update(name, state=State.FAILED, ended=now(), error="no <i>birds</i> here")
            break
        if state == State.RUNNING and name == STEPS[1]:
            return recorder.run
        made = folder / "artifacts" / name
        (made / "out").mkdir(parents=True)
        (made / "out" / "table.csv").write_text("a,b\n1,2\n3,4\n")
        (made / "page").write_text("<!doctype html><p id=made>page of " + name)
        out = {"type": "system.Dataset", "uri": str(made / "out"), "path": str(made / "out")}
        page = {"type": "system.HTML", "uri": str(made / "page"), "path": str(made / "page")}
        metrics = {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95}
        recorder.update(
            name,
            state=State.SUCCEEDED,
            ended=now(),
            outputs={
                "out": {**out, "metadata": {}, "sha256": "ab" * 32},
                "page": {**page, "metadata": {}},
            },
            metrics=metrics if name.startswith("evaluate") else {"count": 3.0},
        )
        before = {"data": out, "epochs": {"type": "int", "value": 3}}
    recorder.finish(state if failing is None else State.FAILED, failing and "it failed")
    return recorder.run
