"""Steps in containers: what they see, how they end, and what is left."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import branching_pipeline
import peeking_pipeline
import pytest
from branching_pipeline import branching, contents
from made_demo import DemoRun
from made_engines import of_runs_folder, remove

from birdsong.errors import ConfigError
from birdsong.runs import containers, engine, graph, record, rerun, reuse, runners, stopping
from birdsong.runs.record import Run, State
from birdsong.runs.step_process import Limits

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("engine")]

# The unprivileged user of these tests, where they run as root.
OTHER = 12_345


def only_run(runs: Path) -> Run:
    return record.find(runs, "latest")


def start(runs: Path, **values: Any) -> "subprocess.Popen[bytes]":
    """The branching pipeline in containers, in a process of its own."""
    program = str(Path(branching_pipeline.__file__))
    return subprocess.Popen(
        [sys.executable, program, "run", str(runs), json.dumps(values)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "BIRDSONG_RUNNER": "docker"},
    )


def wait_for_step(runs: Path, step: str) -> Run:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(runs.glob(f"*/{record.RECORD}")):
            run = only_run(runs)
            if run.steps[step].state == State.RUNNING and run.steps[step].container:
                return run
            assert run.state == State.RUNNING, run.error
        time.sleep(0.02)
    raise AssertionError(f"{step} was not reached")


def in_docker(runs: Path, values: dict[str, Any], **more: Any) -> Run:
    runner = runners.make("docker", graph.as_ir(branching), values, runs)
    return engine.execute(branching, values, runs, runner=runner, **more)


# --- the whole DAG ------------------------------------------------------------------------------


def test_the_whole_dag_gives_the_same_in_containers_as_in_processes(
    demo_run: DemoRun, demo_run_in_containers: DemoRun
) -> None:
    assert demo_run.exit_code == 0, demo_run.output
    assert demo_run_in_containers.exit_code == 0, demo_run_in_containers.output
    here, there = only_run(demo_run.runs), only_run(demo_run_in_containers.runs)
    assert (here.runner, there.runner) == ("subprocess", "docker")
    assert list(here.steps) == list(there.steps)
    for name, step in here.steps.items():
        other = there.steps[name]
        assert (step.state, other.state) == (State.SUCCEEDED, State.SUCCEEDED)
        assert (other.exit_code, other.attempts) == (0, 1)
        assert set(step.outputs) == set(other.outputs)
        assert step.code == other.code
        assert step.container is None
        assert other.container
        assert (other.peak_memory or 0) > 1_000_000
        assert Path(other.log or "").read_text()
    # To the byte before anything is trained; the preview has random serial numbers in its audio.
    for name in ("ingest", "split", "featurize", "tune"):
        hashes = {
            run.runner: {o: v.get("sha256") for o, v in run.steps[name].outputs.items()}
            for run in (here, there)
        }
        for found in hashes.values():
            found.pop("preview", None)
        assert hashes["subprocess"] == hashes["docker"], name
    assert here.steps["split"].key == there.steps["split"].key
    # Other builds of linear algebra round differently from there on.
    clocks = {"seconds", "median_milliseconds", "ready_seconds", "images_per_second"}
    for name in ("train", "evaluate-threshold"):
        for metric, value in here.steps[name].metrics.items():
            if metric not in clocks:
                assert there.steps[name].metrics[metric] == pytest.approx(value, abs=0.05), metric
    assert of_runs_folder(demo_run_in_containers.runs) == []


def test_progress_and_lines_of_a_run_in_containers_are_those_of_any_run(
    demo_run: DemoRun, demo_run_in_containers: DemoRun
) -> None:
    def marks(output: str) -> list[str]:
        return [line.split()[1] for line in output.splitlines() if line.startswith("✓")]

    assert marks(demo_run.output) == marks(demo_run_in_containers.output)
    log = Path(only_run(demo_run_in_containers.runs).steps["train"].log or "").read_text()
    assert "progress " in log


def test_steps_of_one_runner_are_reused_by_the_other(tmp_path: Path) -> None:
    first = in_docker(tmp_path, {})
    assert first.state == State.SUCCEEDED, first.error
    second = engine.execute(branching, {}, tmp_path, cache=True)
    assert {step.state for step in second.steps.values()} == {State.REUSED}
    third = in_docker(tmp_path, {"ending": "?"}, cache=True)
    states = {name: step.state for name, step in third.steps.items()}
    assert states == {
        "begin": State.REUSED,
        "left": State.REUSED,
        "right": State.SUCCEEDED,
        "join": State.SUCCEEDED,
    }


def test_an_image_of_other_code_gives_its_steps_other_keys(engine: Any) -> None:
    ir, inputs = graph.as_ir(branching), {"text": {"type": "str", "value": "song"}}
    image = branching_pipeline.IMAGE
    ours = reuse.Keys(ir, {}, containers.images(engine, [image]))
    other = reuse.Keys(ir, {}, {image: "sha256:0123"})
    here = reuse.Keys(ir, {})
    assert ours.key("comp-begin", inputs) == here.key("comp-begin", inputs)
    assert other.key("comp-begin", inputs) != here.key("comp-begin", inputs)


# --- what a step sees ---------------------------------------------------------------------------


def test_a_step_sees_a_read_only_world_but_for_runs_and_tmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIRDSONG_TEST_NOISE", "not for steps")
    source = tmp_path / "birds"
    source.mkdir()
    (source / "song.wav").write_text("")
    run = peeking_pipeline.run(tmp_path / "runs", str(source))
    assert run.state == State.SUCCEEDED, run.error
    seen = peeking_pipeline.seen(run)
    assert seen["writable"] == ["/tmp"]  # noqa: S108
    assert seen["source"] == ["song.wav"]
    assert (seen["uid"], seen["gid"]) == (os.getuid(), os.getgid())
    assert seen["home"] == "/tmp"  # noqa: S108
    assert "BIRDSONG_TEST_NOISE" not in seen["environment"]
    assert not seen["new_privileges"]
    allowed = 1 << 1 if os.getuid() == 0 else 0  # DAC_OVERRIDE: root reads what it may read here
    assert int(seen["capabilities"].split()[1], 16) == allowed


SECRETS = {
    "AWS_ACCESS_KEY_ID": "canary-id",
    "AWS_SECRET_ACCESS_KEY": "canary-secret",
    "AWS_SESSION_TOKEN": "canary-token",
}


@pytest.mark.parametrize("source", ["", "s3://bucket/birds"])
def test_credentials_reach_only_steps_that_need_them_and_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    key = tmp_path / "google.json"
    key.write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    run = peeking_pipeline.run(tmp_path / "runs", source)
    assert run.state == State.SUCCEEDED, run.error
    environment = peeking_pipeline.seen(run)["environment"]
    expected = SECRETS if source else {}
    assert {k: v for k, v in environment.items() if k.startswith("AWS_")} == expected
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in environment
    made = run.folder / "artifacts" / "peek"  # where this very step wrote its environment down
    for place in run.folder.rglob("*"):
        if place.is_file() and made not in place.parents and place.name != record.RECORD:
            assert b"canary" not in place.read_bytes(), place
    text = (run.folder / record.RECORD).read_text()
    assert text.count("canary") == text.count("canary-") == (6 if source else 0) / 2


def python_of_everybody() -> str | None:
    """An interpreter of this version that other users may start too; root's own they may not."""
    python = shutil.which("python3.11", path="/usr/bin:/usr/local/bin")
    return python if python and not Path(python).resolve().is_relative_to(Path.home()) else None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(python_of_everybody() is None, reason="no Python 3.11 for another user")
