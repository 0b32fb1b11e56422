"""Every step in its image as a pod of Kubeflow starts it: our user, no rights, a read-only root."""

from pathlib import Path
from typing import Any

import launcher
import pytest
from launched import check, compiled_for_a_cluster, launching, mlflow_as_in_the_manifest, read

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(not launcher.usable(), reason="this user may not make /minio and /s3"),
]


def test_all_steps_run_in_their_images_as_pods_start_them(engine: Any, tmp_path: Path) -> None:
    compiled = compiled_for_a_cluster()
    with (
        mlflow_as_in_the_manifest(tmp_path) as registry,
        launching(compiled, tmp_path, registry) as run,
    ):
        run.contained = True
        for step in launcher.steps(compiled):
            check(run, step)
            print(f"{step} ran")
        assert read(run, "register", "version", "version.json")["status"] == "registered"
        assert read(run, "deploy", "endpoint", "endpoint.json")["state"] == "checked"
