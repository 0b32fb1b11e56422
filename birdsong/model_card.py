"""The model card: what a model is, how good it is and where it fails, in Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from birdsong.runtimes import tables as runtime_table

LIMITS = (
    "It knows these species and no others: another bird, a frog or a voice may be heard as "
    "one of them. The thresholds bound how often only for sounds like those of the "
    "calibration recordings.",
    "Recordings in collections are close and chosen; in an autonomous recorder's sound the "
    "birds are farther away and the noise is louder, so expect to miss more.",
    "A threshold holds for a window of up to 60 s. The frame that a detection names says "
    "where to listen; it is not a decision of its own.",
    "Species with few recordings have wide intervals, and thresholds that they share with others.",
    "The recordings' licences bind what may be done with a model trained on them.",
)


def markdown(
    name: str,
    model: Mapping[str, Any],
    classes: Sequence[Mapping[str, Any]],
    thresholds: Mapping[str, Any],
    calibration: Mapping[str, Any],
    metrics: Mapping[str, Any],
    data: Mapping[str, Mapping[str, Any]],
    runtimes: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Write a model card.

    Args:
        name: The model's name in the registry.
        model: `model.json`: settings of training, hyperparameters, front end and features.
        classes: Species in the order of the scores: code, scientific_name, common_name.
        thresholds: `thresholds.json`.
        calibration: `calibration.json`.
        metrics: `metrics.json`; whatever has a value, a low and a high end becomes a row.
        data: Name of each artifact behind the model to its hash and those of its inputs.
        runtimes: What `runtimes.json` says of each runtime; None for TensorFlow alone.

    Returns:
        Markdown. It depends on the arguments alone (no date, no version), so that the same model
        has the same card and the same hash.
    """
    train = model.get("train", {})
    chosen = thresholds.get("species", {})
    have = sum(1 for entry in chosen.values() if entry.get("threshold") is not None)
    lines = [
        f"# {name}",
        "",
        purpose(model, classes),
        "",
        "## Network",
        "",
        f"- Backbone `{train.get('backbone', 'unknown')}`, weights to start from "
        f"`{train.get('weights', 'unknown')}`, pictures `{train.get('front_end', 'unknown')}`.",
        f"- Mono, {model.get('features', {}).get('sample_rate', 22050)} samples per second; "
        "each window is divided by its peak.",
        "- TensorFlow's graph takes waveforms and holds the front end; for other runtimes it is "
        "computed in NumPy, and agrees to 1e-5.",
        "",
        "## Figures on test recordings",
        "",
        *_figures(metrics),
        "",
        "Intervals are 95 %. The baseline is a logistic regression on log-mel statistics, fitted "
        "on the same recordings. Neither training nor thresholds saw the test recordings; "
        "recordings of one group (such as one author, day and place) stand on one side.",
        "",
        "## Thresholds",
        "",
        "Chosen on calibration windows. The aim is that of the windows without a species "
        f"{_percent(thresholds.get('target_fpr'))} score above its threshold. "
        f"{thresholds.get('note', '')} {have} of {len(classes)} "
        "species have one; the others are scored but never reported as heard. Probabilities are "
        f"calibrated by {_correction(calibration)}, the same for all species.",
        "",
        "| species | name | threshold | how | positives | negatives |",
        "|---|---|---:|---|---:|---:|",
        *_thresholds(classes, chosen),
        *_kept(metrics),
        "",
        "## Runtimes",
        "",
        *_runtimes(runtimes or {}),
        "",
        "## Data",
        "",
        "Hashes of the artifacts behind the model (`spec.json` of each lists its files):",
        "",
        "| artifact | SHA-256 | made from |",
        "|---|---|---|",
        *_data(data),
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in LIMITS),
        "",
    ]
    return "\n".join(lines)


