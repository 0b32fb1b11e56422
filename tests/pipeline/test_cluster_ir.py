"""The pipeline as a cluster gets it, read back with KFP's own messages."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from birdsong.errors import ConfigError
from birdsong.kubeflow import arguments, compiling, settings
from birdsong.kubeflow.compiling import Compiled
from birdsong.runs import graph, resolved
from components import images
from pipeline import birdsong

LOCAL = graph.as_ir(birdsong)
GPU = ("tune", "train")


def compiled(runs_on: str = "here", profile: str = "reference", **given: Any) -> Compiled:
    described = settings.ClusterSettings(**given)
    wanted = settings.resources(described, profile, runs_on)
    return compiling.compile_for_cluster(described, wanted, runs_on)


@pytest.fixture(scope="module")
def whole() -> Compiled:
    return compiled(
        mounts=[{"claim": "birdsong-data", "path": "/data"}],
        secrets={"google": "google-credentials"},
        image_registry="registry.example/birds",
        image_pull_secret="pull",
        gpu={"node_selector": {"gpu": "a10"}},
        ttl_hours=2,
        deadline_hours=5,
    )


def spec_of(found: Compiled) -> pipeline_spec_pb2.PipelineSpec:
    document = next(yaml.safe_load_all(found.as_yaml()))
    return json_format.ParseDict(document, pipeline_spec_pb2.PipelineSpec())


def containers(found: Compiled) -> dict[str, Any]:
    """Step to its container, as KFP's own message."""
    deployment = json_format.ParseDict(
        json_format.MessageToDict(spec_of(found).deployment_spec),
        pipeline_spec_pb2.PipelineDeploymentConfig(),
    )
    return {name.removeprefix("exec-"): e.container for name, e in deployment.executors.items()}


def kubernetes(found: Compiled) -> dict[str, Any]:
    """Step to what Kubernetes adds, as kfp-kubernetes' own message."""
    document = list(yaml.safe_load_all(found.as_yaml()))[1]
    json_format.ParseDict(document, pipeline_spec_pb2.PlatformSpec())
    executors = document["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {
        name.removeprefix("exec-"): json_format.ParseDict(
            value, kubernetes_executor_config_pb2.KubernetesExecutorConfig()
        )
        for name, value in executors.items()
    }


def test_steps_edges_and_parameters_are_those_of_the_pipeline(whole: Compiled) -> None:
    assert whole.pipeline["pipelineInfo"]["name"] == "birdsong"
    assert list(graph.steps(whole.pipeline)) == list(graph.steps(LOCAL))
    assert whole.pipeline["root"]["inputDefinitions"] == LOCAL["root"]["inputDefinitions"]
    for name, task in LOCAL["root"]["dag"]["tasks"].items():
        other = whole.pipeline["root"]["dag"]["tasks"][name]
        for part in ("inputs", "dependentTasks", "componentRef"):
            assert other.get(part) == task.get(part)
    assert whole.pipeline["components"] == LOCAL["components"]


def test_what_a_step_executes_is_the_same_as_on_this_machine(whole: Compiled) -> None:
    for label, executor in LOCAL["deploymentSpec"]["executors"].items():
        other = whole.pipeline["deploymentSpec"]["executors"][label]["container"]
        assert other["command"] == executor["container"]["command"]
        assert other["args"] == executor["container"]["args"]


def test_edges_and_types_hold_in_kfps_own_message(whole: Compiled) -> None:
    spec = spec_of(whole)
    tasks = spec.root.dag.tasks
    assert set(tasks) == set(settings.STEPS)
    for name, task in tasks.items():
        component = spec.components[task.component_ref.name]
        for key, given in task.inputs.artifacts.items():
            source = given.task_output_artifact
            producer = spec.components[tasks[source.producer_task].component_ref.name]
            made = producer.output_definitions.artifacts[source.output_artifact_key]
            wanted = component.input_definitions.artifacts[key].artifact_type.schema_title
            assert wanted in (made.artifact_type.schema_title, "system.Artifact"), (name, key)
            assert source.producer_task in task.dependent_tasks


