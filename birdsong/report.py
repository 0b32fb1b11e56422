"""The report: how good a model is, on one page, for people who know birds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from birdsong import pages
from birdsong.calibration import Calibration, Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "accuracy": "Accuracy: the top species is labelled",
    "top3_accuracy": "One of the top three is labelled",
    "macro_auc": "ROC-AUC, mean over species",
    "cmap": "Average precision, mean over species (cmAP)",
    "map": "Average precision, mean over recordings (mAP)",
    "macro_f1": "F1 at the thresholds, mean over species",
}

_STYLE = Markup("""<style>
.words { max-width: 46rem; } .words li { margin: .35rem 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 1rem; align-items: start; }
.pictures figure { margin: 0; } figcaption { color: var(--soft); font-size: .9rem; }
#species th { cursor: pointer; user-select: none; white-space: normal; vertical-align: bottom; }
#species th::after { content: " ↕"; color: var(--line); }
#species th[aria-sort=ascending]::after { content: " ▲"; color: var(--accent); }
#species th[aria-sort=descending]::after { content: " ▼"; color: var(--accent); }
#species td:first-child { min-width: 9rem; } #species td { white-space: nowrap; }
#species td small { display: block; color: var(--soft); }
.filter { font: inherit; padding: .35rem .6rem; border: 1px solid var(--line);
  border-radius: .4rem; width: min(100%, 20rem); margin: .25rem 0 .5rem; }
.errors { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr));
  gap: 1rem; }
.error { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem;
  overflow: hidden; font-size: .88rem; line-height: 1.4; }
.error img { display: block; width: 100%; height: 8rem; }
.error div { padding: .5rem .75rem .7rem; } .error p { margin: .15rem 0; }
.error .id { color: var(--soft); font-size: .8rem; overflow-wrap: anywhere; }
</style>""")

_SCRIPT = Markup("""<script>
(() => {
  const table = document.getElementById("species");
  if (!table) return;
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column], held = cell.querySelector("[data-sort]");
    const text = held ? held.dataset.sort : cell.textContent.trim();
    return text === "" || isNaN(text) ? text : Number(text);
  };
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
      const rows = [...body.rows].map(row => [key(row, column), row]);
      rows.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === "");
        if (typeof a === "number" && typeof b === "number") return down * (a - b);
        return down * String(a).localeCompare(String(b));
      });
      rows.forEach(([, row]) => body.append(row));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); }
    });
  });
  const filter = document.getElementById("filter");
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    [...body.rows].forEach(row => {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    });
  });
})();
</script>""")


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
        temperature: From scores to probabilities.
        curves: False- and true-positive rates of network and baseline.
        reliability: Before and after calibration, on test windows.
        confusion: Names, and counts of what is said (columns) by what is labelled (rows).
        errors: The worst errors, worst first.
    """

    classes: Sequence[Mapping[str, str]]
    metrics: Mapping[str, Any]
    thresholds: Mapping[str, Any]
    temperature: Calibration
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    reliability: tuple[Reliability, Reliability]
    confusion: tuple[Sequence[str], Sequence[Sequence[int]]]
    errors: Sequence[Error]


def write_report(path: str | Path, findings: Findings) -> None:
    """Write the page: one HTML file, nothing from elsewhere."""
    counts = findings.metrics["counts"]
    names = _names(findings.classes)
    lead = (
        f"{_many(counts['test_recordings'], 'recording')} of "
        f"{_many(counts['test_species'], 'species', 'species')} that neither training nor the "
        "thresholds have seen, heard by the network and, beside it, by a plain baseline: "
        "logistic regression on how loud each pitch band is."
    )
    parts = [_STYLE, _headline(findings.metrics), _words(findings)]
    if counts["test_recordings"]:
        parts += [pages.heading("All figures"), _figures(findings.metrics)]
    parts += [
        pages.heading("Species by species"),
        pages.paragraph(findings.thresholds["note"]),
        _species(findings, names),
    ]
    if counts["test_recordings"]:
        parts += [pages.heading("Pictures"), _pictures(findings, names)]
        parts += [pages.heading("The worst errors"), _errors(findings.errors, names)]
    parts += [pages.heading("What to keep in mind"), _limits(findings.metrics), _SCRIPT]
    pages.write(path, "How well the birds are told apart", lead, parts)


