"""The report: how good a model is, on one page, for people who know birds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from birdsong import cost, data_effects, pages, report_pictures, report_species
from birdsong.calibration import Calibration, Reliability
from birdsong.report_words import about_frames, interval, limits, many, meaning, percent, points
from birdsong.runtimes import tables as runtime_table

NAMES = {
    "accuracy": "Accuracy: the top species is labelled",
    "top3_accuracy": "One of the top three is labelled",
    "macro_auc": "ROC-AUC, mean over species",
    "cmap": "Average precision, mean over species (cmAP)",
    "map": "Average precision, mean over recordings or windows (mAP)",
    "macro_f1": "F1 at the thresholds, mean over species",
}

FRAME_NAMES = {
    "row_f1": "Row-wise F1, mean over frames (BirdCLEF 2021's measure)",
    "f1": "F1 over all pairs of frame and species",
    "cmap": "Average precision, mean over species (cmAP)",
}

_STYLE = Markup("""<style>
.cards .card { flex: 1 1 10rem; } .words { max-width: 46rem; padding-left: 1.25rem; }
.words li { margin: .35rem 0; overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 1rem; align-items: start; }
.pictures figure, .confusion figure { margin: 0; }
.confusion { margin-top: 1.5rem; }
figcaption { color: var(--soft); font-size: .9rem; }
#species td:first-child { min-width: 9rem; } #species td.number { white-space: nowrap; }
#species td:nth-child(9) { min-width: 7.5rem; }
figure.wide { margin: 1rem 0; overflow-x: auto; } figure.wide svg { min-width: 44rem; }
#species th, #species td { padding: .3rem .4rem; }
:is(#figures, #window-figures, #frame-figures) :is(th, td) { white-space: normal;
  padding: .3rem .4rem; }
:is(#figures, #window-figures, #frame-figures) small { white-space: nowrap; }
#cost :is(th, td) { white-space: normal; padding: .3rem .4rem; min-width: 4rem; }
#cost td:first-child { white-space: nowrap; } #cost td:nth-child(2) { min-width: 12rem; }
.confusion figcaption { max-width: calc(100vw - 3rem); }
.errors { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr));
  gap: 1rem; }
.error { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem;
  overflow: hidden; font-size: .88rem; line-height: 1.4; }
