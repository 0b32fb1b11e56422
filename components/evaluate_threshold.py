"""Stage: choose decision thresholds that keep a false-positive rate, and measure the model."""

from kfp.dsl import (
    HTML,
    Artifact,
    ClassificationMetrics,
    Dataset,
    Input,
    Metrics,
    Model,
    Output,
    component,
)

from components import images


@component(base_image=images.TRAIN, install_kfp_package=False)
def evaluate_threshold(
    model: Input[Model],
    calibration: Input[Dataset],
    test: Input[Dataset],
    thresholds: Output[Artifact],
    evaluation: Output[Artifact],
    report: Output[HTML],
    curves: Output[ClassificationMetrics],
    metrics: Output[Metrics],
    target_fpr: float = 0.01,
    confidence: float = 0.95,
    min_positives: int = 5,
    golden: int = 8,
    frame_labels: str = "",
    evaluate_seed: int = 0,
) -> None:
    """Choose decision thresholds that keep a false-positive rate, and measure the model.

    Args:
        model: Output of train.
        calibration: Windows that training never saw; thresholds are fitted on them alone.
        test: Windows that neither training nor thresholds saw.
        target_fpr: Share of windows without a species that may still score above its
            threshold, between 0 and 1.
        confidence: How sure a species' own threshold keeps that rate, 0 to below 1; 0: on
            average only, which needs fewer calibration recordings.
        min_positives: Fewest positive calibration windows for a threshold of its own.
        golden: Recordings that travel with the model as a check of what is served.
        frame_labels: Table of labelled 5-second frames with its recordings beside it, as
            BirdCLEF 2021's train_soundscape_labels.csv; empty for none.
        evaluate_seed: Seed of the bootstrap.

    Returns:
        thresholds: thresholds.json, each species' threshold and how it was chosen, and
            calibration.json, from scores to probabilities.
        evaluation: metrics.json, test_scores.parquet and the golden recordings.
        report: How good the model is, on one page.
        curves: ROC over all species and confusion of the test recordings.
        metrics: Accuracy on test with its interval, beside the baseline.
    """
    from birdsong import evaluation as library
    from birdsong import shown
    from birdsong.config import EvaluateConfig

    result = library.evaluate_threshold(
        model.path,
        calibration.path,
        test.path,
        thresholds.path,
        evaluation.path,
        report.path,
        EvaluateConfig(
            target_fpr=target_fpr,
            confidence=confidence,
            min_positives=min_positives,
            golden=golden,
            frame_labels=frame_labels,
            seed=evaluate_seed,
        ),
    )
    shown.log_metrics(metrics, result.metrics)
    shown.log_curves(
        curves,
        (result.roc_fpr, result.roc_tpr, result.roc_thresholds),
        (result.confusion_labels, result.confusion_matrix),
    )