def test_each_step_has_the_image_of_its_target_in_the_clusters_registry(whole: Compiled) -> None:
    for step, container in containers(whole).items():
        target = compiling.target_of(step)
        assert container.image == f"registry.example/birds/{images.reference(target)}"
        assert not container.image.endswith(":latest")


def test_an_image_that_was_named_as_a_whole_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIRDSONG_IMAGE_TRAIN", "elsewhere/birds@sha256:" + "0" * 64)
    found = containers(compiled(image_registry="registry.example"))
    assert found["train"].image.startswith("elsewhere/birds@sha256:")
    assert found["ingest"].image.startswith("registry.example/birdsong-python-data:")


def test_steps_are_shown_by_their_names_and_may_be_cached(whole: Compiled) -> None:
    for name, task in spec_of(whole).root.dag.tasks.items():
        assert task.task_info.name == name
        assert task.caching_options.enable_cache


def test_caching_can_be_switched_off() -> None:
    tasks = spec_of(compiled(caching=False)).root.dag.tasks.values()
    assert not any(task.caching_options.enable_cache for task in tasks)


def test_every_step_asks_for_cores_and_memory_and_only_two_for_a_gpu(whole: Compiled) -> None:
    for step, container in containers(whole).items():
        ask = container.resources
        assert ask.resource_cpu_limit == ask.resource_cpu_request != ""
        assert ask.resource_memory_limit == ask.resource_memory_request != ""
        assert ask.accelerator.resource_count == ("1" if step in GPU else "")
        assert ask.accelerator.resource_type == ("nvidia.com/gpu" if step in GPU else "")


def test_small_profiles_fit_on_one_node_without_a_gpu() -> None:
    for profile in ("demo", "quick"):
        for step, ask in settings.resources(settings.ClusterSettings(), profile).items():
            assert float(ask.cpu.replace("500m", "0.5")) <= 2, step
            assert int(ask.memory.removesuffix("Gi")) <= 4, step
            assert ask.gpus == 0


def test_sizes_of_single_steps_can_be_given() -> None:
    found = containers(compiled(steps={"train": {"cpu": 3, "memory": "5Gi", "gpus": 2}}))
    assert found["train"].resources.resource_cpu_limit == "3"
    assert found["train"].resources.resource_memory_limit == "5Gi"
    assert found["train"].resources.accelerator.resource_count == "2"
    assert found["tune"].resources.accelerator.resource_count == "1"


def test_no_step_runs_as_root(whole: Compiled) -> None:
    found = kubernetes(whole)
    assert set(found) == set(settings.STEPS)
    for config in found.values():
        assert config.security_context.run_as_user == 10001
        assert config.security_context.run_as_group == 10001
        assert config.security_context.run_as_non_root is True


def test_temporary_files_have_a_place_of_their_own(whole: Compiled) -> None:
    for step, config in kubernetes(whole).items():
        mounts = {mount.mount_path: mount.medium for mount in config.empty_dir_mounts}
        assert "/tmp" in mounts  # noqa: S108
        assert mounts.get("/dev/shm") == ("Memory" if step in GPU else None)  # noqa: S108
    for container in containers(whole).values():
        assert {entry.name: entry.value for entry in container.env}["HOME"] == "/tmp"  # noqa: S108


def test_gpu_steps_bear_the_taint_of_gpu_nodes_and_choose_them(whole: Compiled) -> None:
    for step, config in kubernetes(whole).items():
        labels = dict(config.node_selector.labels)
        assert labels == ({"gpu": "a10"} if step in GPU else {})
        assert [t.key for t in config.tolerations] == (["nvidia.com/gpu"] if step in GPU else [])


