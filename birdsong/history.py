"""The page of curves that train writes.

Pictures are drawn by matplotlib: plotly's script alone would make each page 4 MB.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsong import pages
from birdsong.config import Hyperparameters, TrainConfig
from birdsong.runtimes import tables as runtime_table

if TYPE_CHECKING:
    from birdsong.training_state import Epoch


def write_training(
    path: str | Path,
    epochs: Sequence["Epoch"],
    record: Mapping[str, Any],
    config: TrainConfig,
    hyperparameters: Hyperparameters,
    runtimes: Mapping[str, Any],
) -> None:
    """Write the page of one training.

    Args:
        path: Where it goes.
        epochs: What each epoch showed.
        record: started_from, best_epoch, stopped_early and summary, as in history.json.
        config: Settings of the training.
        hyperparameters: Its hyperparameters.
        runtimes: What `runtimes.json` holds: how the exported networks compare with TensorFlow's.
    """
    summary, best = record["summary"], record["best_epoch"]
    accuracy = summary.get("validation_accuracy")
    cards: list[tuple[str, object]] = []
    if accuracy is not None:
        cards += [
            ("validation accuracy, network", f"{accuracy:.3f}"),
            ("validation accuracy, baseline", f"{summary['baseline_validation_accuracy']:.3f}"),
        ]
    cards += [
        ("best epoch", f"{best} of {len(epochs)}"),
        ("time", f"{sum(epoch.seconds for epoch in epochs):.0f} s"),
    ]
    lead = (
        "The best epoch has the highest validation accuracy, rounded to 0.01; of equal ones the "
        "lowest validation loss. "
    )
    if accuracy is None:
        lead = "There are no validation recordings, so the last epoch is taken. "
    elif record["stopped_early"]:
        lead += f"Training stopped after {config.patience} epochs without a better one. "
    settings = {**config.model_dump(), **hyperparameters.model_dump()}
    parts = [
        pages.cards(cards),
        pages.heading("Curves"),
        _curves(epochs, best, summary.get("baseline_validation_accuracy")),
        pages.heading("Epochs"),
        pages.table(
            ("epoch", "loss", "validation loss", "validation accuracy", "learning rate", "seconds"),
            [
                (
                    epoch.epoch,
                    f"{epoch.loss:.4f}",
                    _or_dash(epoch.validation_loss, ".4f"),
                    _or_dash(epoch.validation_accuracy, ".3f"),
                    f"{epoch.learning_rate:.2e}",
                    f"{epoch.seconds:.1f}",
                )
                for epoch in epochs
            ],
            numbers=range(6),
            name="epochs",
        ),
        pages.heading("Runtimes"),
        pages.paragraph(runtime_table.about(runtimes)),
        pages.table(runtime_table.HEADS, runtime_table.rows(runtimes["runtimes"]), name="runtimes"),
        pages.heading("Settings"),
        pages.table(("setting", "value"), settings.items(), name="settings"),
    ]
    pages.write(path, "Training", lead + record["started_from"], parts)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _curves(epochs: Sequence["Epoch"], best: int, baseline: float | None) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = [epoch.epoch for epoch in epochs]
    left.plot(numbers, [epoch.loss for epoch in epochs], color=pages.INK, label="training")
    left.set(xlabel="epoch", ylabel="loss (cross-entropy)")
    validated = [epoch for epoch in epochs if epoch.validation_accuracy is not None]
    if validated:
        at = [epoch.epoch for epoch in validated]
        left.plot(
            at,
            [epoch.validation_loss for epoch in validated],
            color=pages.ACCENT,
            label="validation",
        )
        right.plot(
            at,
            [epoch.validation_accuracy for epoch in validated],
            color=pages.ACCENT,
            marker=".",
            label="network",
        )
        if baseline is not None:
            right.axhline(baseline, color=pages.SECOND, linestyle="--", label="baseline")
        right.legend(loc="lower right", frameon=False)
    else:
        right.text(0.5, 0.5, "no validation recordings", ha="center", transform=right.transAxes)
    left.set_ylim(0, None)  # last: it holds the upper end where it is then
    for axes in (left, right):
        axes.axvline(best, color=pages.FAINT, linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
    right.set(xlabel="epoch", ylabel="accuracy per recording", ylim=(0, 1.02))
    left.legend(loc="upper right", frameon=False)
    return pages.picture(
        figure, f"Loss and validation accuracy over {len(epochs)} epochs; the best is epoch {best}."
    )
