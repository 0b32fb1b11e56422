"""The report: how good a model is, on one page, for people who know birds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from birdsong import pages, report_pictures
from birdsong.calibration import Calibration, Reliability
from birdsong.report_words import interval, limits, many, meaning, percent, points

NAMES = {
    "accuracy": "Accuracy: the top species is labelled",
    "top3_accuracy": "One of the top three is labelled",
    "macro_auc": "ROC-AUC, mean over species",
    "cmap": "Average precision, mean over species (cmAP)",
    "map": "Average precision, mean over recordings or windows (mAP)",
    "macro_f1": "F1 at the thresholds, mean over species",
}

_STYLE = Markup("""<style>
.cards .card { flex: 1 1 10rem; } .words { max-width: 46rem; padding-left: 1.25rem; }
.words li { margin: .35rem 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 1rem; align-items: start; }
.pictures figure, .confusion figure { margin: 0; }
.confusion { margin-top: 1.5rem; }
figcaption { color: var(--soft); font-size: .9rem; }
#species td:first-child { min-width: 9rem; } #species td { white-space: nowrap; }
#species th, #species td { padding: .3rem .4rem; }
:is(#figures, #window-figures) :is(th, td) { white-space: normal; padding: .3rem .4rem; }
:is(#figures, #window-figures) small { white-space: nowrap; }
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
                "stands beside its copy, which lifts average precision; that is taken off again."
            ),
            _figures(findings.metrics, "recording", "figures"),
            _figures(findings.metrics["per_window"], "window", "window-figures"),
        ]
    parts += [
        pages.heading("Species by species"),
        pages.paragraph(findings.thresholds["note"]),
        pages.paragraph(findings.thresholds["promise"]),
        _species(findings, names),
    ]
    if counts["test_recordings"]:
        parts += [pages.heading("Pictures"), _pictures(findings, names)]
        parts += [pages.heading("The worst errors"), _errors(findings.errors, names)]
    parts += [pages.heading("What to keep in mind"), _list(limits(findings.metrics))]
    pages.write(path, "How well the birds are told apart", lead, parts)


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
    def cell(figure: Mapping[str, float | None], sign: str = "") -> Markup | str:
        if figure["value"] is None:
            return "–"
        text = f"{figure['value']:{sign}.3f}"
        if figure["low"] is None or figure["high"] is None:
            return text
        return Markup(
            "{}<small>{:{sign}.3f} to {:{sign}.3f}</small>".replace("{sign}", sign)
        ).format(text, figure["low"], figure["high"])

    rows = [
        (
            label,
            cell(metrics["network"][figure]),
            cell(metrics["baseline"][figure]),
            cell(metrics["difference"][figure], "+"),
        )
        for figure, label in NAMES.items()
    ]
    return pages.table(
        (f"per {unit}, with 95 % interval", "network", "baseline", "difference"),
        rows,
        numbers=(1, 2, 3),
        name=name,
    )


def _species(findings: Findings, names: Mapping[str, str]) -> Markup:
    heads = (
        "Species",
        "In test",
        "In calibration",
        "Right, network",
        "Right, baseline",
        "AUC, network",
        "AUC, baseline",
        "Threshold",
        "How chosen",
        "False alarms on test",
        "Found on test",
    )
    scientific = {one["code"]: one.get("scientific_name") or "" for one in findings.classes}
    rows = []
    for code, found in findings.metrics["per_species"].items():
        chosen = findings.thresholds["species"][code]
        threshold = chosen["threshold"]
        rows.append(
            (
                Markup("{}<small><i>{}</i> {}</small>").format(names[code], scientific[code], code),
                found["test_recordings"],
                found["calibration_recordings"],
                _cell(found["network_accuracy"], percent(found["network_accuracy"])),
                _cell(found["baseline_accuracy"], percent(found["baseline_accuracy"])),
                _cell(found["network_auc"], _decimal(found["network_auc"])),
                _cell(found["baseline_auc"], _decimal(found["baseline_auc"])),
                _cell(threshold, "–" if threshold is None else f"{threshold:.3g}"),
                Markup("{}<small>{}</small>").format(
                    chosen["how"], _promised(chosen, findings.thresholds)
                ),
                _share(found["false_positive_rate"]),
                _share(found["recall"]),
            )
        )
    search = pages.filter_field("species", "Find a species")
    told = pages.paragraph(
        "Click a heading to sort. The first two columns count recordings. A species is reported "
        "where its score is above its threshold, in windows of up to 60 s; small print is the "
        "95 % interval."
    )
    return (
        told
        + search
        + pages.table(heads, rows, (1, 2, 3, 4, 5, 6, 7, 9, 10), "species", sorts=True)
    )


def _promised(chosen: Mapping[str, Any], thresholds: Mapping[str, Any]) -> str:
    """What a species' threshold promises, or the smallest rate that its groups allow."""
    if chosen["how"] == "own":
        return f"promises {percent(thresholds['target_fpr'], 1)}"
    if chosen["smallest_rate"] > thresholds["target_fpr"]:
        return f"cannot be promised; {percent(chosen['smallest_rate'], 1)} could"
    return str(chosen["reason"])


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
            "probabilities lie on the diagonal; large dots hold more windows.",
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
