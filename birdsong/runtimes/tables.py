"""The table of runtimes in words, for the page of the training, the report and the model card."""

from collections.abc import Iterator, Mapping
from typing import Any

HEADS = (
    "runtime",
    "admitted",
    "recordings",
    "largest difference",
    "same top species",
    "accuracy",
    "points from TensorFlow's",
)

SERVED_HEADS = (
    "runtime",
    "served",
    "largest difference",
    "same top species",
    "test accuracy",
    "test false-positive rate",
    "test recall",
    "tolerance",
)

SERVED = (
    "Each runtime has thresholds and calibration of its own, fitted on its own scores of the "
    "calibration recordings. Differences are from TensorFlow, on validation recordings; a served "
    "golden recording may score by the tolerance otherwise than where it was evaluated."
)


def about(found: Mapping[str, Any]) -> str:
    """What the comparison is worth, of what `runtimes.json` holds in a model."""
    counts = [entry.get("recordings", 0) for entry in found["runtimes"].values()]
    count = max(counts, default=0)
    told = (
        "The network was exported for faster runtimes, and each was compared with TensorFlow on "
        f"{count} validation recordings. Admitted is one with the {found['rule']}."
    )
    if 0 < count < 300:
        # The rule of three: what n of n agreeing recordings say with 95 % confidence.
        share = 100 * (1 - 0.05 ** (1 / count))
        told += (
            f" Where all of so few agree, at most {share:.1f} % of others differ (95 % confidence)."
        )
    return told


def rows(entries: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """The cells of `HEADS`."""
    for name, entry in entries.items():
        yield (
            name,
            "yes" if entry["admitted"] else f"no: {entry['reason']}",
            str(entry.get("recordings", "-")),
            _number(entry.get("largest_difference"), ".1e"),
            _share(entry.get("agreement")),
            _number(entry.get("accuracy"), ".3f"),
            _number(entry.get("accuracy_points"), "+.2f"),
        )


def served_rows(entries: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """The cells of `SERVED_HEADS`."""
    for name, entry in entries.items():
        test = entry.get("test") or {}
        yield (
            name,
            "yes" if entry.get("admitted") else f"no: {entry.get('reason', '')}",
            _number(entry.get("largest_difference"), ".1e"),
            _share(entry.get("agreement")),
            _number(test.get("accuracy"), ".3f"),
            _share(test.get("false_positive_rate"), 2),
            _share(test.get("recall")),
            _number(entry.get("tolerance"), "g") if entry.get("admitted") else "-",
        )


def _number(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "-"


def _share(value: object, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %" if isinstance(value, int | float) else "-"
