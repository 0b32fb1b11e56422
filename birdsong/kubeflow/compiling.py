"""The DAG as a cluster gets it: the pipeline of pipeline.py, and what its pods may and need.

Images, resources, secrets by reference, the user, retries and the time to live are set on the tasks
of the one pipeline; its steps, parameters and edges are the same as on one machine.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from birdsong.aws.settings import RUN, VARIABLE, JobSettings
from birdsong.errors import ConfigError
from birdsong.image_code import NAME, STAGES
from birdsong.kubeflow.settings import GPU_STEPS, ClusterSettings, Resources

Ir = dict[str, Any]

RUNS_ON = ("here", "sagemaker")

RUN_LABEL = "metadata.labels['pipeline/runid']"
"""Where KFP's backend writes the id of the run on a pod."""

READ_PLACES = ("ingest", "featurize", "tune", "train", "evaluate-threshold")
"""Steps that read recordings, weights or labels from a place that a parameter names."""
_AWS_STEPS = ("ingest", "featurize", "tune", "train", "register", "deploy")
_REGISTRY_STEPS = ("tune", "train", "register", "deploy")
_AWS_KEYS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"),
)
_MLFLOW_KEYS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_GOOGLE_FOLDER = "/var/secrets/google"


@dataclass(frozen=True)
class Compiled:
    """A pipeline for a cluster.

    Attributes:
        pipeline: KFP's PipelineSpec as plain values.
        platform: KFP's PlatformSpec: what Kubernetes is to add to the pods.
    """

    pipeline: Ir
    platform: Ir

    @property
    def sha256(self) -> str:
        """Hash of all of it."""
        text = json.dumps([self.pipeline, self.platform], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def as_yaml(self) -> str:
        """Two YAML documents, as every KFP backend takes them."""
        import yaml

        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the same document, sooner
        return str(yaml.dump_all([self.pipeline, self.platform], Dumper=dumper, sort_keys=True))


def target_of(step: str, runs_on: str = "here") -> str:
    """The image target that a step runs in: tune and train only start jobs with sagemaker."""
    if runs_on == "sagemaker" and step in GPU_STEPS:
        return "cloud"
    stage = step.replace("-", "_")
    return next(target for target, stages in STAGES.items() if stage in stages)


def check_runs_on(runs_on: str) -> None:
    """Refuse an unknown place to compute.

    Raises:
        ConfigError: Names the known ones.
    """
    if runs_on not in RUNS_ON:
        raise ConfigError(f"--runs-on {runs_on!r}: choose {' or '.join(RUNS_ON)}.")


def compile_for_cluster(
    settings: ClusterSettings,
    wanted: Mapping[str, Resources],
    runs_on: str = "here",
    jobs: JobSettings | None = None,
) -> Compiled:
    """Compile the pipeline for a cluster.

    Args:
        settings: Of the cluster.
        wanted: What each step asks for.
        runs_on: here (pods of the cluster) or sagemaker (jobs that tune and train start).
        jobs: With sagemaker: settings of the jobs.

    Raises:
        ConfigError: `runs_on` is neither.
    """
    from google.protobuf import json_format
    from kfp import dsl, kubernetes
    from kfp.dsl import pipeline_context

    from birdsong.runs import graph
    from pipeline import birdsong

    check_runs_on(runs_on)
    images = image_references(settings, runs_on)

    @functools.wraps(birdsong.pipeline_func)
    def on_a_cluster(*values: Any, **named: Any) -> None:
        birdsong.pipeline_func(*values, **named)
        for step, task in pipeline_context.Pipeline.get_default_pipeline().tasks.items():
            _set_up(task, step, settings, wanted[step], images[step], runs_on)
            if jobs is not None and step in GPU_STEPS:
                task.set_env_variable(VARIABLE, jobs.model_dump_json())
                # A retried pod finds its job by the run's id, which only the pod's labels tell.
                kubernetes.use_field_path_as_env(task, RUN, RUN_LABEL)

    seconds = round(settings.ttl_hours * 3600)
    compiled = dsl.pipeline(
        name=birdsong.name,
        description=birdsong.description,
        pipeline_config=dsl.PipelineConfig(
            ttl_seconds_after_finished=seconds,
            active_deadline_seconds=round(settings.deadline_hours * 3600),
        ),
    )(on_a_cluster)
    return Compiled(graph.as_ir(compiled), json_format.MessageToDict(compiled.platform_spec))


def image_references(settings: ClusterSettings, runs_on: str = "here") -> dict[str, str]:
    """Step to its image."""
    from components import images

    known: dict[str, str] = {}
    found = {}
    for stages in STAGES.values():
        for stage in stages:
            step = stage.replace("_", "-")
            target = target_of(step, runs_on)
            if target not in known:
                image = images.reference(target)
                name = image.rpartition("/")[2]
                if settings.image_registry and name.startswith(NAME):
                    image = f"{settings.image_registry.rstrip('/')}/{name}"
                known[target] = image
            found[step] = known[target]
    return found


def _set_up(
    task: Any,
    step: str,
    settings: ClusterSettings,
    wanted: Resources,
    image: str,
    runs_on: str,
) -> None:
    from kfp import kubernetes

    away = runs_on == "sagemaker" and step in GPU_STEPS
    task.set_container_image(image)
    task.set_display_name(f"{step} on SageMaker" if away else step)
    task.set_caching_options(settings.caching)
    task.set_cpu_request(wanted.cpu).set_cpu_limit(wanted.cpu)
    task.set_memory_request(wanted.memory).set_memory_limit(wanted.memory)
    if settings.retries:
        task.set_retry(
            settings.retries,
            backoff_duration=f"{settings.backoff_seconds}s",
            backoff_factor=2.0,
            backoff_max_duration=f"{settings.backoff_max_seconds}s",
        )
    if wanted.gpus:
        task.set_accelerator_type(settings.gpu.resource)
        task.set_accelerator_limit(wanted.gpus)
        for key, value in settings.gpu.node_selector.items():
            kubernetes.add_node_selector(task, key, value)
        for bears in settings.gpu.tolerations:
            kubernetes.add_toleration(
                task, bears.key, bears.operator, value=bears.value, effect=bears.effect
            )
    kubernetes.set_security_context(
        task, run_as_user=settings.user, run_as_group=settings.group, run_as_non_root=True
    )
    kubernetes.set_image_pull_policy(task, "IfNotPresent")  # the tag names its contents
    if settings.image_pull_secret:
        kubernetes.set_image_pull_secrets(task, [settings.image_pull_secret])
    # A root file system that is read-only still leaves a place for temporary files.
    kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path="/tmp")  # noqa: S108
    task.set_env_variable("HOME", "/tmp")  # noqa: S108
    if step in GPU_STEPS and not away:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory")  # noqa: S108
    if step in READ_PLACES:
        for mount in settings.mounts:
            kubernetes.mount_pvc(task, mount.claim, mount.path)
    _name_secrets(task, step, settings)


def _name_secrets(task: Any, step: str, settings: ClusterSettings) -> None:
    """Secrets by reference; a pod starts without them, for roles and workload identity."""
    from kfp import kubernetes

    names = settings.secrets
    if names.aws and step in _AWS_STEPS:
        keys = {key: key for key in _AWS_KEYS}
        kubernetes.use_secret_as_env(task, names.aws, keys, optional=True)
    if names.mlflow and step in _REGISTRY_STEPS:
        keys = {key: key for key in _MLFLOW_KEYS}
        kubernetes.use_secret_as_env(task, names.mlflow, keys, optional=True)
    if names.google and step in _AWS_STEPS:
        kubernetes.use_secret_as_volume(task, names.google, _GOOGLE_FOLDER, optional=False)
        task.set_env_variable("GOOGLE_APPLICATION_CREDENTIALS", f"{_GOOGLE_FOLDER}/key.json")
