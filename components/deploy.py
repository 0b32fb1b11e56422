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
) -> None:
    """Serve the registered version and check it with its golden recordings.

    Args:
        version: Output of register; a rejected version is passed over.
        target: none or local; local starts the server, checks it, stops it and says how to
            start it for good.
        tolerance: Largest difference between a golden recording's stored and served scores; 0 for
            what the bundle states for the runtime that answers.
        runtime: What computes the network: auto (the fastest admitted one), tensorflow, onnx,
            openvino-fp32, openvino-bf16 or openvino-int8.

    Returns:
        endpoint: endpoint.json: how to reach or start the server, and the comparison.
        metrics: Golden recordings that agreed, the largest difference and the seconds.
    """
    from birdsong import deployment as library
    from birdsong import shown
    from birdsong.config import DeployConfig

    config = DeployConfig(target=target, tolerance=tolerance, runtime=runtime)
    shown.log_metrics(metrics, library.deploy(version.path, endpoint.path, config))
