"""Stage: search for hyperparameters, or pass the given ones on."""

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output, component

from components import images


@component(base_image=images.TRAIN, install_kfp_package=False)
def tune(
    development: Input[Dataset],
    hyperparameters: Output[Artifact],
    history: Output[HTML],
    metrics: Output[Metrics],
    trials: int = 0,
    trial_epochs: int = 8,
    trial_workers: int = 1,
    space: str = "",
    learning_rate: float = 3.819e-4,
    time_mask: float = 0.666,
    freq_mask: float = 0.291,
    reduce_db: float = 0.461,
    dropout: float = 0.366,
    backbone: str = "inception_v3",
    weights: str = "imagenet",
    weights_sha256: str = "",
    front_end: str = "full",
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
    train_seed: int = 0,
) -> None:
    """Search for hyperparameters, or pass the given ones on.

    Args:
        development: Output of featurize.
        trials: Trials of the search; 0 passes the given hyperparameters on.
        trial_epochs: Epochs of one trial.
        trial_workers: Processes of one machine that share the trials, each with a GPU of its own
            where there are several.
        space: What is searched beside or instead of the five hyperparameters, a JSON object such
            as {"dropout": [0, 0.5], "pos_weight": {"low": 1, "high": 9, "log": true},
            "reduce_db": null}; empty for the five alone.
        learning_rate: Adam's learning rate.
        time_mask: Widest masked slice of time, share of the picture, 0 to 1.
        freq_mask: Widest masked slice of bands, share of the picture, 0 to 1.
        reduce_db: Most by which the decibel floor is raised, share of its range, 0 to 1.
        dropout: Dropout before the head, 0 to 1.
        backbone: tiny, mobilenet_v3_small, efficientnet_v2_b0 or inception_v3.
        weights: imagenet, none, a file or URI, or models:/NAME/VERSION.
        weights_sha256: SHA-256 of the weights file; empty for unchecked.
        front_end: full (299 x 299 x 3) or small.
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
        train_seed: Seed of weights, order and augmentation.

    Returns:
        hyperparameters: hyperparameters.json, as train takes it, and trials.json.
        history: The trials, what mattered, and the chosen values.
        metrics: Trials finished, pruned and failed, and the best validation accuracy.
    """
    from birdsong import shown
    from birdsong.aws import settings
    from birdsong.config import Hyperparameters, TrainConfig, TuneConfig

    if settings.wanted():
        from birdsong.aws import tune_step as library
    else:
        from birdsong import search as library

    summary = library.tune(
        development.path,
        hyperparameters.path,
        history.path,
        TuneConfig(trials=trials, epochs=trial_epochs, space=space, workers=trial_workers),
        TrainConfig(
            backbone=backbone,
            weights=weights,
            weights_sha256=weights_sha256,
            front_end=front_end,
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
        ),
        Hyperparameters(
            learning_rate=learning_rate,
            time_mask=time_mask,
            freq_mask=freq_mask,
            reduce_db=reduce_db,
            dropout=dropout,
        ),
    )
    shown.log_metrics(metrics, summary)