def test_files_belong_to_the_caller_and_who_may_not_use_the_engine_is_told(tmp_path: Path) -> None:
    runs, source = tmp_path / "runs", tmp_path / "birds"
    for folder in (runs, source):
        folder.mkdir()
        os.chown(folder, OTHER, OTHER)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    socket = Path("/var/run/docker.sock").resolve()
    program = str(Path(peeking_pipeline.__file__))
    search = [str(Path(__file__).parents[2]), str(Path(pytest.__file__).parents[1])]
    with_group, without = (
        subprocess.run(
            [
                "setpriv",
                "--reuid",
                str(OTHER),
                "--regid",
                str(OTHER),
                *groups,
                str(python_of_everybody()),
                program,
                str(runs),
                str(source),
            ],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HOME": str(runs), "PYTHONPATH": os.pathsep.join(search)},
        )
        for groups in (["--groups", str(socket.stat().st_gid)], ["--clear-groups"])
    )
    assert "may not use the container engine" in without.stderr
    assert with_group.returncode == 0, with_group.stderr
    seen = json.loads(with_group.stdout)
    assert (seen["uid"], seen["gid"]) == (OTHER, OTHER)
    assert int(seen["capabilities"].split()[1], 16) == 0
    assert {place.stat().st_uid for place in runs.rglob("*")} == {OTHER}


