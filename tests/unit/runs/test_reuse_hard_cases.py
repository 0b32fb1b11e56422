"""Where steps must not be reused: loops, caching switched off, exits, a changed registry."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from branching_pipeline import IMAGE
from kfp import dsl
from small_pipelines import choosing, last

from birdsong.runs import engine, graph, outside, record, rerun, resolved, reuse
from birdsong.runs.record import State


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gather(texts: list) -> str:  # type: ignore[type-arg]
    """Put texts together."""
    return "".join(sorted(texts))


@dsl.pipeline(name="looping")
def looping(text: str = "a") -> str:
    first = last(text=text)
    with dsl.ParallelFor(["b", "c"]) as item:
        inside = last(text=item).after(first)
    return gather(texts=dsl.Collected(inside.output)).output


@dsl.pipeline(name="uncached")
def uncached(text: str = "a") -> None:
    first = last(text=text).set_caching_options(False)
    last(text=first.output)


@dsl.pipeline(name="leaving-well")
def leaving_well(text: str = "a") -> None:
    with dsl.ExitHandler(last(text="bye")):
        last(text=text)


def states(pipeline: Any, runs: Path) -> dict[str, State]:
    run = engine.execute(pipeline, {}, runs, cache=True)
    assert run.state == State.SUCCEEDED, run.error
    return {name: step.state for name, step in run.steps.items()}


def test_steps_in_loops_always_run_and_what_gathers_them_only_if_they_changed(
    tmp_path: Path,
) -> None:
    first = states(looping, tmp_path)
    assert set(first.values()) == {State.SUCCEEDED}
    again = states(looping, tmp_path)
    assert again["last"] == State.REUSED
    assert again["gather"] == State.REUSED
    loops = {name: state for name, state in again.items() if name not in ("last", "gather")}
    assert len(loops) == 2
    assert set(loops.values()) == {State.SUCCEEDED}


def test_a_rerun_executes_what_waits_for_a_loop(tmp_path: Path) -> None:
    run = engine.execute(looping, {}, tmp_path)
    ir = graph.as_ir(looping)
    assert resolved.behind_loops(ir) == {"gather"}
    plan = rerun.rerun(run, ir, from_step="gather")
    assert {line.step: line.what for line in plan.lines} == {"last": "reused", "gather": "runs"}
    again = engine.execute(looping, plan.values, tmp_path, pinned=plan.pinned, parent=run.id)
    assert again.state == State.SUCCEEDED
    assert again.steps["gather"].outputs["Output"]["value"] == "bc"


def test_a_step_whose_author_switched_caching_off_always_runs(tmp_path: Path) -> None:
    states(uncached, tmp_path)
    assert states(uncached, tmp_path) == {"last": State.SUCCEEDED, "last-2": State.REUSED}


def test_what_runs_at_the_exit_always_runs(tmp_path: Path) -> None:
    states(leaving_well, tmp_path)
    again = states(leaving_well, tmp_path)
    assert sorted(again.values()) == [State.REUSED, State.SUCCEEDED]


def test_a_reused_branch_stays_the_branch_that_was_taken(tmp_path: Path) -> None:
    states(choosing, tmp_path)
    assert states(choosing, tmp_path) == {"last": State.REUSED, "last-2": State.SKIPPED}


def test_parameters_that_a_condition_compares_reach_the_steps_within() -> None:
    assert resolved.parameters(graph.as_ir(choosing)) == {"last": {"text"}, "last-2": {"text"}}


@pytest.fixture
def registered(tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """Values and outputs of a register step, and its registry."""
    bundle, version = tmp_path / "kept", tmp_path / "version"
    bundle.mkdir()
    version.mkdir()
    document = {
        **{"name": "birdsong", "version": 2, "status": "registered", "bundle_sha256": "ab"},
        "uri": f"file://{bundle}",
    }
    (version / "version.json").write_text(json.dumps(document))
    file = tmp_path / "mlflow.db"
    database = sqlite3.connect(file)
    database.execute("CREATE TABLE model_versions (name, version, current_stage)")
    database.execute("CREATE TABLE model_version_tags (key, value, name, version)")
    database.execute("INSERT INTO model_versions VALUES ('birdsong', 2, 'None')")
    for key, value in (("bundle_sha256", "ab"), ("status", "registered")):
        database.execute(
            "INSERT INTO model_version_tags VALUES (?, ?, 'birdsong', 2)", (key, value)
        )
    database.commit()
    database.close()
    values = {"registry": f"sqlite:///{file}", "gate": "baseline"}
    return values, {"version": {"path": str(version), "uri": str(version)}}, file


def change(file: Path, statement: str) -> None:
    database = sqlite3.connect(file)
    database.execute(statement)
    database.commit()
    database.close()


Registered = tuple[dict[str, Any], dict[str, Any], Path]


def test_a_registration_stands_while_the_registry_holds_the_version(
    registered: Registered,
) -> None:
    values, outputs, _ = registered
    assert outside.still_holds("register", values, outputs)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM model_versions",
        "UPDATE model_versions SET current_stage = 'Deleted_Internal'",
        "UPDATE model_version_tags SET value = 'cd' WHERE key = 'bundle_sha256'",
        "UPDATE model_version_tags SET value = 'rejected' WHERE key = 'status'",
        "DROP TABLE model_version_tags",
    ],
)
def test_a_registration_that_the_registry_does_not_hold_any_more_is_done_again(
    registered: Registered, statement: str
) -> None:
    values, outputs, file = registered
    change(file, statement)
    assert not outside.still_holds("register", values, outputs)


def test_a_registration_is_done_again_without_its_registry_or_its_bundle(
    registered: Registered, tmp_path: Path
) -> None:
    values, outputs, file = registered
    assert not outside.still_holds("register", values | {"registry": "http://here"}, outputs)
    (tmp_path / "kept").rename(tmp_path / "elsewhere")
    assert not outside.still_holds("register", values, outputs)
    file.unlink()
    assert not outside.still_holds("register", values, outputs)
    assert not file.exists()  # a look does not make one


def test_a_refusal_by_the_champion_is_asked_for_again(registered: Registered) -> None:
    values, outputs, file = registered
    place = Path(outputs["version"]["path"]) / "version.json"
    place.write_text(place.read_text().replace('"registered"', '"rejected"'))
    change(file, "UPDATE model_version_tags SET value = 'rejected' WHERE key = 'status'")
    assert outside.still_holds("register", values, outputs)
    assert not outside.still_holds("register", values | {"gate": "champion"}, outputs)


def test_records_from_before_there_were_keys_are_read_and_can_be_resumed(tmp_path: Path) -> None:
    run = engine.execute(choosing, {}, tmp_path)
    place = run.folder / record.RECORD
    document = json.loads(place.read_text())
    for step in document["steps"]:
        for name in ("key", "code", "reused_from", "tries"):
            del step[name]
    place.write_text(json.dumps(document))
    old = record.read(run.folder)
    assert rerun.resume(old, graph.as_ir(choosing)).runs == []
    again = engine.execute(choosing, {}, tmp_path, cache=True)
    assert again.steps["last"].state == State.SUCCEEDED


@pytest.mark.parametrize("component", ["comp-tune", "comp-train"])
@pytest.mark.parametrize(
    ("weights", "same"), [("none", True), ("imagenet", True), ("models:/birdsong/1", False)]
)
def test_another_registry_matters_only_where_weights_are_looked_up_in_it(
    component: str, weights: str, same: bool
) -> None:
    from pipeline import birdsong

    keys = reuse.Keys(graph.as_ir(birdsong), {})
    first, second = (
        keys.key(component, {"weights": {"value": weights}, "registry": {"value": registry}})
        for registry in ("sqlite:///a.db", "sqlite:///b.db")
    )
    # With weights from a registry there is no key at all: what it holds cannot be told cheaply.
    assert (first is not None) is same
    assert first == second


def test_a_rerun_with_another_registry_does_not_train_again(tmp_path: Path) -> None:
    from pipeline import birdsong

    ir = graph.as_ir(birdsong)
    values = graph.with_defaults(ir, {"weights": "none", "registry": "sqlite:///a.db"})
    steps = graph.steps(ir)
    for step in steps.values():
        step.state = State.SUCCEEDED
    run = record.Run("a", "birdsong", tmp_path, values, State.SUCCEEDED, steps=steps)
    plan = rerun.rerun(run, ir, settings=["registry=sqlite:///b.db"])
    assert plan.runs == ["register", "deploy"]