def purpose(model: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> str:
    """What the model does; arguments as of `markdown`."""
    return (
        f"Hears {len(classes)} bird species in recordings. A window of up to "
        f"{model.get('features', {}).get('window_seconds', 60):g} s is scored in 5-second frames; "
        "its score for a species is the highest of its frames, and the species counts as heard "
        "where that score is above the species' own threshold."
    )


def _correction(calibration: Mapping[str, Any]) -> str:
    method = calibration.get("method", "temperature")
    if method == "identity":
        return "nothing: they are the scores"
    if method == "isotonic":
        return f"an isotonic curve of {len(calibration['knots']['score'])} points"
    return f"temperature ({_number(calibration.get('temperature'))})"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "not known"


def _percent(value: object) -> str:
    return f"{value:.3g} %" if (value := _hundred(value)) is not None else "an unknown share"


def _hundred(value: object) -> float | None:
    return 100 * value if isinstance(value, int | float) else None


def _interval(figure: Mapping[str, Any]) -> str:
    if figure.get("value") is None:
        return "not known"
    if figure.get("low") is None or figure.get("high") is None:
        return f"{_number(figure['value'])} (no interval)"
    return f"{_number(figure['value'])} ({_number(figure['low'])} to {_number(figure['high'])})"


def _cell(value: object) -> str:
    """Text for one cell of a table: names come from metadata and may hold anything."""
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").strip()


def _figures(metrics: Mapping[str, Any]) -> Iterator[str]:
    rows: dict[str, dict[str, str]] = {}
    for side in ("network", "baseline"):
        figures = metrics.get(side)
        if not isinstance(figures, Mapping):
            continue
        for figure, value in figures.items():
            if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
                rows.setdefault(figure, {})[side] = _interval(value)
    if not rows:
        yield "None were measured."
        return
    yield "| figure | network | baseline |"
    yield "|---|---|---|"
    for figure, sides in rows.items():
        named = _cell(figure.replace("_", " "))
        yield f"| {named} | {sides.get('network', '')} | {sides.get('baseline', '')} |"
    counts = metrics.get("counts")
    if isinstance(counts, Mapping):
        told = ", ".join(
            f"{_cell(count.replace('_', ' '))} {value}"
            for count, value in counts.items()
            if isinstance(value, int | float | str)
        )
        if told:
            yield ""
            yield f"Measured on: {told}."


def _thresholds(
    classes: Sequence[Mapping[str, Any]], chosen: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    for entry in classes:
        code = entry["code"]
        found = chosen.get(code, {})
        threshold = found.get("threshold")
        names = " ".join(
            part
            for part in (
                _cell(entry.get("common_name") or ""),
                f"*{_cell(entry['scientific_name'])}*" if entry.get("scientific_name") else "",
            )
            if part
        )
        yield (
            f"| {_cell(code)} | {names} | {'' if threshold is None else _number(threshold)} | "
            f"{_cell(found.get('how', 'none'))} | {_cell(found.get('positives', ''))} | "
            f"{_cell(found.get('negatives', ''))} |"
        )


def _kept(metrics: Mapping[str, Any]) -> Iterator[str]:
    """How the thresholds did on windows that they were not chosen on."""
    realised = metrics.get("false_positives")
    if isinstance(realised, Mapping) and {"false_positive_rate", "recall"} <= realised.keys():
        yield ""
        yield (
            "On test windows, averaged over species: false-positive rate "
            f"{_interval(realised['false_positive_rate'])}, recall "
            f"{_interval(realised['recall'])}."
        )


def _runtimes(entries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if not entries:
        yield "TensorFlow alone; the thresholds above are for its scores."
        return
    yield f"{runtime_table.SERVED} The thresholds above are TensorFlow's."
    yield ""
    yield f"| {' | '.join(runtime_table.SERVED_HEADS)} |"
    yield f"|{'---|' * len(runtime_table.SERVED_HEADS)}"
    for row in runtime_table.served_rows(entries):
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"


def _data(data: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for artifact, found in data.items():
        behind = ", ".join(
            f"{_cell(source)} `{sha256[:12]}`" for source, sha256 in found["made_from"].items()
        )
        yield f"| {_cell(artifact)} | `{found['sha256']}` | {behind} |"
