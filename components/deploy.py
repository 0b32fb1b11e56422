"""Stage: serve the registered version and check it with its golden recordings."""

from kfp.dsl import Artifact, Input, Metrics, Output, component

from components import images


@component(base_image=images.CLOUD, install_kfp_package=False)
def deploy(
    version: Input[Artifact],
    endpoint: Output[Artifact],
    metrics: Output[Metrics],
    target: str = "local",
    tolerance: float = 0.0,
    runtime: str = "auto",
    latency_ms: float = 0.0,
    endpoint_name: str = "",
    endpoint_role: str = "",
    instance: str = "ml.m5.xlarge",
    endpoint_options: str = "",
) -> None:
    """Serve the registered version and check it with its golden recordings.

    Args:
        version: Output of register; a rejected version is passed over.
        target: none, local (starts the server, checks it, stops it and says how to start it for
            good) or sagemaker (makes or updates an endpoint, and goes back where the check fails).
        tolerance: Largest difference between a golden recording's stored and served scores; 0 for
            what the bundle states for the runtime that answers.
        runtime: What computes the network: auto (the fastest admitted one), tensorflow, onnx,
            openvino-fp32, openvino-bf16 or openvino-int8.
        latency_ms: Largest median time of an answer to a golden recording, ms; 0 for any.
        endpoint_name: With SageMaker, the endpoint's name; empty for the model's.
        endpoint_role: With SageMaker, ARN of the role that the container runs as.
        instance: With SageMaker, the instance type, or serverless.
        endpoint_options: With SageMaker, rarer settings as a JSON object: instances, memory_mb,
            concurrency, alarms, bake_minutes, kms_key, subnets, security_groups, capture_percent.

    Returns:
        endpoint: endpoint.json: how to reach or start the server, and the comparison.
        metrics: Golden recordings that agreed, the largest difference and the seconds.
    """
    from birdsong import deployment as library
    from birdsong import shown
    from birdsong.config import DeployConfig

    config = DeployConfig(
        target=target,
        tolerance=tolerance,
        runtime=runtime,
        latency_ms=latency_ms,
        endpoint_name=endpoint_name,
        endpoint_role=endpoint_role,
        instance=instance,
        endpoint_options=endpoint_options,
    )
    shown.log_metrics(metrics, library.deploy(version.path, endpoint.path, config))
