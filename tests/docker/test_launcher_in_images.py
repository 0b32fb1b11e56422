"""Every step in its image with the user and the mounts of the compiled pipeline, files through a
store, and the registry of the cluster over HTTP: the long form of test_executor_contract.py.
"""

from pathlib import Path
from typing import Any

import launcher
import pytest
from launched import check, compiled_for_a_cluster, launching, mlflow_as_in_the_manifest, read

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
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
