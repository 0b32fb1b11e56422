"""The report's table of species: what training had, how well each is told apart, its threshold."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from birdsong import pages
from birdsong.report_words import interval, many, percent


def table(
    metrics: Mapping[str, Any],
    thresholds: Mapping[str, Any],
    classes: Sequence[Mapping[str, str]],
    names: Mapping[str, str],
) -> Markup:
    """The table with its words and its field to find a species.

    Args:
        metrics: What `metrics.json` holds.
        thresholds: What `thresholds.json` holds.
        classes: Code and scientific name of each species.
        names: Code to the name that is shown.
    """
    heads = (
        "Species",
        "In training",
        "In test",
        "Right, network",
        "Right, baseline",
        "AUC, network",
        "AUC, baseline",
        "Threshold",
        "How chosen",
        "False alarms on test",
        "Found on test",
    )
    scientific = {one["code"]: one.get("scientific_name") or "" for one in classes}
    rows = []
    for code, found in metrics["per_species"].items():
        chosen = thresholds["species"][code]
        threshold = chosen["threshold"]
        rows.append(
            (
                Markup("{}<small><i>{}</i> {}</small>").format(names[code], scientific[code], code),
                _learnt(found["training"]),
                found["test_recordings"],
                _cell(found["network_accuracy"], percent(found["network_accuracy"])),
                _cell(found["baseline_accuracy"], percent(found["baseline_accuracy"])),
                _cell(found["network_auc"], _decimal(found["network_auc"])),
                _cell(found["baseline_auc"], _decimal(found["baseline_auc"])),
                _cell(threshold, "–" if threshold is None else f"{threshold:.3g}"),
                Markup("{}<small>{}</small>").format(chosen["how"], _promised(chosen, thresholds)),
                _share(found["false_positive_rate"]),
                _share(found["recall"]),
            )
        )
    words = (
        "Click a heading to sort. A species is reported where its score is above its threshold, in "
        "windows of up to 60 s. Small print of a share is its 95 % interval, for which a group of "
        "recordings (an author's of one day and place) counts as one."
    )
    if thresholds["cannot_be_promised"]:
        words += (
            f" Of {many(len(thresholds['cannot_be_promised']), 'species', 'species')} "
            f"{percent(thresholds['target_fpr'], 1)} cannot be promised; under their "
            "threshold stands the smallest rate that their calibration recordings could promise."
        )
    return (
        pages.paragraph(words)
        + pages.filter_field("species", "Find a species")
        + pages.table(heads, rows, (1, 2, 3, 4, 5, 6, 7, 9, 10), "species", sorts=True)
    )


def _promised(chosen: Mapping[str, Any], thresholds: Mapping[str, Any]) -> str:
    """What a species' threshold promises, or the smallest rate that its groups allow."""
    if chosen["how"] == "own":
        return f"promises {percent(thresholds['target_fpr'], 1)}"
    if chosen["smallest_rate"] > thresholds["target_fpr"]:
        return f"could promise {percent(chosen['smallest_rate'], 1)}"
    return str(chosen["reason"])


def _learnt(training: Mapping[str, float | None]) -> Markup:
    """How many recordings training had, and in small print their length and groups."""
    if not training:
        return _cell(None, "–")
    text = f"{training['minutes']:.1f} min, {many(int(training['groups'] or 0), 'group')}"
    count = training["recordings"]
    return _cell(count, str(count)) + Markup("<small>{}</small>").format(text)


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _cell(value: float | None, text: str) -> Markup:
    """Text that sorts by its number; nothing stands last."""
    return Markup('<span data-sort="{}">{}</span>').format("" if value is None else value, text)


def _share(figure: Mapping[str, float | None]) -> Markup:
    if figure["value"] is None:
        return _cell(None, "–")
    return _cell(figure["value"], percent(figure["value"], 1)) + Markup("<small>{}</small>").format(
        interval(figure)
    )
