"""The seams into kfp.local: guarded, put back, and values written down and read again."""

from pathlib import Path
from typing import Any

import kfp
import pytest
from kfp import dsl
from kfp.local import executor_input_utils, subprocess_task_handler
from kfp.local.orchestrator import task_executor

from birdsong.errors import ConfigError
from birdsong.runs import seams


def test_the_installed_kfp_fits() -> None:
    seams.check()


def test_a_kfp_that_changed_a_signature_is_refused_with_the_versions_that_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(task_executor, "execute_single_task", lambda task_name, more: None)
    monkeypatch.setattr(kfp, "__version__", "2.99.0")
    with pytest.raises(ConfigError) as caught:
        seams.check()
    assert "kfp 2.99.0 does not fit" in str(caught.value)
    assert "execute_single_task is (task_name, more)" in str(caught.value)
    assert "kfp==2.17.*" in str(caught.value)


def test_a_kfp_without_a_seam_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(subprocess_task_handler, "run_local_subprocess")
    with pytest.raises(ConfigError, match="run_local_subprocess is absent"):
        seams.check()


def test_all_seams_are_put_back_also_after_an_error(tmp_path: Path) -> None:
    before = (
        task_executor.execute_single_task,
        subprocess_task_handler.run_local_subprocess,
        executor_input_utils.get_local_pipeline_resource_name,
        task_executor.time,
    )

    class Host:
        def step(self, call: Any, execute: Any) -> None:
            """Never called."""

        def process(self, command: Any, environment: Any) -> int:
            return 0

        def sleep(self, seconds: float) -> None:
            """Never called."""

    (tmp_path / "run").mkdir()

    def fail() -> None:
        with seams.installed(Host(), tmp_path / "run"):
            assert task_executor.execute_single_task is not before[0]
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert before == (
        task_executor.execute_single_task,
        subprocess_task_handler.run_local_subprocess,
        executor_input_utils.get_local_pipeline_resource_name,
        task_executor.time,
    )


def test_values_and_artifacts_come_back_from_the_record_as_they_were() -> None:
    dataset = dsl.Dataset(name="out", uri="/somewhere/out", metadata={"rows": 3.0})
    for value in [1, 0.5, "text", True, None, [1, "a"], {"a": [1]}]:
        assert seams.from_record(seams.to_record(value)) == value
    again = seams.from_record(seams.to_record(dataset))
    assert isinstance(again, dsl.Dataset)
    assert (again.name, again.uri, again.metadata) == ("out", "/somewhere/out", {"rows": 3.0})
    several = seams.from_record(seams.to_record([dataset, dataset]))
    assert [item.uri for item in several] == ["/somewhere/out"] * 2
