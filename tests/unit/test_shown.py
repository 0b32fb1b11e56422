"""What reaches KFP's metrics is finite, whatever a stage found."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2
from kfp.dsl import ClassificationMetrics, Metrics

from birdsong import shown

ROOT = Path(__file__).resolve().parents[2]


def as_kfp_sends_it(metadata: dict[str, Any]) -> dict[str, Any]:
    """Through the message that KFP puts metadata into; it takes neither NaN nor infinity."""
    message = struct_pb2.Struct()
    message.update(metadata)
    found: dict[str, Any] = json.loads(json_format.MessageToJson(message))
    return found


def test_the_message_of_kfp_takes_no_numbers_that_are_not_finite() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="Fail to serialize"):
            as_kfp_sends_it({"value": value})


def test_numbers_that_are_not_finite_are_left_out_and_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = Metrics(uri="/nowhere")
    values = {"good": 0.5, "count": 3, "nan": math.nan, "inf": -math.inf, "none": None}
    shown.log_metrics(metrics, values)
    assert as_kfp_sends_it(metrics.metadata) == {"good": 0.5, "count": 3}
    said = capsys.readouterr().out
    assert "nan is nan, so it is not shown" in said
    assert "none is unknown" in said


def test_a_curve_starts_at_infinity_and_is_shown_all_the_same() -> None:
    curves = ClassificationMetrics(uri="/nowhere")
    roc = ([0.0, 0.5, math.nan, 1.0], [0.0, 0.8, 0.9, 1.0], [math.inf, 0.7, 0.6, -0.2])
    shown.log_curves(curves, roc, (["a", "b"], [[3, 1], [0, 2]]))
    sent = as_kfp_sends_it(curves.metadata)
    points = sent["confidenceMetrics"]
    assert [point["confidenceThreshold"] for point in points] == [1.0, 0.7, 0.0]
    assert [point["falsePositiveRate"] for point in points] == [0.0, 0.5, 1.0]
    assert sent["confusionMatrix"]["rows"] == [{"row": [3, 1]}, {"row": [0, 2]}]


def test_a_long_curve_keeps_its_ends_and_few_points() -> None:
    curves = ClassificationMetrics(uri="/nowhere")
    steps = [number / 999 for number in range(1000)]
    shown.log_curves(curves, (steps, steps, steps[::-1]), ([], []))
    points = curves.metadata["confidenceMetrics"]
    assert len(points) == shown.MOST_POINTS
    assert (points[0]["falsePositiveRate"], points[-1]["falsePositiveRate"]) == (0.0, 1.0)
    assert "confusionMatrix" not in curves.metadata


def test_a_curve_without_points_is_left_out() -> None:
    curves = ClassificationMetrics(uri="/nowhere")
    shown.log_curves(curves, ([math.nan], [0.5], [0.5]), ([], []))
    assert curves.metadata == {}


def test_no_stage_logs_by_another_way() -> None:
    files = [f for f in (ROOT / "components").glob("*.py") if f.stem not in {"__init__", "images"}]
    assert len(files) == 8
    for file in files:
        text = file.read_text()
        assert "shown.log_metrics(metrics, " in text, file
        assert ".log_metric(" not in text, file
        assert ".log_roc_curve(" not in text, file
        assert ".log_confusion_matrix(" not in text, file
