"""Stage: put the model into the registry, or refuse it with a reason."""

from kfp.dsl import Artifact, Input, Metrics, Model, Output, component

from components import images


@component(base_image=images.CLOUD, install_kfp_package=False)
def register(
    model: Input[Model],
    thresholds: Input[Artifact],
    evaluation: Input[Artifact],
    version: Output[Artifact],
    metrics: Output[Metrics],
    model_name: str = "birdsong",
    gate: str = "baseline",
    registry: str = "",
    approval: str = "manual",
    serve_image: str = "",
    register_seed: int = 0,
) -> None:
    """Put the model into the registry, or refuse it with a reason.

    Args:
        model: Output of train.
        thresholds: Thresholds of evaluate_threshold.
        evaluation: Evaluation of evaluate_threshold.
        model_name: Name in the registry.
        gate: none, baseline (not worse than the baseline beyond the interval) or champion (not
            worse than the version that carries the alias, on the same test recordings).
        registry: MLflow's address, sqlite:///FILE or http(s)://HOST; or sagemaker://BUCKET/PREFIX.
        approval: With SageMaker, manual (a person approves the version) or gate (the gate does).
        serve_image: With SageMaker, the image serve in ECR that endpoints run.
        register_seed: Seed of the paired bootstrap.

    Returns:
        version: The bundle and version.json: name, number, registered or rejected, and why.
        metrics: The version's number and whether it was accepted.
    """
    from birdsong import registry as library
    from birdsong import shown
    from birdsong.config import RegisterConfig

    config = RegisterConfig(
        model_name=model_name,
        gate=gate,
        registry=registry,
        approval=approval,
        serve_image=serve_image,
        seed=register_seed,
    )
    summary = library.register(
        model.path, thresholds.path, evaluation.path, version.path, config, version.uri
    )
    shown.log_metrics(metrics, summary)
