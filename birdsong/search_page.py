"""The page of a search: its trials, what mattered, and which values went with what.

Pictures are drawn by matplotlib: plotly's script alone would make each page 4 MB.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from birdsong import pages
from birdsong.config import TuneConfig
from birdsong.report_words import many
from birdsong.search_space import Choices, Range

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]
Dimensions = Mapping[str, Range | Choices]

FEWEST = 5
"""Complete trials from which the importance of hyperparameters is estimated."""

MOST_LINES = 300
"""Trials in the picture of parallel coordinates: the best ones."""


def write(
    path: str | Path,
    chosen: Mapping[str, Any],
    trials: Rows,
    dimensions: Dimensions,
    importances: Mapping[str, float] | None,
    tune: TuneConfig,
    how: str = "",
) -> None:
    """Write the page.

    Args:
        path: Where it goes.
        chosen: The values that train gets.
        trials: As in `trials.json`; none where no search was asked for.
        dimensions: What was searched.
        importances: Name to share of the differences that it explains; None where too few
            trials came to their end.
        tune: Settings of the search.
        how: Who drew the values and ended trials early; empty for the search on this machine,
            whose first trial has the given values.
    """
    title = "Search for hyperparameters"
    if not trials:
        lead = "No search was asked for (trials=0): training gets the given values."
        pages.write(path, title, lead, [_chosen(chosen, {})])
        return
    known = [trial for trial in trials if trial["by_epoch"] and trial["state"] != "failed"]
    complete = [trial for trial in trials if trial["state"] == "complete"]
    best = max(complete, key=lambda trial: trial["accuracy"])
    equal = sum(trial["accuracy"] == best["accuracy"] for trial in complete)
    counts = {
        state: sum(trial["state"] == state for trial in trials)
        for state in ("complete", "pruned", "failed", "killed")
    }
    lead = (
        f"{many(len(trials) - counts['killed'], 'trial')} of at most "
        f"{many(tune.epochs, 'epoch')}, each judged by its best validation accuracy. {how or _HERE}"
    )
    cards: list[tuple[str, object]] = [
        ("best validation accuracy", f"{best['accuracy']:.3f}"),
        *([] if how else [("with the given values", _number(_height(trials[0]), ".3f"))]),
        *((state, count) for state, count in counts.items() if count or state == "complete"),
    ]
    parts = [pages.cards(cards), pages.heading("Chosen values"), _chosen(chosen, dimensions)]
    if equal > 1:
        parts.append(
            pages.paragraph(
                f"{equal} trials reached the same best accuracy, so validation cannot tell their "
                f"values apart; the first of them, trial {best['number']}, was taken."
            )
        )
    parts += [
        pages.heading("History"),
        _history(trials),
        pages.heading("What mattered"),
        *_importances(importances, len(complete)),
        pages.heading("Which values went with what"),
        _parallel(known, dimensions, best),
        _slices(known, dimensions),
        pages.heading("Trials"),
        pages.paragraph("Click a heading to sort."),
        _table(trials, list(dimensions)),
    ]
    pages.write(path, title, lead, [_STYLE, *parts])


_HERE = "Trials below the median of the others were pruned. The first tried the given values."

_STYLE = Markup("""<style>
figure { margin: 1rem 0; } figcaption { color: var(--soft); font-size: .9rem; max-width: 46rem; }
#chosen { width: auto; min-width: min(100%, 24rem); } .wide { overflow-x: auto; }
.wide svg { min-width: 34rem; }
</style>""")


def importance(study: "optuna.Study") -> dict[str, float] | None:
    """How much of the differences in accuracy each searched value explains; None for too few.

    Source:
        Hutter, Hoos and Leyton-Brown, "An efficient approach for assessing hyperparameter
        importance" (2014): functional ANOVA over a random forest, as in Optuna.
    """
    import optuna

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < FEWEST or len({trial.value for trial in complete}) == 1:
        return None
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    return {name: float(value) for name, value in found.items()}


def _number(value: object, form: str = ".4g") -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return format(value, form)


def _height(trial: Mapping[str, Any]) -> float | None:
    return max(trial["by_epoch"], default=None)


def _chosen(chosen: Mapping[str, Any], dimensions: Dimensions) -> Markup:
    def searched(name: str) -> str:
        one = dimensions.get(name)
        if one is None:
            return "as given" if dimensions else ""
        if isinstance(one, Choices):
            return ", ".join(map(_number, one.choices))
        return f"{one.low:.4g} to {one.high:.4g}{', by logarithm' if one.log else ''}"

    return pages.table(
        ("hyperparameter", "value", "searched"),
        [(name, _number(value), searched(name)) for name, value in chosen.items()],
        numbers=(1,),
        name="chosen",
    )


def _figure(width: float, height: float) -> "tuple[Any, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _captioned(figure: Any, caption: str) -> Markup:
    return Markup('<figure><div class="wide">{}</div><figcaption>{}</figcaption></figure>').format(
        pages.picture(figure, caption), caption
    )


def _history(trials: Rows) -> Markup:
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(10, 3.6)
    looks: dict[str, dict[str, Any]] = {
        "complete": {"color": pages.ACCENT, "s": 26},
        "pruned": {"facecolors": "none", "edgecolors": pages.FAINT, "s": 26},
    }
    for state, look in looks.items():
        mine = [trial for trial in trials if trial["state"] == state and trial["by_epoch"]]
        if mine:
            axes.scatter(
                [trial["number"] for trial in mine],
                [_height(trial) or 0.0 for trial in mine],
                label=state,
                zorder=3,
                **look,
            )
    failed = [trial["number"] for trial in trials if trial["state"] == "failed"]
    if failed:
        axes.scatter(
            failed, [0] * len(failed), marker="x", color=pages.SECOND, label="failed", clip_on=False
        )
    numbers: list[int] = []
    highest: list[float] = []
    for trial in trials:
        if trial["state"] == "complete":
            numbers.append(trial["number"])
            highest.append(max([trial["accuracy"], *highest[-1:]]))
    axes.step(
        [*numbers, trials[-1]["number"]],
        [*highest, highest[-1]],
        where="post",
        color=pages.ACCENT,
        label="best so far",
    )
    axes.set(xlabel="trial", ylabel="best validation accuracy", ylim=(-0.02, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="lower right")
    return _captioned(figure, "Each trial's best validation accuracy, and the best so far.")


def _importances(found: Mapping[str, float] | None, complete: int) -> list[Markup]:
    if found is None:
        return [
            pages.paragraph(
                f"{many(complete, 'complete trial')} say too little about which value mattered: "
                f"that needs {FEWEST} with different accuracies."
            )
        ]
    names = sorted(found, key=lambda name: found[name])
    figure, axes = _figure(8, 0.7 + 0.34 * len(names))
    axes.barh(names, [100 * found[name] for name in names], color=pages.ACCENT, height=0.6)
    for place, name in enumerate(names):
        axes.text(100 * found[name] + 1, place, f"{100 * found[name]:.0f} %", va="center")
    axes.set(xlim=(0, 108), xlabel="share of the differences in accuracy, %")
    caption = (
        "How much of the differences between complete trials each value explains (functional "
        "ANOVA over a random forest)."
    )
    if complete < 20:
        caption += f" {complete} trials make this a rough guess."
    return [_captioned(figure, caption)]


def _place_of(value: Any, one: Range | Choices) -> float:
    """Where a value lies between the ends of its dimension, 0 to 1."""
    if isinstance(one, Choices):
        return one.choices.index(value) / (len(one.choices) - 1)
    if one.log:
        return math.log(value / one.low) / math.log(one.high / one.low)
    return float((value - one.low) / (one.high - one.low))


def _parallel(known: Rows, dimensions: Dimensions, best: Mapping[str, Any]) -> Markup:
    shown = sorted(known, key=lambda trial: _height(trial) or 0.0)[-MOST_LINES:]
    heights = [_height(trial) or 0.0 for trial in shown]
    lowest, spread = min(heights), (max(heights) - min(heights)) or 1.0
    names = list(dimensions)
    figure, axes = _figure(max(7.0, 1.6 * (len(names) + 1)), 4)
    for trial, height in zip(shown, heights, strict=True):
        if not set(names) <= set(trial["values"]):
            continue
        line = [_place_of(trial["values"][name], dimensions[name]) for name in names]
        level = (height - lowest) / spread
        first = trial["number"] == best["number"]
        axes.plot(
            range(len(names) + 1),
            [*line, level],
            color=pages.SECOND if first else pages.ACCENT,
            alpha=1 if first else 0.15 + 0.6 * level,
            linewidth=2.2 if first else 1.1,
            linestyle="-" if trial["state"] == "complete" else ":",
            zorder=4 if first else 2,
        )
    for place, name in enumerate([*names, "accuracy"]):
        axes.axvline(place, color=pages.FAINT, linewidth=1, zorder=1)
        one = dimensions.get(name)
        if isinstance(one, Choices):
            marks = [
                (number / (len(one.choices) - 1), _number(value))
                for number, value in enumerate(one.choices)
            ]
        elif one is None:
            marks = [(0.0, f"{lowest:.3g}"), (1.0, f"{lowest + spread:.3g}")]
        else:
            marks = [(0.0, f"{one.low:.3g}"), (1.0, f"{one.high:.3g}")]
        for height, text in marks:
            axes.text(
                place + 0.04, height, text, va="bottom" if height < 0.5 else "top", fontsize=8
            )
    axes.set_xticks(
        range(len(names) + 1), [*(name.replace("_", " ") for name in names), "accuracy"]
    )
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    caption = (
        "Each line is a trial, from its values to its accuracy at the right; the darker, the "
        "better. The thick one was chosen, dotted ones were pruned."
    )
    if len(known) > len(shown):
        caption += f" Only the best {len(shown)} are shown."
    return _captioned(figure, caption)


def _slices(known: Rows, dimensions: Dimensions) -> Markup:
    """Accuracy against each value alone."""
    from matplotlib.figure import Figure

    columns = min(3, len(dimensions))
    lines = math.ceil(len(dimensions) / columns)
    figure = Figure(figsize=(3.6 * columns, 2.6 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for axes, (name, one) in zip(panels, dimensions.items(), strict=False):
        mine = [trial for trial in known if name in trial["values"]]
        values = [trial["values"][name] for trial in mine]
        if isinstance(one, Choices):
            at = [one.choices.index(value) for value in values]
            axes.set_xticks(range(len(one.choices)), [_number(value) for value in one.choices])
            axes.set_xlim(-0.5, len(one.choices) - 0.5)
        else:
            at = values
            if one.log:
                axes.set_xscale("log")
                ticks = [one.low, math.sqrt(one.low * one.high), one.high]
                axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
                axes.minorticks_off()
            axes.set_xlim(one.low, one.high)
        axes.scatter(
            at,
            [_height(trial) or 0.0 for trial in mine],
            c=[pages.ACCENT if trial["state"] == "complete" else pages.FAINT for trial in mine],
            s=20,
            clip_on=False,
        )
        axes.set(xlabel=name.replace("_", " "), ylim=(0, 1.02))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(dimensions) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel("accuracy")
    return _captioned(
        figure, "Validation accuracy against each value alone; grey trials were pruned."
    )


def _table(trials: Rows, names: Sequence[str]) -> Markup:
    rows = [
        (
            trial["number"],
            Markup('{}<small class="soft">{}</small>').format(trial["state"], trial["error"])
            if trial["error"]
            else trial["state"],
            _number(_height(trial), ".3f"),
            *(_number(trial["values"].get(name)) for name in names),
            len(trial["by_epoch"]),
            _number(trial["seconds"], ".0f"),
        )
        for trial in trials
    ]
    return pages.table(
        (
            "trial",
            "state",
            "best accuracy",
            *(name.replace("_", " ") for name in names),
            "epochs",
            "seconds",
        ),
        rows,
        numbers=(0, *range(2, len(names) + 5)),
        name="trials",
        sorts=True,
    )
