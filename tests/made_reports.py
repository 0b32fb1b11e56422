"""Reports on made scores, for tests of the page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from made_features import song

from birdsong import calibration, metrics, thresholds
from birdsong.config import EvaluateConfig
from birdsong.cost import Part
from birdsong.report import Error, Findings, write_report
from birdsong.summary import Scored, summarise


def _scored(
    units: int, codes: list[str], seed: int, skill: float = 0.5, windows: int = 1
) -> Scored:
    rng = np.random.default_rng(seed)
    truth = np.arange(units) // windows % len(codes)
    labels = np.zeros((units, len(codes)), np.int8)
    labels[np.arange(units), truth] = 1
    scores = rng.random((2, units, len(codes))).astype(np.float32) * np.float32(0.9)
    scores[0, np.arange(units), truth] += np.float32(skill)
    index = pd.DataFrame(
        {
            "id": [f"r{seed}-{number // windows}" for number in range(units)],
            "group": [f"g{number // windows}" for number in range(units)],
            "label": [codes[species] for species in truth],
        }
    )
    scores = np.clip(scores, 0, 1)
    return Scored(index, labels, scores[0], scores[1], np.zeros(scores[0].shape, np.int16))


def _training(codes: list[str]) -> dict[str, dict[str, float | None]]:
    return {
        code: {"recordings": 3 + n, "minutes": 2.5 * n, "groups": 1 + n // 2, "rating": None}
        for n, code in enumerate(codes)
    }


def write_page(
    place: Path,
    species: int = 4,
    test: int = 40,
    held_out: int = 300,
    errors: int = 1,
    name: str = "Bird",
    skill: float = 0.5,
    windows: int = 1,
    spent: Sequence[Part] = (),
) -> str:
    """Write `report.html` into a folder, and give its text."""
    codes = [f"s{number}" for number in range(species)]
    calibrated = _scored(held_out, codes, 0, skill)
    tested = _scored(test, codes, 1, skill, windows)
    chosen, rival = (
        thresholds.pick_thresholds(scores, calibrated.labels, codes, 0.01, 5)
        for scores in (calibrated.network, calibrated.baseline)
    )
    corrected = calibration.fit_temperature(calibrated.network, calibrated.labels)
    told: dict[str, Any] = summarise(
        calibrated, tested, codes, chosen, rival, corrected, EvaluateConfig(), _training(codes)
    )
    reliability = calibration.reliability(tested.network, tested.labels)
    write_report(
        place / "report.html",
        Findings(
            classes=[
                {"code": code, "scientific_name": "Avis avis", "common_name": f"{name} {code}"}
                for code in codes
            ],
            metrics=told,
            thresholds=chosen,
            calibration=corrected,
            curves=dict.fromkeys(("network", "baseline"), ([0.0, 1.0], [0.0, 1.0])),
            precision=dict.fromkeys(("network", "baseline"), ([0.0, 1.0], [1.0, 0.5])),
            reliability=(reliability, reliability),
            confusion=metrics.confusion(tested.network, tested.labels, codes),
            errors=[
                Error(
                    id=f"{name}/7.ogg",
                    truth=codes[0],
                    said=codes[-1],
                    score=0.9,
                    truth_score=0.1,
                    baseline_said=codes[0],
                    start_seconds=5,
                    samples=song(2000, 0.1 + number),
                    sample_rate=22_050,
                )
                for number in range(errors)
            ],
            runtimes={"tensorflow": {"admitted": True, "tolerance": 1e-3}},
            spent=spent,
        ),
    )
    return (place / "report.html").read_text()
