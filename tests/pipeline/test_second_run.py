"""The whole DAG a second time, and parts of it, by the command line."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from made_demo import ROOT, DemoRun

from birdsong.cli import main
from birdsong.runs import record
from birdsong.runs.record import Run, State

STEPS = [
    *("ingest", "split", "featurize", "tune", "train"),
    *("evaluate-threshold", "register", "deploy"),
]

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def first(demo_run: DemoRun) -> Run:
    assert demo_run.exit_code == 0, demo_run.output
    return record.find(demo_run.runs, "latest")


@pytest.fixture
def birdsong(
    demo_run: DemoRun, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Command]:
    """Runs a command on the runs folder of the demo; runs that it makes are removed again."""
    before = {place.parent for place in demo_run.runs.glob(f"*/{record.RECORD}")}
    handler = signal.getsignal(signal.SIGTERM)

    def command(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["birdsong", *arguments, "--runs", str(demo_run.runs)])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        code = main.main()
        said = capfd.readouterr()
        return code, said.out + said.err

    yield command
    signal.signal(signal.SIGTERM, handler)
    for place in {p.parent for p in demo_run.runs.glob(f"*/{record.RECORD}")} - before:
        shutil.rmtree(place)


def again(first: Run) -> list[str]:
    """The command line that made a run, without its runs folder."""
    arguments = first.command[first.command.index("run") :]
    at = arguments.index("--runs")
    return arguments[:at] + arguments[at + 2 :]


@pytest.mark.usefixtures("birdsong")  # removes the run again
def test_the_second_run_takes_everything_from_the_first_within_seconds(first: Run) -> None:
    # As a program, with all that a start takes.
    command = [sys.executable, str(ROOT / "pipeline.py"), *again(first)]
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--runs", str(first.folder.parent)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    output = done.stdout
    assert done.returncode == 0, output
    assert time.monotonic() - began < 30
    for step in STEPS:
        assert re.search(rf"^↺ {step} +reused from {first.id}$", output, re.MULTILINE), output
    second = record.find(first.folder.parent, "latest")
    assert second.id != first.id
    assert {step.state for step in second.steps.values()} == {State.REUSED}
    assert second.steps["train"].metrics == first.steps["train"].metrics
    report = second.folder / "pages" / "evaluate-threshold.report.html"
    assert str(report) in output
    assert report.is_file()


def test_a_dry_run_says_what_would_be_reused(first: Run, birdsong: Command) -> None:
    code, output = birdsong(*again(first), "--dry-run", "--set", "target_fpr=0.25")
    assert code == 0, output
    plan = output[output.index("\nreuse\n") :]
    for step in STEPS[:5]:
        assert re.search(rf"^  {step} +reused +from {first.id}$", plan, re.MULTILINE), plan
    for step in STEPS[5:]:
        assert re.search(rf"^  {step} +runs ", plan, re.MULTILINE), plan


@pytest.mark.parametrize("spelling", ["evaluate_threshold", "evaluate-threshold"])
def test_the_plan_of_a_rerun_is_shown_in_both_spellings(
    first: Run, birdsong: Command, spelling: str
) -> None:
    code, output = birdsong("rerun", first.id, "--from", spelling, "--dry-run")
    assert code == 0, output
    whats = dict(re.findall(r"^  (\S+) +(runs|reused) ", output, re.MULTILINE))
    assert whats == dict.fromkeys(STEPS[:5], "reused") | dict.fromkeys(STEPS[5:], "runs")
    assert record.find(first.folder.parent, "latest").id == first.id


def test_the_seed_touches_split_and_what_comes_after(first: Run, birdsong: Command) -> None:
    code, output = birdsong("rerun", first.id, "--set", "seed=5", "--dry-run")
    assert code == 0, output
    assert "seed: 0 -> 5" in output
    whats = dict(re.findall(r"^  (\S+) +(runs|reused) ", output, re.MULTILINE))
    assert whats == {"ingest": "reused"} | dict.fromkeys(STEPS[1:], "runs")


def test_one_step_alone_shows_its_metrics_beside_the_old(first: Run, birdsong: Command) -> None:
    code, output = birdsong("rerun", first.id, "--only", "split")
    assert code == 0, output
    new = record.find(first.folder.parent, "latest")
    assert new.parent == first.id
    assert f"split in {first.id} (old) and {new.id} (new)" in output
    for name in first.steps["split"].metrics:
        assert re.search(rf"^  {name} +\S+ +\S+ +\+0$", output, re.MULTILINE), output
    states = {name: step.state for name, step in new.steps.items()}
    assert states == {"ingest": State.REUSED, "split": State.SUCCEEDED} | dict.fromkeys(
        STEPS[2:], State.SKIPPED
    )
    # The same recordings and the same seed: the same split, bit for bit.
    for name, made in first.steps["split"].outputs.items():
        assert new.steps["split"].outputs[name].get("sha256") == made.get("sha256")


def test_a_finished_run_has_nothing_to_resume_and_nothing_to_stop(
    first: Run, birdsong: Command
) -> None:
    code, output = birdsong("resume", first.id)
    assert (code, "there is nothing to do" in output) == (0, True)
    code, output = birdsong("stop", first.id)
    assert code == 2
    assert "is not running: it is SUCCEEDED" in output


def test_wrong_steps_values_and_limits_are_told_in_a_sentence(
    first: Run, birdsong: Command
) -> None:
    for arguments, said in [
        (("rerun", first.id, "--from", "trian"), "Did you mean train?"),
        (("rerun", first.id), "--from STEP, --only STEP or --set"),
        (("rerun", first.id, "--set", "target_fpr=2"), "target_fpr"),
        (("rerun", first.id, "--from", "train", "--only", "train"), "either --from or --only"),
        (("resume", "nowhere"), "No run 'nowhere'"),
        (("resume", first.id, "--step-memory", "0"), "--step-memory 0: needs a number above 0"),
    ]:
        code, output = birdsong(*arguments)
        assert code == 2, output
        assert said in output
        assert "Traceback" not in output


def test_gc_keeps_the_champion_and_does_nothing_unasked(first: Run, birdsong: Command) -> None:
    code, output = birdsong("runs", "gc", "--keep", "0")
    assert code == 0, output
    assert f"{first.id}  registered under an alias" in output
    assert output.rstrip().endswith("Nothing to remove.")
    assert first.folder.is_dir()
