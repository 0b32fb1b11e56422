"""The DAG: from a bucket of labelled bird recordings to a deployed, thresholded classifier.

`python pipeline.py --help` lists the commands; `birdsong` is the same program.
"""

import sys

if __name__ == "__main__":
    # Before kfp is imported (seconds): the command line imports this module when it needs the DAG.
    from birdsong.cli.main import main

    sys.exit(main())

from kfp import dsl

from components.deploy import deploy
from components.evaluate_threshold import evaluate_threshold
from components.featurize import featurize
from components.ingest import ingest
from components.register import register
from components.split import split
from components.train import train
from components.tune import tune


@dsl.pipeline(
    name="birdsong",
    description="From labelled bird recordings to a deployed, thresholded classifier.",
)
def birdsong(
    source: str = "demo:",
    layout: str = "auto",
    max_bad_share: float = 0.05,
    snapshot: bool = False,
    validation_fraction: float = 0.06,
    calibration_fraction: float = 0.07,
    test_fraction: float = 0.07,
    group_by: str = "author,date,place",
    split_column: str = "",
    seconds: float = 60.0,
    encoding: str = "pcm",
    no_call_source: str = "",
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
    runtime_agreement: float = 0.99,
    runtime_accuracy_points: float = 0.5,
    target_fpr: float = 0.01,
    confidence: float = 0.95,
    min_positives: int = 5,
    golden: int = 8,
    frame_labels: str = "",
    model_name: str = "birdsong",
    gate: str = "baseline",
    registry: str = "",
    approval: str = "manual",
    serve_image: str = "",
    target: str = "local",
    tolerance: float = 0.0,
    runtime: str = "auto",
    latency_ms: float = 0.0,
    endpoint_name: str = "",
    endpoint_role: str = "",
    instance: str = "ml.m5.xlarge",
    endpoint_options: str = "",
    seed: int = 0,
) -> None:
    """From labelled bird recordings to a deployed, thresholded classifier.

    Args:
        source: Folder, zip, s3://bucket/prefix, gs://bucket/prefix (or a .zip there) or demo:.
        layout: auto, birdclef2020, birdclef2021, birdclef2022 or folders (one per species).
        max_bad_share: Share of bad recordings above which ingest and featurize fail, 0 to 1.
        snapshot: Also pack the original bytes into the recordings artifact.
        validation_fraction: Share that chooses the best epoch, 0 to 1.
        calibration_fraction: Share that thresholds are fitted on, 0 to 1.
        test_fraction: Share that the reported figures are measured on, 0 to 1.
        group_by: What keeps recordings on one side: any of author,date,place; empty for nothing.
        split_column: Column of the metadata with a split of one's own; empty for none.
        seconds: Most seconds that are kept of one recording.
        encoding: How shards store the 16-bit samples, pcm or flac.
        no_call_source: Folder, zip or bucket of audio without birds, for background; or empty.
        trials: Trials of the hyperparameter search; 0 passes the five values below on.
        trial_epochs: Epochs of one trial.
        trial_workers: Processes of one machine that share the trials.
        space: Ranges of the search as a JSON object; empty for those of the recipe.
        learning_rate: Adam's learning rate.
        time_mask: Widest masked slice of time, share of the picture, 0 to 1.
        freq_mask: Widest masked slice of bands, share of the picture, 0 to 1.
        reduce_db: Most by which the decibel floor is raised, share of its range, 0 to 1.
        dropout: Dropout before the head, 0 to 1.
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
        runtime_agreement: Least share of validation recordings on which a faster runtime must agree
            with TensorFlow to be served, 0 to 1.
        runtime_accuracy_points: Most by which its accuracy may differ, percentage points.
        target_fpr: Share of windows without a species that may still score above its threshold.
        confidence: How sure a species' own threshold keeps that rate, 0 to 1; 0: on average only.
        min_positives: Fewest positive calibration windows for a threshold of its own.
        golden: Recordings that travel with the model as a check of what is served.
        frame_labels: Table of labelled 5-second frames, its recordings beside it; empty for none.
        model_name: Name in the registry.
        gate: none, baseline or champion: what a model must pass to be offered for deployment.
        registry: MLflow's address (on one machine `run` fills in a file in the runs folder), or
            sagemaker://BUCKET/PREFIX.
        approval: With SageMaker, who approves a version: manual (a person) or gate.
        serve_image: With SageMaker, the image serve in ECR.
        target: none, local or sagemaker: where the model is served.
        tolerance: Largest difference between a golden recording's stored and served scores; 0 for
            what is stated for the runtime that answers.
        runtime: What computes the network where it is served; auto for the fastest admitted one.
        latency_ms: Largest median time of an answer to a golden recording, ms; 0 for any.
        endpoint_name: With SageMaker, the endpoint's name; empty for the model's.
        endpoint_role: With SageMaker, ARN of the role that the container runs as.
        instance: With SageMaker, the endpoint's instance type, or serverless.
        endpoint_options: With SageMaker, rarer settings of the endpoint as a JSON object.
        seed: Seed of the split, the training and the bootstrap.
    """
    found = ingest(source=source, layout=layout, max_bad_share=max_bad_share, snapshot=snapshot)
    shared = split(
        recordings=found.outputs["recordings"],
        validation_fraction=validation_fraction,
        calibration_fraction=calibration_fraction,
        test_fraction=test_fraction,
        split_seed=seed,
        group_by=group_by,
        split_column=split_column,
    )
    features = featurize(
        recordings=found.outputs["recordings"],
        splits=shared.outputs["splits"],
        seconds=seconds,
        encoding=encoding,
        no_call_source=no_call_source,
        max_bad_share=max_bad_share,
    )
    tuned = tune(
        development=features.outputs["development"],
        trials=trials,
        trial_epochs=trial_epochs,
        trial_workers=trial_workers,
        space=space,
        learning_rate=learning_rate,
        time_mask=time_mask,
        freq_mask=freq_mask,
        reduce_db=reduce_db,
        dropout=dropout,
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
        train_seed=seed,
    )
    trained = train(
        development=features.outputs["development"],
        hyperparameters=tuned.outputs["hyperparameters"],
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
        runtime_agreement=runtime_agreement,
        runtime_accuracy_points=runtime_accuracy_points,
        train_seed=seed,
    )
    evaluated = evaluate_threshold(
        model=trained.outputs["model"],
        calibration=features.outputs["calibration"],
        test=features.outputs["test"],
        target_fpr=target_fpr,
        confidence=confidence,
        min_positives=min_positives,
        golden=golden,
        frame_labels=frame_labels,
        evaluate_seed=seed,
    )
    registered = register(
        model=trained.outputs["model"],
        thresholds=evaluated.outputs["thresholds"],
        evaluation=evaluated.outputs["evaluation"],
        model_name=model_name,
        gate=gate,
        registry=registry,
        approval=approval,
        serve_image=serve_image,
        register_seed=seed,
    )
    deploy(
        version=registered.outputs["version"],
        target=target,
        tolerance=tolerance,
        runtime=runtime,
        latency_ms=latency_ms,
        endpoint_name=endpoint_name,
        endpoint_role=endpoint_role,
        instance=instance,
        endpoint_options=endpoint_options,
    )