.error img { display: block; width: 100%; height: 8rem; }
.error div { padding: .5rem .75rem .7rem; } .error p { margin: .15rem 0; }
.error .id { color: var(--soft); font-size: .8rem; overflow-wrap: anywhere; }
</style>""")


@dataclass(frozen=True)
class Error:
    """One recording that the network got wrong.

    Attributes:
        id: The recording.
        truth, said: Species that is labelled, and that scored highest.
        score, truth_score: Their scores.
        baseline_said: What the baseline said.
        start_seconds: Where the frame with that score starts in the recording.
        samples: The frame, int16, shape (samples,).
        sample_rate: Its samples per second.
    """

    id: str
    truth: str
    said: str
    score: float
    truth_score: float
    baseline_said: str
    start_seconds: float
    samples: npt.NDArray[np.int16]
    sample_rate: int


@dataclass(frozen=True)
class Findings:
    """All that the report shows.

    Attributes:
        classes: Code, scientific and common name of each species, in the order of the scores.
        metrics: What `metrics.json` holds.
        thresholds: What `thresholds.json` holds.
        calibration: From scores to probabilities.
        curves: False- and true-positive rates of network and baseline.
        precision: Recalls and precisions of network and baseline.
        reliability: Before and after calibration, on test windows.
        confusion: Names, and counts of what is said (columns) by what is labelled (rows).
        errors: The worst errors, worst first.
        runtimes: What `runtimes.json` says of each runtime.
        spent: What tune and train cost.
    """

    classes: Sequence[Mapping[str, str]]
    metrics: Mapping[str, Any]
    thresholds: Mapping[str, Any]
    calibration: Calibration
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    precision: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    reliability: tuple[Reliability, Reliability]
    confusion: tuple[Sequence[str], Sequence[Sequence[int]]]
    errors: Sequence[Error]
    runtimes: Mapping[str, Mapping[str, Any]]
    spent: Sequence[cost.Part]


def write_report(path: str | Path, findings: Findings) -> None:
    """Write the page: one HTML file, nothing from elsewhere."""
    counts = findings.metrics["counts"]
    names = _names(findings.classes)
    lead = (
        f"{many(counts['test_recordings'], 'recording')} of "
        f"{many(counts['test_species'], 'species', 'species')} that neither training nor the "
        "thresholds have seen, heard by the network and, beside it, by a plain baseline: "
        "logistic regression on how loud each pitch band is."
    )
    parts = [_STYLE, _headline(findings.metrics), _list(meaning(findings.metrics))]
    if counts["test_recordings"]:
        parts += [
            pages.heading("All figures"),
            pages.paragraph(
                "A recording's score is the highest of its windows of up to 60 s, a window's the "
                "highest of its 5-second frames. A recording that is drawn twice for an interval "
                "stands beside its copy, which lifts average precision; that is taken off again. "
                "A mean over species that no draw changes, as one of 1.000, gets no interval."
            ),
            _figures(findings.metrics, "recording", "figures"),
            pages.paragraph(
                "Each test recording is one window, so its figures per window are the same."
            )
            if counts["test_windows"] == counts["test_recordings"]
            else _figures(findings.metrics["per_window"], "window", "window-figures"),
        ]
    if frames := findings.metrics.get("per_frame"):
        parts += [pages.heading("Frame by frame"), _list(about_frames(frames)), _frames(frames)]
    parts += [
        pages.heading("Species by species"),
        pages.paragraph(findings.thresholds["note"]),
        pages.paragraph(findings.thresholds["promise"]),
        report_species.table(findings.metrics, findings.thresholds, findings.classes, names),
    ]
    if counts["test_recordings"]:
        parts += [
            pages.heading("What the training data had, and what it did to the scores"),
            _data(findings.metrics["per_species"], names),
            pages.heading("Pictures"),
            _pictures(findings, names),
        ]
        parts += [pages.heading("The worst errors"), _errors(findings.errors, names)]
    parts += [
        pages.heading("Runtimes"),
        pages.paragraph(runtime_table.SERVED),
        pages.table(
            runtime_table.SERVED_HEADS,
            runtime_table.served_rows(findings.runtimes),
            name="runtimes",
        ),
    ]
    parts += [pages.heading("What it cost"), *_cost(findings.spent)]
    parts += [pages.heading("What to keep in mind"), _list(limits(findings.metrics))]
    pages.write(path, "How well the birds are told apart", lead, parts)


def _cost(spent: Sequence[cost.Part]) -> list[Markup]:
    rows = cost.rows(spent)
    shown = [pages.table(cost.HEADS, rows, numbers=(2, 3, 4, 5), name="cost")] if rows else []
    return [*shown, _list(cost.sentences(spent))]


def _names(classes: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {one["code"]: one.get("common_name") or one["code"] for one in classes}


def _list(sentences: Sequence[str]) -> Markup:
    items = Markup("").join(Markup("<li>{}</li>").format(text) for text in sentences)
    return Markup('<ul class="words">{}</ul>').format(items)


def _headline(metrics: Mapping[str, Any]) -> Markup:
    counts, false = metrics["counts"], metrics["false_positives"]["false_positive_rate"]
    values: list[tuple[str, object]] = []
    for side in ("network", "baseline"):
        accuracy = metrics[side]["accuracy"]
        values.append((f"{side} right ({interval(accuracy)})", percent(accuracy["value"])))
    difference = metrics["difference"]["accuracy"]
    if difference["value"] is not None:
        values.append(
            (f"points difference ({points(difference)})", f"{100 * difference['value']:+.0f}")
        )
    values += [
        (
            f"false alarms per species ({interval(false, 1)}), "
            f"aim {percent(metrics['false_positives']['target'], 1)}",
            percent(false["value"], 1),
        ),
        (f"test recordings in {many(counts['test_groups'], 'group')}", counts["test_recordings"]),
        ("species", counts["species"]),
    ]
    return pages.cards(values)


def _figures(metrics: Mapping[str, Any], unit: str, name: str) -> Markup:
    rows = [
        (
            label,
            _with_interval(metrics["network"][figure]),
            _with_interval(metrics["baseline"][figure]),
            _with_interval(metrics["difference"][figure], "+"),
        )
        for figure, label in NAMES.items()
    ]
    return pages.table(
        (f"per {unit}, with 95 % interval", "network", "baseline", "difference"),
        rows,
        numbers=(1, 2, 3),
        name=name,
    )


def _frames(frames: Mapping[str, Any]) -> Markup:
    rows = [
        (
            label,
            _with_interval(frames["network"][figure]),
            _with_interval(frames["silence"][figure]) if figure in frames["silence"] else "",
        )
        for figure, label in FRAME_NAMES.items()
    ]
    return pages.table(
        ("per frame, with 95 % interval by recording", "network", "never reporting a bird"),
        rows,
        numbers=(1, 2),
        name="frame-figures",
    )


def _with_interval(figure: Mapping[str, float | None], sign: str = "") -> Markup | str:
    if figure["value"] is None:
        return "–"
    text = f"{figure['value']:{sign}.3f}"
    if figure["low"] is None or figure["high"] is None:
        return text
    ends = f"{figure['low']:{sign}.3f} to {figure['high']:{sign}.3f}"
    return Markup("{}<small>{}</small>").format(text, ends)


def _data(per_species: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> Markup:
    told = _list(data_effects.sentences(per_species))
    figure = report_pictures.data(per_species, names)
    if figure is None:
        return told
    caption = (
        "Each dot is a species: what training had of it, and how well the network tells it apart "
        "on test (ROC-AUC); larger dots have more test recordings. The lowest are named."
    )
    return told + Markup(
        '<figure class="wide"><div>{}</div><figcaption>{}</figcaption></figure>'
    ).format(pages.picture(figure, caption), caption)


def _pictures(findings: Findings, names: Mapping[str, str]) -> Markup:
    shown = (
        (
            report_pictures.roc(findings.curves),
            "Over all pairs of recording and species: how many birds are found for how many "
            "false alarms, as the threshold falls. The dotted line is guessing.",
        ),
        (
            report_pictures.precision_recall(
                findings.precision, 1 / max(1, findings.metrics["counts"]["species"])
            ),
            "Of the birds that are reported, how many are there (precision), and of those that "
            "are there, how many are reported (recall), as the threshold falls. The dotted line "
            "is guessing.",
        ),
        (
            report_pictures.reliability(findings.reliability, findings.calibration.method),
            "When the network says 70 %, is the bird there in 70 of 100 windows? Perfect "
            "probabilities lie on the diagonal; large dots hold more windows, bars are 95 % "
            f"intervals of the counts. {_off(findings.reliability)}",
        ),
    )
    figures = Markup("").join(
        Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(
            pages.picture(figure, caption), caption
        )
        for figure, caption in shown
    )
    labels, counts = findings.confusion
    caption = (
        "Rows: the labelled species; columns: the species that scored highest. Numbers are test "
        "recordings; all on the diagonal are right."
    )
    if labels and labels[-1] == "other" and "other" not in names:
        caption += " Only the species that are confused most are shown, the rest is other."
    shown_names = [names.get(label, label) for label in labels]
    # On a phone it scrolls instead of shrinking to unreadable names.
    confusion = Markup(
        '<figure style="min-width: {}rem">{}<figcaption>{}</figcaption></figure>'
    ).format(
        min(44, 10 + 1.5 * len(labels)),
        pages.picture(report_pictures.confusion(shown_names, counts), caption),
        caption,
    )
    return Markup('<div class="pictures">{}</div><div class="confusion scroll">{}</div>').format(
        figures, confusion
    )


def _off(pair: tuple[Reliability, Reliability]) -> str:
    before, after = pair
    if before.ece is None or after.ece is None:
        return ""
    return (
        f"Expected calibration error: {percent(before.ece, 1)} before the correction, "
        f"{percent(after.ece, 1)} after it."
    )


def _errors(errors: Sequence[Error], names: Mapping[str, str]) -> Markup:
    if not errors:
        return pages.paragraph("There are none: every test recording is right.")
    told = pages.paragraph(
        "The recordings that the network was most sure and most wrong about: the 5 seconds that "
        "decided, pitch upwards. Some will be its fault, and some the label's."
    )
    cards = Markup("").join(_error(one, names) for one in errors)
    return told + Markup('<div class="errors">{}</div>').format(cards)


def _error(one: Error, names: Mapping[str, str]) -> Markup:
    from birdsong.preview import ogg, picture, spectrogram

    image = pages.inline_image(
        picture(spectrogram(one.samples, one.sample_rate)),
        "image/jpeg",
        f"Spectrogram of {one.id}",
    )
    return Markup(
        '<div class="error">{}<div>{}<p>Labelled <b>{}</b>, said <b class="bad">{}</b></p>'
        '<p class="soft">Scores {:.2f} and {:.2f}; the baseline said {}.</p>'
        '<p class="id">{} from {:.0f} s</p></div></div>'
    ).format(
        image,
        pages.player(ogg(one.samples, one.sample_rate), "audio/ogg"),
        names[one.truth],
        names[one.said],
        one.truth_score,
        one.score,
        names[one.baseline_said],
        one.id,
        one.start_seconds,
    )
