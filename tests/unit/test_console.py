"""What the commands say at the end of a run: what came of it, what to mind, what to do next."""

from pathlib import Path

import pytest
from made_runs import make_run

from birdsong import artifacts
from birdsong.cli import console
from birdsong.runs import record
from birdsong.runs.record import Run, State


def said(run: Run, capsys: pytest.CaptureFixture[str]) -> str:
    console.summary(record.read(run.folder), run.folder.parent)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "there", "absent"),
    [
        ("birdsong.errors.ConfigError", ["rerun {id} --set NAME=VALUE"], ["resume"]),
        ("birdsong.errors.DataError", ["when that is mended", "resume {id}", "--set"], []),
        ("birdsong.errors.UnreachableError", ["resume {id}"], ["--set"]),
        ("KeyError", ["resume {id}"], ["--set"]),
    ],
)
def test_what_is_suggested_after_a_failure_is_what_can_mend_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    there: list[str],
    absent: list[str],
) -> None:
    run = make_run(tmp_path, failing="train")
    log = Path(str(run.steps["train"].log))
    log.write_text(f"Traceback (most recent call last):\n  File\n{kind}: no\n")
    text = said(run, capsys)
    assert all(part.format(id=run.id) in text for part in there), text
    assert not any(part in text for part in absent), text


def with_metrics(runs: Path, step: str, **metrics: float) -> Run:
    run = make_run(runs)
    run.steps[step].metrics = metrics
    artifacts.write_json(run.folder / record.RECORD, run.as_json())
    return run


def test_a_run_whose_species_have_no_threshold_ends_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"thresholds_own": 0.0, "thresholds_pooled": 0.0, "thresholds_none": 3.0}
    run = with_metrics(tmp_path, "evaluate-threshold", **counts)
    assert run.state == State.SUCCEEDED
    assert "warning  no species has a threshold" in said(run, capsys)


def test_species_without_a_threshold_beside_others_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"thresholds_own": 1.0, "thresholds_pooled": 1.0, "thresholds_none": 3.0}
    run = with_metrics(tmp_path, "evaluate-threshold", **counts)
    assert "3 of 5 species have no threshold" in said(run, capsys)


def test_a_run_on_one_species_alone_ends_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "one species alone" in said(with_metrics(tmp_path, "ingest", species=1.0), capsys)


def test_a_run_without_trouble_warns_of_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "warning" not in said(make_run(tmp_path), capsys)
