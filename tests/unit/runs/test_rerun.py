"""Going on from an earlier run: what is executed, what stands, and the plan that says so before."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import branching_pipeline
import pytest
import small_pipelines
from branching_pipeline import branching, contents

from birdsong.errors import ConfigError, DataError
from birdsong.runs import engine, graph, processes, record, rerun, stopping
from birdsong.runs.record import Run, State
from birdsong.runs.rerun import LEFT_OUT, REUSED, RUNS, Plan

IR = graph.as_ir(branching)
PROGRAM = [sys.executable, str(Path(branching_pipeline.__file__))]


def whats(plan: Plan) -> dict[str, str]:
    return {line.step: line.what for line in plan.lines}


def whys(plan: Plan) -> dict[str, str]:
    return {line.step: line.why for line in plan.lines}


def go(plan: Plan, runs: Path) -> Run:
    return engine.execute(
        branching,
        plan.values,
        runs,
        pinned=plan.pinned,
        only=plan.only,
        parent=plan.parent.id,
        note=plan.note,
    )


def states(run: Run) -> dict[str, State]:
    return {name: step.state for name, step in run.steps.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return engine.execute(branching, {}, tmp_path_factory.mktemp("whole") / "runs")


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return engine.execute(branching, {"how": "fail"}, tmp_path_factory.mktemp("failed") / "runs")


def test_resume_after_a_failure_executes_what_did_not_finish(failed: Run) -> None:
    plan = rerun.resume(failed, IR)
    assert whats(plan) == {"begin": REUSED, "left": REUSED, "right": REUSED, "join": RUNS}
    assert whys(plan)["join"] == "did not finish: FAILED"
    again = go(plan, failed.folder.parent)
    assert again.steps["join"].state == State.FAILED
    assert again.parent == failed.id
    assert states(again)["begin"] == State.REUSED


def test_resume_of_a_finished_run_has_nothing_to_do(whole: Run) -> None:
    assert rerun.resume(whole, IR).runs == []


def test_resume_executes_finished_steps_whose_outputs_are_damaged(tmp_path: Path) -> None:
    run = engine.execute(branching, {"how": "fail"}, tmp_path)
    (run.folder / "artifacts" / "right" / "out").write_text("")
    plan = rerun.resume(run, IR)
    assert whats(plan) == {"begin": REUSED, "left": REUSED, "right": RUNS, "join": RUNS}
    assert whys(plan)["right"] == "its output out was changed or damaged"


def test_rerun_from_a_step_executes_it_and_what_depends_on_it(whole: Run) -> None:
    plan = rerun.rerun(whole, IR, from_step="right")
    assert whats(plan) == {"begin": REUSED, "left": REUSED, "right": RUNS, "join": RUNS}
    assert whys(plan) == {
        "begin": f"finished in {whole.id}",
        "left": f"finished in {whole.id}",
        "right": "asked for",
        "join": "comes after right",
    }
    again = go(plan, whole.folder.parent)
    assert states(again) == {
        "begin": State.REUSED,
        "left": State.REUSED,
        "right": State.SUCCEEDED,
        "join": State.SUCCEEDED,
    }
    assert contents(again) == contents(whole)
    assert again.steps["begin"].key == whole.steps["begin"].key


def test_rerun_with_a_changed_value_executes_what_it_touches(whole: Run) -> None:
    plan = rerun.rerun(whole, IR, settings=["times=5"])
    assert whats(plan) == {"begin": REUSED, "left": RUNS, "right": REUSED, "join": RUNS}
    assert whys(plan)["left"] == "times changed"
    assert "times: 2 -> 5" in rerun.as_text(plan)
    again = go(plan, whole.folder.parent)
    assert again.steps["join"].metrics["times"] == 5


def test_rerun_from_a_step_and_with_a_value_executes_both(whole: Run) -> None:
    plan = rerun.rerun(whole, IR, from_step="right", settings=["times=5"])
    assert whats(plan) == {"begin": REUSED, "left": RUNS, "right": RUNS, "join": RUNS}


def test_a_value_that_is_as_before_changes_nothing(whole: Run) -> None:
    assert rerun.rerun(whole, IR, settings=["times=2"]).runs == []


def test_rerun_of_a_failed_run_also_executes_what_did_not_finish(failed: Run) -> None:
    plan = rerun.rerun(failed, IR, from_step="left", settings=["how=well"])
    assert whats(plan) == {"begin": REUSED, "left": RUNS, "right": REUSED, "join": RUNS}
    assert go(plan, failed.folder.parent).state == State.SUCCEEDED


def test_only_executes_one_step_with_its_recorded_inputs(whole: Run) -> None:
    plan = rerun.only(whole, IR, "right")
    assert whats(plan) == {"begin": REUSED, "left": LEFT_OUT, "right": RUNS, "join": LEFT_OUT}
    again = go(plan, whole.folder.parent)
    assert again.state == State.SUCCEEDED
    assert states(again) == {
        "begin": State.REUSED,
        "left": State.SKIPPED,
        "right": State.SUCCEEDED,
        "join": State.SKIPPED,
    }
    assert (
        again.steps["right"].inputs["data"]["sha256"]
        == (whole.steps["begin"].outputs["out"]["sha256"])
    )
    assert again.steps["right"].key == whole.steps["right"].key


def test_only_takes_a_changed_value_and_shows_metrics_side_by_side(whole: Run) -> None:
    plan = rerun.only(whole, IR, "begin", ["text=longer"])
    again = go(plan, whole.folder.parent)
    text = rerun.compare_metrics(whole.steps["begin"], again.steps["begin"])
    assert text.splitlines()[1].split() == ["letters", "4", "6", "+2"]


def test_only_works_for_a_step_of_a_run_that_failed_elsewhere(failed: Run) -> None:
    again = go(rerun.only(failed, IR, "left"), failed.folder.parent)
    assert again.steps["left"].state == State.SUCCEEDED


def test_only_refuses_inputs_that_were_changed(tmp_path: Path) -> None:
    run = engine.execute(branching, {}, tmp_path)
    (run.folder / "artifacts" / "begin" / "out" / "one.txt").write_text("wing")
    with pytest.raises(DataError, match=f"data was changed.*rerun {run.id} --from begin"):
        rerun.only(run, IR, "left")


def test_only_refuses_a_step_that_was_never_started(tmp_path: Path) -> None:
    run = engine.execute(small_pipelines.chain, {"how": "other"}, tmp_path)
    with pytest.raises(ConfigError, match=f"last was never started.*resume {run.id}"):
        rerun.only(run, graph.as_ir(small_pipelines.chain), "last")


def test_an_unknown_step_names_the_nearest(whole: Run) -> None:
    with pytest.raises(ConfigError, match="Did you mean right"):
        rerun.rerun(whole, IR, from_step="rigt")
    with pytest.raises(ConfigError, match=r"--from STEP, --only STEP or --set"):
        rerun.rerun(whole, IR)
    with pytest.raises(ConfigError, match="Did you mean times"):
        rerun.rerun(whole, IR, settings=["time=3"])


def test_a_run_of_another_pipeline_is_refused(whole: Run) -> None:
    with pytest.raises(ConfigError, match="of the pipeline 'branching', not 'chain'"):
        rerun.resume(whole, graph.as_ir(small_pipelines.chain))


def test_a_branch_that_was_not_taken_stays_out(tmp_path: Path) -> None:
    choosing = small_pipelines.choosing
    run = engine.execute(choosing, {"text": "b"}, tmp_path)
    ir = graph.as_ir(choosing)
    assert rerun.resume(run, ir).runs == []
    # The condition compares the text, so both branches may be concerned.
    assert set(rerun.rerun(run, ir, settings=["text=a"]).runs) == {"last", "last-2"}


def start(runs: Path, **arguments: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*PROGRAM, "run", str(runs), json.dumps(arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(runs: Path, step: str) -> Run:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(runs.glob(f"*/{record.RECORD}")):
            run = record.find(runs, "latest")
            if run.steps[step].state == State.RUNNING and run.steps[step].pid:
                return run
        time.sleep(0.02)
    raise AssertionError(f"{step} did not start")


def test_resume_after_the_engine_was_killed_in_the_middle_of_a_step(
    tmp_path: Path, whole: Run
) -> None:
    child = start(tmp_path, pause=5.0, children=True)
    run = wait_for(tmp_path, "begin")
    child.kill()
    child.communicate(timeout=30)
    dead = record.find(tmp_path, run.id)
    assert dead.state == State.DIED
    plan = rerun.resume(dead, IR)
    assert whys(plan)["begin"] == "did not finish: DIED"
    plan.values["pause"] = 0.0
    again = go(plan, tmp_path)
    assert again.state == State.SUCCEEDED
    assert contents(again) == contents(whole)


def test_stop_ends_a_run_and_what_it_started(tmp_path: Path) -> None:
    child = start(tmp_path, pause=1.0, children=True)
    run = wait_for(tmp_path, "right")
    with pytest.raises(ConfigError, match=f"stop {run.id}"):
        rerun.resume(run, IR)
    ended = stopping.stop(run)
    assert ended.state == State.CANCELLED
    assert ended.error == "cancelled by SIGTERM"
    child.communicate(timeout=30)
    assert child.returncode == 130
    pid = ended.steps["right"].pid
    assert pid is not None
    assert processes.started(pid) is None
    with pytest.raises(ConfigError, match="is not running: it is CANCELLED"):
        stopping.stop(record.read(run.folder))


def test_stop_spares_a_later_process_with_the_number_of_the_engine(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    try:
        run = Run("x", "p", tmp_path, {}, pid=other.pid, process_started="before")
        run.host = processes.current().host
        with pytest.raises(ConfigError, match="is gone"):
            stopping.stop(run)
        assert other.poll() is None
        run.host = "elsewhere"
        with pytest.raises(ConfigError, match="runs on elsewhere"):
            stopping.stop(run)
    finally:
        other.kill()
        other.wait()


def test_a_pinned_output_that_vanished_before_the_start_is_told(whole: Run, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run = engine.execute(branching, {"how": "fail"}, runs)
    plan = rerun.resume(run, IR)
    shutil.rmtree(run.folder / "artifacts" / "left")
    again = go(plan, runs)
    assert again.state == State.FAILED
    assert again.error == f"left: {again.steps['left'].error}"
    assert "its output out, which was to be reused, is gone" in again.error
