"""Every component as KFP's launcher runs it: paths under /minio or /s3, files through a store."""

from pathlib import Path

import launcher
import pytest
from launched import check, compiled_for_a_cluster, launching, mlflow_as_in_the_manifest, read

from birdsong.kubeflow.compiling import Compiled

pytestmark = pytest.mark.skipif(
    not launcher.usable(), reason="this user may not make /minio and /s3, as pods have them"
)


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compiled_for_a_cluster()


def test_the_data_stages_run_as_in_a_pod(compiled: Compiled, tmp_path: Path) -> None:
    with launching(compiled, tmp_path, "http://mlflow.kubeflow:5000") as run:
        for step in ("ingest", "split", "featurize", "tune"):
            check(run, step)
        assert run.outputs["ingest"]["metrics"]["metadata"]["recordings"] == 36


def test_artifacts_on_s3_and_a_step_that_fails(compiled: Compiled, tmp_path: Path) -> None:
    with launching(compiled, tmp_path, "http://mlflow.kubeflow:5000", "s3") as run:
        check(run, "ingest")
        assert run.outputs["ingest"]["recordings"]["uri"].startswith("s3://")
        run.values["split_column"] = "no_such_column"
        assert run.run("split") != 0
        assert "no_such_column" in run.logs["split"]
        assert "split" not in run.outputs


@pytest.mark.slow
def test_all_stages_run_as_in_pods_with_the_mlflow_server_of_the_cluster(
    compiled: Compiled, tmp_path: Path
) -> None:
    with (
        mlflow_as_in_the_manifest(tmp_path) as registry,
        launching(compiled, tmp_path, registry) as run,
    ):
        for step in launcher.steps(compiled):
            check(run, step)
        version = read(run, "register", "version", "version.json")
        assert version["status"] == "registered", version
        assert version["registry"] == registry
        endpoint = read(run, "deploy", "endpoint", "endpoint.json")
        assert endpoint["state"] == "checked", endpoint
        # A step that is tried again, as after a lost node, registers nothing twice.
        before = version["version"]
        assert run.run("register") == 0, run.logs["register"]
        assert read(run, "register", "version", "version.json")["version"] == before
