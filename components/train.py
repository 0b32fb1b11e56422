"""Stage: train the network and, beside it, a plain baseline."""

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output, component

from components import images


@component(base_image=images.TRAIN, install_kfp_package=False)
def train(
    development: Input[Dataset],
    hyperparameters: Input[Artifact],
    model: Output[Model],
    history: Output[HTML],
    metrics: Output[Metrics],
    backbone: str = "inception_v3",
    weights: str = "imagenet",
    weights_sha256: str = "",
    front_end: str = "full",
    epochs: int = 24,
    patience: int = 0,
    batch_size: int = 32,
    pos_weight: float = 1.0,
    class_balance: float = 0.0,
    mixup: float = 0.0,
    background: float = 0.0,
    gain_db: float = 0.0,
    label_smoothing: float = 0.0,
    rating_weight: float = 0.0,
    precision: str = "float32",
    devices: int = 1,
    registry: str = "",
    runtime_agreement: float = 0.99,
    runtime_accuracy_points: float = 0.5,
    train_seed: int = 0,
) -> None:
    """Train the network and, beside it, a plain baseline.

    Args:
        development: Output of featurize.
        hyperparameters: Output of tune.
        backbone: tiny, mobilenet_v3_small, efficientnet_v2_b0 or inception_v3.
        weights: imagenet, none, a file or URI, or models:/NAME/VERSION.
        weights_sha256: SHA-256 of the weights file; empty for unchecked.
        front_end: full (299 x 299 x 3) or small.
        epochs: Most epochs.
        patience: Epochs without a better one before training stops; 0 for never.
        batch_size: Recordings of one training step.
        pos_weight: Weight of positives in the loss.
        class_balance: 0 for every recording equally often, 1 for every species equally often.
        mixup: Share of examples mixed with any other one, their labels joined, 0 to 1.
        background: Share of examples that get background noise, 0 to 1.
        gain_db: Most by which an example is made quieter, dB.
        label_smoothing: Taken from the target of a species that is there, 0 to 0.5.
        rating_weight: How much a recording's rating weighs in the loss, 0 to 1.
        precision: float32, mixed_bfloat16 or mixed_float16 (faster on GPUs with tensor cores).
        devices: GPUs of one host that share each training step.
        registry: MLflow's address, where models:/NAME/VERSION is looked up.
        runtime_agreement: Least share of validation recordings whose top species a faster runtime
            must give as TensorFlow does, to be served, 0 to 1.
        runtime_accuracy_points: Most by which its accuracy may differ, percentage points.
        train_seed: Seed of weights, order and augmentation.

    Returns:
        model: Weights, settings, species, the graph from waveforms to scores, the network for
            faster runtimes and how each compares; the baseline.
        history: Curves of the training.
        metrics: Validation accuracy of the network and of the baseline, best epoch, seconds.
    """
    from birdsong import shown
    from birdsong.aws import settings
    from birdsong.config import RuntimeConfig, TrainConfig

    if settings.wanted():
        from birdsong.aws import train_step as library
    else:
        from birdsong import training as library

    config = TrainConfig(
        backbone=backbone,
        weights=weights,
        weights_sha256=weights_sha256,
        front_end=front_end,
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        pos_weight=pos_weight,
        class_balance=class_balance,
        mixup=mixup,
        background=background,
        gain_db=gain_db,
        label_smoothing=label_smoothing,
        rating_weight=rating_weight,
        precision=precision,
        devices=devices,
        registry=registry,
        seed=train_seed,
    )
    summary = library.train(
        development.path,
        hyperparameters.path,
        model.path,
        history.path,
        config,
        RuntimeConfig(
            runtime_agreement=runtime_agreement, runtime_accuracy_points=runtime_accuracy_points
        ),
    )
    shown.log_metrics(metrics, summary)
