"""What SageMaker is asked for a training: the typed request of train, and of the trials of tune.

The types are those of sagemaker.core; importing them takes seconds, so it happens inside the steps.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from birdsong.aws import names
from birdsong.aws.bucket import Sent
from birdsong.aws.settings import JobSettings
from birdsong.config import TrainConfig
from birdsong.errors import ConfigError

_NUMBER = "([-0-9.e+]+)"
METRICS = {
    # Also after each epoch, which early stopping and Hyperband need.
    "validation_accuracy": f"(?:metric validation_accuracy=|, best ){_NUMBER}",
    "baseline_validation_accuracy": f"metric baseline_validation_accuracy={_NUMBER}",
    "best_epoch": f"metric best_epoch={_NUMBER}",
    "epochs": f"metric epochs={_NUMBER}",
}
"""What SageMaker keeps of the lines of the executable `train`."""

VOLUME_GB = 30
"""Room beside the features: image layers, model, checkpoints."""

Json = dict[str, Any]


def check(config: TrainConfig) -> None:
    """Refuse settings that a machine elsewhere cannot follow.

    Raises:
        ConfigError: Says which, and what to give instead.
    """
    weights = config.weights
    if weights not in ("none", "imagenet") and not weights.startswith(("https://", "http://")):
        raise ConfigError(
            f"weights {weights!r}: a job on SageMaker sees no file of this machine and no "
            "registry. Give imagenet, none, or an https:// address with weights_sha256."
        )


def hyperparameters(values: Mapping[str, Any]) -> dict[str, str]:
    """Settings as SageMaker carries them: texts."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
        if value not in ("", None)  # SageMaker takes no empty values; they are the defaults
    }


def image(settings: JobSettings) -> str:
    """The image that the jobs run.

    Raises:
        ConfigError: It is in no registry that SageMaker could pull from.
    """
    if settings.image:
        return settings.image
    raise ConfigError(
        "image: name the image train in ECR in the file of --sagemaker, or set BIRDSONG_REGISTRY "
        "to ACCOUNT.dkr.ecr.REGION.amazonaws.com when the run is started. Make it with: make "
        "images, docker push."
    )


def input_mode(settings: JobSettings, data: Sent) -> str:
    """How the features reach the machine: File unless the settings say otherwise.

    Training maps the shards and reads windows of all recordings at random, in each epoch anew.
    That is what a local disk does well (File copies all once, before the start) and what FastFile,
    which streams from S3 and reads ahead, does badly.
    """
    return "File" if settings.input_mode == "auto" else settings.input_mode


def volume_gb(settings: JobSettings, data: Sent, mode: str) -> int:
    """Size of the machine's volume, GB."""
    if settings.volume_gb:
        return settings.volume_gb
    return VOLUME_GB + (math.ceil(data.size / 1e9) if mode == "File" else 0)


def definition(
    settings: JobSettings,
    channels: Mapping[str, Sent],
    static: Mapping[str, str],
    *,
    step: str,
    run: str,
    max_runtime_hours: float,
) -> Json:
    """What training jobs and the trials of tuning jobs have in common.

    Args:
        settings: Of the project's jobs.
        channels: Name to what is in the bucket; `development` decides mode and volume.
        static: Hyperparameters as text.
        step: train or tune.
        run: Id of the run.
        max_runtime_hours: Of one job.

    Returns:
        As boto3 takes it; the hyperparameters under "HyperParameters".
    """
    from sagemaker.core import shapes as s
    from sagemaker.core.utils.utils import serialize

    data = channels["development"]
    mode = input_mode(settings, data)
    reference = image(settings)
    # By what decides the weights, not by the machine or the attempt: the next job goes on there.
    work = names.digest([reference, dict(static), [one.sha256 for one in channels.values()]], 16)
    place = f"{settings.prefix}/checkpoints/{names.of_run(run)}{step}-{work}/"
    runtime = math.ceil(max_runtime_hours * 3600)
    longest = math.ceil(settings.max_wait_hours * 3600) or 2 * runtime
    key = {"kms_key_id": settings.kms_key} if settings.kms_key else {}
    volume_key = {"volume_kms_key_id": settings.kms_key} if settings.kms_key else {}
    request = {
        "AlgorithmSpecification": s.AlgorithmSpecification(
            training_image=reference,
            training_input_mode=mode,
            metric_definitions=[
                s.MetricDefinition(name=name, regex=regex) for name, regex in METRICS.items()
            ],
        ),
        "RoleArn": settings.role,
        "InputDataConfig": [
            s.Channel(
                channel_name=name,
                input_mode=mode if name == "development" else "File",
                data_source=s.DataSource(
                    s3_data_source=s.S3DataSource(
                        s3_data_type="S3Prefix",
                        s3_uri=one.uri,
                        s3_data_distribution_type="FullyReplicated",
                    )
                ),
            )
            for name, one in channels.items()
        ],
        "OutputDataConfig": s.OutputDataConfig(s3_output_path=f"{settings.prefix}/jobs", **key),
        "ResourceConfig": s.ResourceConfig(
            instance_type=settings.instance,
            instance_count=settings.count,
            volume_size_in_gb=volume_gb(settings, data, mode),
            **volume_key,
        ),
        "StoppingCondition": s.StoppingCondition(
            max_runtime_in_seconds=runtime,
            **({"max_wait_time_in_seconds": max(longest, runtime)} if settings.spot else {}),
        ),
        "RetryStrategy": s.RetryStrategy(maximum_retry_attempts=2),  # of AWS' own errors
        "Environment": {"BIRDSONG_RUN": run, "BIRDSONG_STEP": step},
    }
    found: Json = {name: serialize(value) for name, value in request.items()}
    if settings.subnets:
        vpc = s.VpcConfig(
            subnets=settings.subnets,
            security_group_ids=settings.security_groups,
        )
        found["VpcConfig"] = serialize(vpc)
    found["EnableManagedSpotTraining"] = settings.spot
    # With the slash: a prefix without it also takes what begins with the same letters.
    found["CheckpointConfig"] = serialize(s.CheckpointConfig(s3_uri=place))
    found["HyperParameters"] = dict(static)
    return found


def describe_input(settings: JobSettings, data: Sent) -> str:
    """A line about how the features come, for people."""
    mode = input_mode(settings, data)
    what = (
        "copied to the machine's disk before the start, as training reads windows at random"
        if mode == "File"
        else "streamed while it trains; random reads are slow this way"
    )
    return f"SageMaker: input mode {mode}: {data.size / 1e6:.1f} MB of features are {what}"
