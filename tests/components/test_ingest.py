"""The stage ingest, called as KFP calls it."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from kfp.dsl import HTML, Dataset, Metrics

from birdsong import artifacts
from birdsong.errors import DataError
from components.ingest import ingest


def run(tmp_path: Path, **arguments: object) -> Metrics:
    metrics = Metrics(uri=str(tmp_path / "metrics"))
    ingest.python_func(
        recordings=Dataset(uri=str(tmp_path / "recordings")),
        audit=HTML(uri=str(tmp_path / "audit.html")),
        metrics=metrics,
        **arguments,
    )
    return metrics


def test_the_stage_writes_recordings_audit_and_metrics(tmp_path: Path) -> None:
    metrics = run(tmp_path, source="demo:?species=2&recordings=3")
    assert artifacts.verify(tmp_path / "recordings").kind == "recordings"
    assert pq.read_table(tmp_path / "recordings/recordings.parquet").num_rows == 6
    assert "demtri1" in (tmp_path / "audit.html").read_text()
    assert metrics.metadata["recordings"] == 6
    assert metrics.metadata["species"] == 2


def test_the_settings_of_the_stage_are_kept_with_its_artifact(tmp_path: Path) -> None:
    run(tmp_path, source="demo:?species=1&recordings=2", snapshot=True, max_bad_share=0.5)
    settings = artifacts.read_spec(tmp_path / "recordings", "recordings").settings
    assert settings["snapshot"] is True
    assert settings["max_bad_share"] == 0.5


def test_a_stage_that_fails_leaves_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no recordings"):
        run(tmp_path, source=str(tmp_path / "empty"))
    assert not (tmp_path / "recordings").exists()


def test_every_output_and_parameter_is_described() -> None:
    spec = ingest.component_spec
    for kind in (spec.inputs, spec.outputs):
        assert all(item.description for item in kind.values())