def test_secrets_are_named_and_optional_and_their_values_are_nowhere(
    whole: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = kubernetes(whole)
    named = {step: {s.secret_name for s in c.secret_as_env} for step, c in found.items()}
    assert named["ingest"] == {"aws-credentials"}
    assert named["split"] == named["evaluate-threshold"] == set()
    assert named["register"] == {"aws-credentials", "mlflow-credentials"}
    for config in found.values():
        assert all(secret.optional for secret in config.secret_as_env)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sEcReT-of-aws")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "sEcReT-of-mlflow")
    monkeypatch.setenv("BIRDSONG_KFP_TOKEN", "sEcReT-token")
    assert "sEcReT" not in compiled().as_yaml()


def test_google_credentials_are_a_file_only_where_they_are_asked_for(whole: Compiled) -> None:
    for step, config in kubernetes(whole).items():
        there = step in ("ingest", "featurize", "tune", "train", "register", "deploy")
        assert len(config.secret_as_volume) == there
    assert not any(config.secret_as_volume for config in kubernetes(compiled()).values())


def test_claims_are_mounted_where_recordings_or_weights_are_read(whole: Compiled) -> None:
    for step, config in kubernetes(whole).items():
        paths = [mount.mount_path for mount in config.pvc_mount]
        assert paths == (["/data"] if step in compiling.READ_PLACES else [])


def test_places_reach_only_steps_that_claims_are_mounted_for() -> None:
    reached = resolved.parameters(LOCAL)
    places = {*arguments.PLACES, "weights", "frame_labels"}
    told = {
        name
        for name, declared in LOCAL["root"]["inputDefinitions"]["parameters"].items()
        if re.search("[Ff]older|file or URI|recordings beside", declared["description"])
    }
    assert told - {"registry", "layout"} == places
    assert {s for s, names in reached.items() if names & places} == set(compiling.READ_PLACES)


def test_images_are_pulled_once_and_with_the_given_secret(whole: Compiled) -> None:
    for config in kubernetes(whole).values():
        assert config.image_pull_policy == "IfNotPresent"
        assert [secret.secret_name for secret in config.image_pull_secret] == ["pull"]


def test_failed_steps_are_tried_again_after_growing_waits(whole: Compiled) -> None:
    for task in spec_of(whole).root.dag.tasks.values():
        assert task.retry_policy.max_retry_count == 2
        assert task.retry_policy.backoff_duration.seconds == 30
        assert task.retry_policy.backoff_factor == 2
        assert task.retry_policy.backoff_max_duration.seconds == 86_400
    assert not spec_of(compiled(retries=0)).root.dag.tasks["train"].HasField("retry_policy")


def test_a_finished_run_and_an_endless_one_have_an_end(whole: Compiled) -> None:
    config = whole.platform["platforms"]["kubernetes"]["pipelineConfig"]
    assert config == {"resourceTtlOnCompletion": 7200, "activeDeadlineSeconds": 18_000}


def test_with_sagemaker_tune_and_train_only_drive_a_job() -> None:
    found = compiled("sagemaker")
    here = compiled()
    for step, container in containers(found).items():
        other = containers(here)[step]
        if step in GPU:
            assert container.image == images.reference("cloud")
            assert not container.resources.HasField("accelerator")
            assert container.resources.resource_memory_limit == "2Gi"
            assert found.pipeline["root"]["dag"]["tasks"][step]["taskInfo"]["name"].endswith(
                "on SageMaker"
            )
            assert kubernetes(found)[step].secret_as_env[0].secret_name == "aws-credentials"
            assert not kubernetes(found)[step].tolerations
        else:
            assert container == other
        assert container.command == other.command
        assert container.args == other.args
    assert list(graph.steps(found.pipeline)) == list(graph.steps(here.pipeline))
    assert found.pipeline["components"] == here.pipeline["components"]


def test_another_place_to_compute_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose here or sagemaker"):
        compiled("vertex")


def test_the_same_settings_compile_to_the_same_bytes_and_others_do_not() -> None:
    first, second = compiled(), compiled()
    assert first.as_yaml() == second.as_yaml()
    assert first.sha256 == second.sha256
    assert compiled(user=12345).sha256 != first.sha256


def test_the_examples_of_clusters_can_be_read_and_compiled() -> None:
    folder = Path(__file__).resolve().parents[2] / "k8s" / "clusters"
    files = sorted(folder.glob("*.yaml"))
    assert len(files) >= 2
    for file in files:
        described = settings.read(file)
        wanted = settings.resources(described, "quick")
        spec_of(compiling.compile_for_cluster(described, wanted))