def _names(classes: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {one["code"]: one.get("common_name") or one["code"] for one in classes}


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def _percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _range(figure: Mapping[str, float | None], digits: int = 0) -> str:
    """`80 to 93 %`, or a dash."""
    low, high = figure["low"], figure["high"]
    if low is None or high is None:
        return "no interval"
    return f"{100 * low:.{digits}f} to {100 * high:.{digits}f} %"


def _points(figure: Mapping[str, float | None], digits: int = 0) -> str:
    """`-3 to +9 points`."""
    low, high = figure["low"], figure["high"]
    if low is None or high is None:
        return "no interval"
    return f"{100 * low:+.{digits}f} to {100 * high:+.{digits}f} points"


def _headline(metrics: Mapping[str, Any]) -> Markup:
    counts, false = metrics["counts"], metrics["false_positives"]["false_positive_rate"]
    values: list[tuple[str, object]] = []
    for label, side in (("network", "network"), ("baseline", "baseline")):
        accuracy = metrics[side]["accuracy"]
        values.append((f"right, {label} ({_range(accuracy)})", _percent(accuracy["value"])))
    difference = metrics["difference"]["accuracy"]
    if difference["value"] is not None:
        values.append(
            (f"points difference ({_points(difference)})", f"{100 * difference['value']:+.0f}")
        )
    values += [
        (
            f"false alarms per species ({_range(false, 1)}), "
            f"aim {_percent(metrics['false_positives']['target'], 1)}",
            _percent(false["value"], 1),
        ),
        (f"test recordings in {_many(counts['test_groups'], 'group')}", counts["test_recordings"]),
        ("species", counts["species"]),
    ]
    return pages.cards(values)


def _words(findings: Findings) -> Markup:
    """What the figures mean, in sentences."""
    metrics = findings.metrics
    counts, network = metrics["counts"], metrics["network"]
    if not counts["test_recordings"]:
        return _list(
            [
                "There are no test recordings, so nothing can be said about how good the network "
                "is. Raise test_fraction, or give more recordings."
            ]
        )
    accuracy, plain = network["accuracy"], metrics["baseline"]["accuracy"]
    said = [
        f"Of 100 recordings like these the network names a labelled species first in about "
        f"{100 * accuracy['value']:.0f}, and among its first three in about "
        f"{100 * network['top3_accuracy']['value']:.0f}. The baseline is right in about "
        f"{100 * plain['value']:.0f}.",
        _compared(metrics["difference"]["accuracy"]),
    ]
    false, target = metrics["false_positives"], metrics["false_positives"]["target"]
    rate, recall = false["false_positive_rate"], false["recall"]
    if rate["value"] is None:
        said.append("No species has a threshold, so the network never reports one as heard.")
    else:
        said.append(
            f"At its thresholds a species is reported in {_percent(rate['value'], 1)} "
            f"({_range(rate, 1)}) of the test windows that do not hold it, on average over "
            f"species; the aim was {_percent(target, 1)}, {_aim(rate, target)}. It is reported in "
            f"{_percent(recall['value'])} ({_range(recall)}) of the windows that do hold it."
        )
    said.append(_probabilities(findings))
    return _list(said)


def _compared(difference: Mapping[str, float | None]) -> str:
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return (
            "All test recordings belong to one group, so nobody can say by how much these "
            "figures would vary on others."
        )
    if low > 0:
        return (
            f"The network is better than the baseline: {_points(difference)}, beyond what chance "
            "in the choice of recordings explains."
        )
    if high < 0:
        return (
            f"The network is worse than the baseline: {_points(difference)}, beyond what chance "
            "in the choice of recordings explains. Do not deploy it."
        )
    return (
        f"Network and baseline cannot be told apart on so few recordings: the difference may be "
        f"anything from {100 * low:+.0f} to {100 * high:+.0f} points."
    )


def _aim(rate: Mapping[str, float | None], target: float) -> str:
    low, high = rate["low"], rate["high"]
    if low is None or high is None:
        return "which one group of recordings cannot confirm"
    if low > target:
        return "which it misses: the test recordings differ from those of calibration"
    return "which it keeps" if high <= target else "which fits within the interval"


def _probabilities(findings: Findings) -> str:
    ece, temperature = findings.metrics["calibration"], findings.temperature.temperature
    if ece["ece_before"] is None:
        return findings.temperature.note
    if temperature == 1:
        return (
            f"Scores are shown as probabilities as they are ({findings.temperature.note}) They "
            f"are off by {_percent(ece['ece_before'], 1)} on average."
        )
    kind = "overconfident" if temperature > 1 else "too careful"
    return (
        f"The raw scores are {kind} on calibration (temperature {temperature:.2f}). As "
        f"probabilities on test they are off by {_percent(ece['ece_before'], 1)} on average "
        f"before the correction and {_percent(ece['ece_after'], 1)} after it."
    )


def _list(sentences: Sequence[str]) -> Markup:
    items = Markup("").join(Markup("<li>{}</li>").format(text) for text in sentences)
    return Markup('<ul class="words">{}</ul>').format(items)


def _figures(metrics: Mapping[str, Any]) -> Markup:
    def cell(figure: Mapping[str, float | None], sign: str = "") -> str:
        if figure["value"] is None:
            return "–"
        text = f"{figure['value']:{sign}.3f}"
        if figure["low"] is None or figure["high"] is None:
            return text
        return f"{text} ({figure['low']:{sign}.3f} to {figure['high']:{sign}.3f})"

    rows = [
        (
            label,
            cell(metrics["network"][name]),
            cell(metrics["baseline"][name]),
            cell(metrics["difference"][name], "+"),
        )
        for name, label in NAMES.items()
    ]
    return pages.table(
        ("per recording, with 95 % interval", "network", "baseline", "difference"),
        rows,
        numbers=(1, 2, 3),
        name="figures",
    )


def _species(findings: Findings, names: Mapping[str, str]) -> Markup:
    heads = (
        "Species",
        "Test recordings",
        "Calibration recordings",
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
                _cell(found["network_accuracy"], _percent(found["network_accuracy"])),
                _cell(found["baseline_accuracy"], _percent(found["baseline_accuracy"])),
                _cell(found["network_auc"], _decimal(found["network_auc"])),
                _cell(found["baseline_auc"], _decimal(found["baseline_auc"])),
                _cell(threshold, "–" if threshold is None else f"{threshold:.3g}"),
                Markup('<span title="{}">{}</span>').format(chosen["reason"], chosen["how"]),
                _share(found["false_positive_rate"]),
                _share(found["recall"]),
            )
        )
    search = Markup(
        '<input class="filter" id="filter" type="search" placeholder="Find a species" '
        'aria-label="Find a species">'
    )
    told = pages.paragraph(
        "Click a heading to sort. A species is reported where its score is above its threshold, "
        "in windows of up to 60 s; small print is the 95 % interval."
    )
    return told + search + pages.table(heads, rows, (1, 2, 3, 4, 5, 6, 7, 9, 10), "species")


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _cell(value: float | None, text: str) -> Markup:
    """Text that sorts by its number; nothing stands last."""
    return Markup('<span data-sort="{}">{}</span>').format("" if value is None else value, text)


