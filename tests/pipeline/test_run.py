"""The whole DAG on generated songs, by the command line, a process per step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_demo import ROOT, DemoRun

from birdsong import artifacts, cost
from birdsong.runs import graph, processes, record
from birdsong.runs.record import Run, State


@pytest.fixture(scope="module")
def run(demo_run: DemoRun) -> Run:
    assert demo_run.exit_code == 0, demo_run.output
    return record.find(demo_run.runs, "latest")


def place(run: Run, step: str, output: str) -> Path:
    return Path(run.steps[step].outputs[output]["path"])


def test_every_step_succeeds_in_the_order_of_the_dag(run: Run) -> None:
    from pipeline import birdsong

    assert run.state == State.SUCCEEDED
    assert list(run.steps) == list(graph.steps(graph.as_ir(birdsong)))
    assert {step.state for step in run.steps.values()} == {State.SUCCEEDED}
    starts = [str(step.started) for step in run.steps.values()]
    assert starts == sorted(starts)


def test_one_line_per_step_tells_its_state_and_its_seconds(run: Run, demo_run: DemoRun) -> None:
    lines = demo_run.output.splitlines()
    for step in run.steps.values():
        fitting = [line for line in lines if line.startswith(f"✓ {step.name} ")]
        assert len(fitting) == 1, demo_run.output
        assert fitting[0].rstrip().endswith(" s")


def test_the_end_says_what_was_made_and_where_to_look(run: Run, demo_run: DemoRun) -> None:
    end = demo_run.output[demo_run.output.index("Done in") :]
    assert "accuracy" in end
    assert "network" in end
    assert "baseline" in end
    report = run.folder / "pages" / "evaluate-threshold.report.html"
    assert str(report) in end
    assert report.is_file()
    assert f"runs show {run.id}" in end


def test_every_artifact_is_whole_and_says_what_it_was_made_from(run: Run) -> None:
    folders = [
        Path(output["path"])
        for step in run.steps.values()
        for output in step.outputs.values()
        if Path(output["path"]).is_dir()
    ]
    assert len(folders) >= 10
    for folder in folders:
        artifacts.verify(folder)
    features = artifacts.read_spec(place(run, "featurize", "development"), "features")
    recordings = artifacts.read_spec(place(run, "ingest", "recordings"), "recordings")
    assert recordings.sha256 in features.inputs.values()
    assert run.steps["ingest"].outputs["recordings"]["sha256"] == recordings.sha256


def test_the_whole_step_log_and_metrics_are_kept(run: Run) -> None:
    for step in run.steps.values():
        assert Path(str(step.log)).stat().st_size > 0
        assert step.exit_code == 0
        assert step.metrics, f"{step.name} logged nothing"
    assert run.steps["ingest"].metrics["recordings"] == 36
    assert run.steps["ingest"].metrics["species"] == 3


def test_a_model_is_registered_and_its_endpoint_was_checked(run: Run) -> None:
    version = json.loads((place(run, "register", "version") / "version.json").read_text())
    assert version["status"] == "registered", version
    assert str(run.folder.parent / "registry") in version["registry"]
    endpoint = json.loads((place(run, "deploy", "endpoint") / "endpoint.json").read_text())
    assert endpoint["state"] == "checked", endpoint
    assert endpoint["largest_difference"] <= 0.001
    assert len(endpoint["golden"]) == 2


def test_what_training_cost_stands_in_the_report_and_on_the_versions_card(run: Run) -> None:
    searched, trained = cost.read(place(run, "train", "model"))
    assert (searched.trials, trained.step, trained.usd) == (0, "train", None)
    assert 0 < trained.seconds < (run.steps["train"].seconds or 0)
    report = place(run, "evaluate-threshold", "report").read_text()
    card = (place(run, "register", "version") / "model_card.md").read_text(encoding="utf-8")
    for page in (report, card):
        assert page.count("What it cost") == 1
        assert trained.machine in page
        assert "No search was asked for." in page
        assert "what its time costs is not known" in page
    made = place(run, "register", "version") / "bundle"
    assert "What it cost" not in (made / "model_card.md").read_text(encoding="utf-8")


def test_steps_that_need_no_tensorflow_hold_little_memory(run: Run) -> None:
    for name in ("split", "tune"):
        assert (run.steps[name].peak_memory or 0) < 400e6


def test_the_record_as_json_holds_what_a_program_needs(run: Run, demo_run: DemoRun) -> None:
    command = [sys.executable, str(ROOT / "pipeline.py"), "runs", "show", "latest", "--json"]
    done = subprocess.run(
        [*command, "--runs", str(demo_run.runs)], capture_output=True, text=True, check=True
    )
    document = json.loads(done.stdout)
    assert document["id"] == run.id
    assert document["state"] == "SUCCEEDED"
    assert document["arguments"]["epochs"] == 3
    assert [step["name"] for step in document["steps"]] == list(run.steps)
    for step in document["steps"]:
        assert {"name", "state", "seconds", "inputs", "outputs", "metrics", "error"} <= set(step)
        for output in step["outputs"].values():
            assert output["path"].startswith(str(demo_run.runs))


def test_nothing_is_left_running(run: Run) -> None:
    for step in run.steps.values():
        assert step.pid is not None
        assert processes.started(step.pid) is None or step.ended is not None
    marked = [
        entry
        for entry in Path("/proc").glob("[0-9]*")
        if f"BIRDSONG_RUN={run.id}".encode() in _environment(entry)
    ]
    assert marked == []


def _environment(entry: Path) -> bytes:
    try:
        return (entry / "environ").read_bytes()
    except OSError:
        return b""
