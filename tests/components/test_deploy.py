"""Deploy with real server processes: what is served is what was measured, and nothing stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from kfp.dsl import Artifact, Metrics
from made_bundles import write_stages

from birdsong import artifacts, deployment
from birdsong.bundle import bundle_sha256, write_bundle
from birdsong.config import DeployConfig
from birdsong.errors import ConfigError, DataError
from components.deploy import deploy


def _version(folder: Path, status: str = "registered", **varied: object) -> Path:
    """A version as register writes it."""
    stages = write_stages(folder / "run", **varied)  # type: ignore[arg-type]
    with artifacts.create(folder / "version", "version", {}, {"model": stages.model}) as made:
        write_bundle(made.path / "bundle", stages.model, stages.thresholds, stages.evaluation)
        artifacts.write_json(
            made.path / "version.json",
            {
                "name": "birdsong",
                "version": 3,
                "status": status,
                "reason": "Worse than the baseline.",
                "registry": "sqlite:///x.db",
                "uri": "file:///x",
                "bundle_sha256": bundle_sha256(made.path / "bundle"),
            },
        )
    return folder / "version"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version whose network is a real TensorFlow graph and gives the stored scores."""
    return _version(tmp_path_factory.mktemp("good"), saved_model=True)


def _deploy(version: Path, endpoint: Path, **settings: object) -> tuple[dict[str, object], Metrics]:
    metrics = Metrics(uri=str(endpoint) + ".metrics")
    deploy.python_func(
        version=Artifact(uri=str(version)),
        endpoint=Artifact(uri=str(endpoint)),
        metrics=metrics,
        **settings,
    )
    return artifacts.read_json(endpoint / "endpoint.json"), metrics


def _children() -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "birdsong.serving.server" in " ".join(process.info["cmdline"] or [])
        and str(os.getpid()) in process.environ().get("TEST_OWNER", "")
    ]


@pytest.fixture(autouse=True)
def _owned(monkeypatch: pytest.MonkeyPatch) -> None:
    # Marks the servers that these tests start, and only these.
    monkeypatch.setenv("TEST_OWNER", str(os.getpid()))


def test_golden_recordings_score_on_the_server_as_stored_and_the_server_is_stopped(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, metrics = _deploy(good, tmp_path / "endpoint", tolerance=1e-4)
    assert found["state"] == "checked"
    assert found["target"] == "local"
    assert [row["file"] for row in found["golden"]] == ["0.flac", "1.flac"]
    # Stored by NumPy in 64 bits, served by TensorFlow in 32.
    assert all(row["difference"] <= 5e-5 and row["milliseconds"] > 0 for row in found["golden"])
    bundle = good / "bundle"
    assert found["command"] == f"python pipeline.py serve --bundle {bundle} --port 8080"
    assert metrics.metadata["agreed"] == 2
    assert metrics.metadata["deployed"] == 1
    assert "serve --bundle" in capsys.readouterr().out
    assert artifacts.verify(tmp_path / "endpoint").kind == "endpoint"
    assert _children() == []


def test_scores_that_differ_fail_the_step_with_a_table_and_leave_no_server(tmp_path: Path) -> None:
    version = _version(tmp_path, saved_model=True, golden_shift=0.015)
    with pytest.raises(DataError) as caught:
        _deploy(version, tmp_path / "endpoint", tolerance=1e-3)
    told = str(caught.value)
    assert "2 of 2 golden recordings" in told
    assert "0.flac" in told
    assert "1.50e-02  too large" in told
    assert "Run evaluate-threshold and register again" in told
    assert not (tmp_path / "endpoint").exists()
    assert _children() == []


def test_a_server_that_cannot_start_fails_with_the_end_of_its_log(tmp_path: Path) -> None:
    version = _version(tmp_path)  # without a graph
    began = time.monotonic()
    with pytest.raises(DataError, match=r"(?s)ended with exit code 1.*holds no graph"):
        _deploy(version, tmp_path / "endpoint")
    assert time.monotonic() - began < 60
    assert _children() == []


def test_a_server_that_is_not_ready_in_time_is_stopped(good: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not ready within 0\.3 s"):
        deployment.deploy(good, tmp_path / "endpoint", DeployConfig(timeout_seconds=0.3))
    assert _children() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_server_outlives_a_deploy_that_is_ended_by_a_signal(
    good: Path, tmp_path: Path, number: signal.Signals
) -> None:
    # A shell starts background jobs with SIGINT ignored, and the tests may be one.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from birdsong.deployment import deploy; from birdsong.config import DeployConfig; "
        "deploy(sys.argv[1], sys.argv[2], DeployConfig())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(good), str(tmp_path / "endpoint")],
        stderr=subprocess.DEVNULL,
    )
    _wait(lambda: bool(_children()), 30)
    process.send_signal(number)
    process.wait(30)
    _wait(lambda: not _children(), 30)
    assert not (tmp_path / "endpoint").exists()


def _wait(condition: object, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_rejected_version_is_passed_over_with_its_reason_and_the_step_succeeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, metrics = _deploy(_version(tmp_path, status="rejected"), tmp_path / "endpoint")
    assert found["state"] == "passed over"
    assert found["reason"] == "birdsong version 3 is rejected: Worse than the baseline."
    assert found["command"] is None
    assert metrics.metadata["deployed"] == 0
    assert "passed over" in capsys.readouterr().out


def test_target_none_serves_nothing(tmp_path: Path) -> None:
    found, _ = _deploy(_version(tmp_path), tmp_path / "endpoint", target="none")
    assert (found["state"], found["golden"]) == ("none", [])


def test_sagemaker_takes_versions_of_its_own_registry_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="registry=sagemaker://BUCKET/PREFIX"):
        _deploy(_version(tmp_path), tmp_path / "endpoint", target="sagemaker")


def test_a_folder_that_is_no_version_is_refused(tmp_path: Path) -> None:
    stages = write_stages(tmp_path / "run")
    with pytest.raises(DataError, match="expected 'version'"):
        _deploy(stages.model, tmp_path / "endpoint")


def test_every_output_of_the_component_is_described() -> None:
    for output in deploy.component_spec.outputs.values():
        assert output.description
