"""Thresholds, calibration and figures for each runtime that may be served beside the reference.

A threshold stands between scores that may differ by less than the runtimes do, so each runtime gets
its own, by the same code from its own scores of the same calibration recordings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsong import artifacts, calibration, metrics, runtimes, thresholds
from birdsong.config import EvaluateConfig
from birdsong.errors import BirdsongError
from birdsong.metrics import Figures
from birdsong.scoring import Scorer, score_windows
from birdsong.summary import Scored, by_recording, calibration_json

if TYPE_CHECKING:
    from birdsong.features import FeatureSet


@dataclass(frozen=True)
class Fitted:
    """What was found for one runtime.

    Attributes:
        scorer: It, loaded.
        thresholds, calibration: As in `thresholds.json` and `calibration.json`.
        test: Figures on the test recordings.
    """

    scorer: Scorer
    thresholds: dict[str, Any]
    calibration: dict[str, Any]
    test: dict[str, float | None]


def fit(
    model: Path,
    parts: tuple["FeatureSet", "FeatureSet"],
    reference: tuple[Scored, Scored],
    config: EvaluateConfig,
) -> tuple[dict[str, Fitted], dict[str, dict[str, Any]]]:
    """Fit each runtime that train admitted.

    Args:
        model: Output of train.
        parts: Calibration and test windows.
        reference: The same, scored by the reference.
        config: As for the reference.

    Returns:
        The runtimes that may be served, and the table of all: train's entries, and for those that
        cannot be used on this machine the reason, with `admitted` false.
    """
    table = {name: dict(entry) for name, entry in runtimes.table(model).items()}
    found = {}
    for name in runtimes.admitted(model):
        if name == runtimes.REFERENCE:
            continue
        try:
            if reason := runtimes.lacking(name):
                table[name] |= {"admitted": False, "reason": f"Where it was evaluated: {reason}"}
                continue
            scorer = Scorer(model, name)
            scored = [
                replace(one, network=score_windows(scorer, part).scores)
                for part, one in zip(parts, reference, strict=True)
            ]
        except BirdsongError as error:
            table[name] |= {"admitted": False, "reason": f"Where it was evaluated: {error}"}
            continue
        found[name] = _fitted(scorer, scored[0], scored[1], config)
        table[name]["test"] = found[name].test
    return found, table


def _fitted(scorer: Scorer, held_out: Scored, fresh: Scored, config: EvaluateConfig) -> Fitted:
    codes = list(scorer.codes)
    chosen = thresholds.pick_thresholds(
        held_out.network,
        held_out.labels,
        codes,
        config.target_fpr,
        config.min_positives,
        config.confidence,
        held_out.groups,
        config.seed,
    )
    corrected = calibration.choose(held_out.network, held_out.labels, held_out.groups, config.seed)
    return Fitted(
        scorer,
        chosen,
        calibration_json(corrected, held_out),
        on_test(fresh, chosen, codes, corrected),
    )


def on_test(
    tested: Scored,
    chosen: Mapping[str, Any],
    codes: Sequence[str],
    corrected: calibration.Calibration,
) -> dict[str, float | None]:
    """Accuracy by recording; rates at the thresholds and error of the probabilities by window."""
    recordings = by_recording(tested)
    right = metrics.correct(recordings.network, recordings.labels)
    windows = Figures(tested.network, tested.labels, thresholds.as_array(chosen, codes))
    rates = windows.rates(np.ones((1, len(tested.labels)), np.float32))
    told = {
        "accuracy": float(right.mean()) if len(right) else None,
        **{name: float(value[0]) for name, value in rates.items()},
        "ece": calibration.reliability(corrected.probabilities(tested.network), tested.labels).ece,
    }
    return {
        name: None if value is None or not np.isfinite(value) else value
        for name, value in told.items()
    }


def write_fitted(folder: Path, found: Mapping[str, Fitted]) -> None:
    """Write thresholds and calibration of each runtime into the thresholds artifact."""
    for name, fitted in found.items():
        place = folder / "runtimes" / name
        place.mkdir(parents=True)
        artifacts.write_json(place / "thresholds.json", fitted.thresholds)
        artifacts.write_json(place / "calibration.json", fitted.calibration)


def write_table(
    folder: Path, table: Mapping[str, Mapping[str, Any]], reference: Mapping[str, float | None]
) -> dict[str, Any]:
    """Write which runtimes may be served, and how they did, into the evaluation artifact."""
    told = {
        runtimes.REFERENCE: {"admitted": True, "reason": "", "test": dict(reference)},
        **table,
    }
    entries = {
        name: {**entry, "tolerance": runtimes.known(name).tolerance} for name, entry in told.items()
    }
    artifacts.write_json(folder / runtimes.TABLE, {"runtimes": entries})
    return entries