def _share(figure: Mapping[str, float | None]) -> Markup:
    if figure["value"] is None:
        return _cell(None, "–")
    return _cell(figure["value"], _percent(figure["value"], 1)) + Markup(
        "<small>{}</small>"
    ).format(_range(figure))


def _pictures(findings: Findings, names: Mapping[str, str]) -> Markup:
    shown = (
        (
            _roc(findings.curves),
            "Over all pairs of recording and species: how many birds are found for how many "
            "false alarms, as the threshold falls. Left of the dashed line is the aim's side.",
        ),
        (
            _reliability(findings.reliability, findings.temperature),
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
    confusion = Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(
        pages.picture(_confusion([names.get(label, label) for label in labels], counts), caption),
        caption,
    )
    return Markup('<div class="pictures">{}</div><div class="pictures">{}</div>').format(
        figures, confusion
    )


def _axes(width: float, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=pages.INK, labelsize=9)
    return figure, axes


def _roc(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> "Figure":
    figure, axes = _axes(5, 4)
    for name, colour in (("baseline", pages.SECOND), ("network", pages.ACCENT)):
        fpr, tpr = curves[name]
        axes.plot(fpr, tpr, color=colour, linewidth=2, label=name)
    axes.plot([0, 1], [0, 1], color=pages.FAINT, linewidth=1, linestyle=":")
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate", title="ROC")
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01))
    axes.legend(frameon=False, loc="lower right", reverse=True)
    return figure


def _reliability(pair: tuple[Reliability, Reliability], temperature: Calibration) -> "Figure":
    figure, axes = _axes(5, 4)
    axes.plot([0, 1], [0, 1], color=pages.FAINT, linewidth=1, linestyle=":")
    before, after = pair
    shown = [("raw scores", before, pages.FAINT), ("probabilities", after, pages.ACCENT)]
    if temperature.temperature == 1:
        shown = [("scores, unchanged", after, pages.ACCENT)]
    for label, found, colour in shown:
        axes.plot(found.said, found.found, color=colour, linewidth=1.5, label=label)
        sizes = 12 + 90 * np.sqrt(np.array(found.pairs) / max(1, max(found.pairs, default=1)))
        axes.scatter(found.said, found.found, s=sizes, color=colour, zorder=3)
    axes.set(xlabel="probability given", ylabel="share in which it was there", title="Reliability")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(frameon=False, loc="upper left")
    return figure


def _confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> "Figure":
    side = min(11.0, max(4.0, 1.8 + 0.34 * len(labels)))
    figure, axes = _axes(side, side)
    table = np.array(counts, float).reshape(len(labels), len(labels))
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(table), strict=True):
        axes.text(
            column,
            row,
            f"{int(table[row, column])}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if shares[row, column] > 0.55 else pages.INK,
        )
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(labelsize=8, length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="said", ylabel="labelled")
    return figure


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


def _limits(metrics: Mapping[str, Any]) -> Markup:
    counts = metrics["counts"]
    said = []
    if 0 < counts["test_recordings"] < 300:
        said.append(
            f"{_many(counts['test_recordings'], 'test recording')} are few. With so few the "
            "intervals are wide, those of single species say next to nothing, and a figure of "
            "100 % means only that no error was met yet."
        )
    if counts["test_species"] < counts["species"]:
        said.append(
            f"{_many(counts['species'] - counts['test_species'], 'species', 'species')} of "
            f"{counts['species']} have no test recording: nothing here speaks about them."
        )
    said += [
        "The intervals say what another draw of such recordings could bring. They do not cover "
        "other microphones, places and distances: on an autonomous recorder expect less.",
        "A label names the bird that the recordist meant. Others may sing too; those that are "
        "listed as secondary count as right and are never counted as false alarms, those that "
        "are not listed count against the network.",
        "A recording's score is the highest of its 5-second frames, so a long recording has more "
        "chances for a false alarm than a short one. Thresholds hold for windows of up to 60 s.",
        "The network knows these species only. Any other sound can be taken for one of them.",
    ]
    return _list(said)
