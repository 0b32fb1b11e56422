"""Stage: choose thresholds on calibration, measure on test, and keep what later stages check."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsong import (
    artifacts,
    audio,
    baseline,
    calibration,
    cost,
    metrics,
    report,
    soundscapes,
    thresholds,
)
from birdsong.config import EvaluateConfig
from birdsong.errors import DataError
from birdsong.runtimes import evaluation as runtime_evaluation
from birdsong.scoring import Scorer, score_windows
from birdsong.summary import Recordings, Scored, by_recording, calibration_json, summarise

if TYPE_CHECKING:
    import pandas as pd

    from birdsong.features import FeatureSet

TOP = 3
MOST_ERRORS = 12
"""Errors that the report shows with a picture and a player."""


@dataclass(frozen=True)
class Evaluation:
    """What the step shows in the DAG; every number is finite.

    Attributes:
        metrics: Headline figures on test.
        roc_fpr, roc_tpr, roc_thresholds: ROC over all species, at most 200 points.
        confusion_labels, confusion_matrix: Rows are what is labelled, columns what is said.
    """

    metrics: dict[str, float]
    roc_fpr: list[float]
    roc_tpr: list[float]
    roc_thresholds: list[float]
    confusion_labels: list[str]
    confusion_matrix: list[list[int]]


def evaluate_threshold(
    model_path: str | Path,
    calibration_path: str | Path,
    test_path: str | Path,
    thresholds_path: str | Path,
    evaluation_path: str | Path,
    report_path: str | Path,
    config: EvaluateConfig,
) -> Evaluation:
    """Choose thresholds on calibration windows and measure the model on test recordings.

    Args:
        model_path: Output of train.
        calibration_path: Calibration windows of featurize.
        test_path: Test windows of featurize.
        thresholds_path: Where `thresholds.json` and `calibration.json` are written.
        evaluation_path: Where figures, scores and golden recordings are written.
        report_path: Where the HTML report is written.
        config: Target rate and its confidence, fewest positives, golden recordings, seed.

    Returns:
        The figures that the DAG shows.

    Raises:
        DataError: Model and features do not belong together, a recording is in both parts, or the
            labelled frames do not fit their recordings.
    """
    from birdsong.features import FeatureSet

    scorer = Scorer(model_path)
    plain = baseline.load(model_path)
    held_out, fresh = FeatureSet(calibration_path), FeatureSet(test_path)
    _check_apart(held_out, fresh)
    calibrated = _score(scorer, plain, held_out)
    tested = _score(scorer, plain, fresh)
    codes = list(scorer.codes)

    chosen, rival = (
        thresholds.pick_thresholds(
            scores,
            calibrated.labels,
            codes,
            config.target_fpr,
            config.min_positives,
            config.confidence,
            calibrated.groups,
            config.seed,
        )
        for scores in (calibrated.network, calibrated.baseline)
    )
    corrected = calibration.choose(
        calibrated.network, calibrated.labels, calibrated.groups, config.seed
    )
    others, table = runtime_evaluation.fit(
        Path(model_path), (held_out, fresh), (calibrated, tested), config
    )
    with artifacts.create(
        thresholds_path,
        kind="thresholds",
        settings=config,
        inputs={"model": model_path, "calibration": calibration_path},
    ) as folder:
        artifacts.write_json(folder.path / "thresholds.json", chosen)
        artifacts.write_json(
            folder.path / "calibration.json", calibration_json(corrected, calibrated)
        )
        runtime_evaluation.write_fitted(folder.path, others)

    recordings = by_recording(tested)
    figures = summarise(calibrated, tested, codes, chosen, rival, corrected, config, fresh.training)
    if config.frame_labels:
        figures["per_frame"] = soundscapes.measure(
            scorer,
            Path(config.frame_labels).expanduser(),
            thresholds.as_array(chosen, codes),
            config.seed,
        )
    golden = pick_golden(calibrated.index, config.golden)
    with artifacts.create(
        evaluation_path,
        kind="evaluation",
        settings=config,
        inputs={
            "model": model_path,
            "calibration": calibration_path,
            "test": test_path,
            "thresholds": thresholds_path,
        },
    ) as folder:
        artifacts.write_json(folder.path / "metrics.json", figures)
        _recording_table(recordings, codes).to_parquet(
            folder.path / "test_scores.parquet", index=False
        )
        for name, part in (("calibration_scores", calibrated), ("test_window_scores", tested)):
            _window_table(part).to_parquet(folder.path / f"{name}.parquet", index=False)
        by_runtime = {name: fitted.scorer for name, fitted in others.items()}
        _write_golden(folder.path / "golden", scorer, by_runtime, held_out, golden)
        compared = runtime_evaluation.write_table(
            folder.path, table, runtime_evaluation.on_test(tested, chosen, codes, corrected)
        )

    fpr, tpr, cut = metrics.roc_curve(recordings.network, recordings.labels)
    labels, matrix = metrics.confusion(recordings.network, recordings.labels, codes)
    report.write_report(
        report_path,
        report.Findings(
            classes=fresh.classes,
            metrics=figures,
            thresholds=chosen,
            calibration=corrected,
            curves={
                "network": (fpr, tpr),
                "baseline": metrics.roc_curve(recordings.baseline, recordings.labels)[:2],
            },
            precision={
                name: metrics.precision_recall_curve(scores, recordings.labels)
                for name, scores in (
                    ("network", recordings.network),
                    ("baseline", recordings.baseline),
                )
            },
            reliability=(
                calibration.reliability(tested.network, tested.labels),
                calibration.reliability(corrected.probabilities(tested.network), tested.labels),
            ),
            confusion=(labels, matrix),
            errors=_worst_errors(recordings, tested, codes, fresh),
            runtimes=compared,
            spent=cost.read(model_path),
        ),
    )
    return Evaluation(
        metrics=_flat(figures),
        roc_fpr=fpr,
        roc_tpr=tpr,
        roc_thresholds=cut,
        confusion_labels=labels,
        confusion_matrix=matrix,
    )


def pick_golden(index: "pd.DataFrame", count: int) -> list[int]:
    """Choose windows that check a server: different species, from the shortest to the longest.

    Args:
        index: Calibration windows: id, window, label, samples.
        count: Most windows.

    Returns:
        Row positions, the shortest window first; the choice depends on the index alone.
    """
    order = sorted(
        range(len(index)),
        key=lambda row: (
            int(index["samples"].iloc[row]),
            str(index["id"].iloc[row]),
            int(index["window"].iloc[row]),
        ),
    )
    used: dict[str, int] = {}
    taken: dict[int, int] = {}
    for aim in np.linspace(0, len(order) - 1, min(count, len(order))):
        # A species not heard yet is worth a walk along the lengths, but the two ends stand.
        ends = aim in (0, len(order) - 1)
        place = min(
            (place for place in range(len(order)) if place not in taken),
            key=lambda place: (
                abs(place - aim)
                if ends
                else abs(place - aim)
                + len(order) * used.get(str(index["label"].iloc[order[place]]), 0)
            ),
        )
        taken[place] = order[place]
        label = str(index["label"].iloc[order[place]])
        used[label] = used.get(label, 0) + 1
    return [taken[place] for place in sorted(taken)]


def _check_apart(first: "FeatureSet", second: "FeatureSet") -> None:
    both = set(first.index["sha256"]) & set(second.index["sha256"])
    if both:
        raise DataError(
            f"{len(both)} recordings are in calibration and in test, so the figures would flatter. "
            "Run split and featurize again."
        )


def _score(scorer: Scorer, plain: baseline.Baseline, features: "FeatureSet") -> Scored:
    found = score_windows(scorer, features)
    if plain.codes != scorer.codes:
        raise DataError("Network and baseline know other species. Train the model again.")
    labels = metrics.label_matrix(
        found.index["label"].tolist(), found.index["secondary"].tolist(), scorer.codes
    )
    return Scored(found.index, labels, found.scores, plain.scores(features), found.best_frame)


def _flat(summary: Mapping[str, Any]) -> dict[str, float]:
    """The figures that the DAG shows, those that have a value."""
    named: dict[str, float | None] = {}
    for name in metrics.HEADLINES:
        named[name] = summary["network"][name]["value"]
        named[f"baseline_{name}"] = summary["baseline"][name]["value"]
    for end in ("low", "high"):
        named[f"accuracy_{end}"] = summary["network"]["accuracy"][end]
        named[f"baseline_accuracy_{end}"] = summary["baseline"]["accuracy"][end]
    realised = summary["false_positives"]
    named["false_positive_rate"] = realised["false_positive_rate"]["value"]
    named["recall"] = realised["recall"]["value"]
    named["ece"] = summary["calibration"]["ece_after"]
    counts = summary["counts"]
    for name in ("test_recordings", "thresholds_own", "thresholds_pooled", "thresholds_none"):
        named[name] = float(counts[name])
    return {name: float(value) for name, value in named.items() if value is not None}


def _recording_table(part: Recordings, codes: Sequence[str]) -> "pd.DataFrame":
    table = part.index[["id", "sha256", "group", "label", "secondary"]].copy()
    names = np.array(codes, object)
    table["windows"] = part.windows
    for prefix, scores in (("", part.network), ("baseline_", part.baseline)):
        table[f"{prefix}correct"] = metrics.correct(scores, part.labels)
        best = metrics.ranking(scores)[:, :TOP]
        table[f"{prefix}top"] = [names[row].tolist() for row in best]
        table[f"{prefix}scores"] = list(scores)
    return table


def _window_table(part: Scored) -> "pd.DataFrame":
    columns = ["id", "sha256", "window", "group", "label", "secondary", "start_seconds"]
    table = part.index[columns].copy()
    table["scores"] = list(part.network)
    return table


def _write_golden(
    folder: Path,
    scorer: Scorer,
    others: Mapping[str, Scorer],
    features: "FeatureSet",
    rows: Sequence[int],
) -> None:
    folder.mkdir()
    entries = []
    for number, row in enumerate(rows):
        samples = features.waveform(row)
        name = f"{number:02d}.flac"
        (folder / name).write_bytes(audio.encode_flac(samples, features.config.sample_rate))
        about = features.index.iloc[row]
        entries.append(
            {
                "file": name,
                "id": str(about["id"]),
                "sha256": str(about["sha256"]),
                "window": int(about["window"]),
                "seconds": len(samples) / features.config.sample_rate,
                "label": str(about["label"]),
                # Scored alone, as a server does it.
                "scores": [float(score) for score in scorer.window(samples)],
                "runtimes": {
                    name: [float(score) for score in other.window(samples)]
                    for name, other in others.items()
                },
            }
        )
    artifacts.write_json(folder / "golden.json", entries)


def _worst_errors(
    recordings: Recordings, tested: Scored, codes: Sequence[str], features: "FeatureSet"
) -> list[report.Error]:
    """The recordings that the network was most sure and most wrong about."""
    wrong = np.flatnonzero(~metrics.correct(recordings.network, recordings.labels))
    if not len(wrong):
        return []
    scores = recordings.network
    said = metrics.ranking(scores)[:, 0]
    truth = recordings.labels.argmax(axis=1)
    margin = scores[wrong, said[wrong]] - scores[wrong, truth[wrong]]
    length = round(audio.FRAME_SECONDS * features.config.sample_rate)
    errors = []
    for row in wrong[np.argsort(-margin, kind="stable")][:MOST_ERRORS]:
        name = recordings.index["id"].iloc[row]
        windows = np.flatnonzero((tested.index["id"] == name).to_numpy())
        worst = int(windows[tested.network[windows, said[row]].argmax()])
        frame = int(tested.best_frame[worst, said[row]])
        errors.append(
            report.Error(
                id=str(name),
                truth=codes[truth[row]],
                said=codes[said[row]],
                score=float(scores[row, said[row]]),
                truth_score=float(scores[row, truth[row]]),
                baseline_said=codes[int(metrics.ranking(recordings.baseline[[row]])[0, 0])],
                start_seconds=float(tested.index["start_seconds"].iloc[worst])
                + frame * audio.FRAME_SECONDS,
                samples=features.waveform(worst)[frame * length : (frame + 1) * length],
                sample_rate=features.config.sample_rate,
            )
        )
    return errors