# --- how steps end ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1, 3, 137])
def test_no_exit_code_is_lost_however_fast_a_step_ends(tmp_path: Path, code: int) -> None:
    for _ in range(3):
        run = peeking_pipeline.run(tmp_path, how=f"exit {code}")
        step = run.steps["peek"]
        assert (run.state, step.state, step.exit_code) == (State.FAILED, State.FAILED, code)
    assert of_runs_folder(tmp_path) == []


def test_a_step_above_its_memory_is_ended_and_says_so(tmp_path: Path) -> None:
    run = peeking_pipeline.run(tmp_path, how="fat", limits=Limits(memory=300_000_000))
    assert run.state == State.FAILED
    assert "more than its limit of 0.3 GB (--step-memory)" in (run.steps["peek"].error or "")
    assert of_runs_folder(tmp_path) == []


def test_a_step_above_its_time_is_ended_and_says_so(tmp_path: Path) -> None:
    began = time.monotonic()
    run = peeking_pipeline.run(tmp_path, how="long", limits=Limits(seconds=2))
    assert time.monotonic() - began < 30
    assert run.state == State.FAILED
    assert "(--step-timeout)" in (run.steps["peek"].error or "")
    assert of_runs_folder(tmp_path) == []


def test_a_container_that_is_removed_from_outside_fails_its_step(tmp_path: Path) -> None:
    child = start(tmp_path, pause=30.0)
    run = wait_for_step(tmp_path, "begin")
    remove(run.steps["begin"].container or "")
    assert child.wait(60) == 1
    # Which of the two depends on whether the engine had kept it long enough to be asked.
    error = only_run(tmp_path).steps["begin"].error or ""
    assert "removed from outside" in error or "killed (signal 9" in error


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_leaves_no_container(
    tmp_path: Path, seed: int, number: signal.Signals
) -> None:
    draw = random.Random(seed)
    child = start(tmp_path, pause=5.0)
    if seed % 2:
        wait_for_step(tmp_path, "begin")
        time.sleep(draw.uniform(0, 1))
    else:  # around the creation and the start of the first container
        while not any(tmp_path.glob(f"*/{record.RECORD}")):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.6))
    began = time.monotonic()
    child.send_signal(number)
    assert child.wait(60) == 130
    assert time.monotonic() - began < 20
    run = only_run(tmp_path)
    assert run.state == State.CANCELLED
    assert of_runs_folder(tmp_path) == []


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    child = start(tmp_path, pause=60.0)
    wait_for_step(tmp_path, "begin")
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 130
    assert of_runs_folder(tmp_path) == []


def test_what_a_killed_engine_left_is_found_by_stop_even_without_a_watchdog(
    tmp_path: Path,
) -> None:
    child = start(tmp_path, pause=60.0)
    wait_for_step(tmp_path, "begin")
    dogs = subprocess.run(
        ["pgrep", "-P", str(child.pid)], capture_output=True, text=True, check=False
    )
    for pid in map(int, dogs.stdout.split()):
        os.kill(pid, signal.SIGKILL)
    child.kill()
    child.wait()
    assert len(of_runs_folder(tmp_path)) == 1
    assert stopping.stop(only_run(tmp_path)).state == State.DIED
    assert of_runs_folder(tmp_path) == []


def test_a_run_that_goes_on_after_a_kill_gives_what_an_undisturbed_one_gives(
    tmp_path: Path,
) -> None:
    undisturbed = in_docker(tmp_path / "undisturbed", {})
    child = start(tmp_path / "killed", pause=0.0)
    wait_for_step(tmp_path / "killed", "begin")
    child.kill()
    child.wait()
    plan = rerun.resume(only_run(tmp_path / "killed"), graph.as_ir(branching))
    again = in_docker(tmp_path / "killed", plan.values, pinned=plan.pinned)
    assert contents(again) == contents(undisturbed)
    assert of_runs_folder(tmp_path / "killed") == []


# --- before a run starts ------------------------------------------------------------------------


def test_a_missing_image_is_named_before_a_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run(
        [sys.executable, "pipeline.py", "run", "--runner", "docker", "--runs", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "BIRDSONG_IMAGE_DATA": "birdsong-python-data:absent"},
    )
    assert done.returncode == 2, done.stderr
    assert "birdsong-python-data:absent is not on this machine" in done.stderr
    assert "make images" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_source_with_links_to_elsewhere_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "birds"
    source.mkdir()
    (tmp_path / "song.wav").write_text("")
    (source / "song.wav").symlink_to(tmp_path / "song.wav")
    with pytest.raises(ConfigError, match=r"a link to .*, outside of the folder"):
        peeking_pipeline.run(tmp_path / "runs", str(source))
