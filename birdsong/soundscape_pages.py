"""Figures of labelled soundscapes as text and as a page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from birdsong import pages
from birdsong.report_words import many

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEADS = ("a bird is reported where", "row-wise F1", "F1", "precision", "recall")
_FIGURES = ("row_f1", "f1", "precision", "recall")
_SPECIES = (
    *("code", "name", "frames", "recordings", "reported", "right", "precision", "recall"),
    "average precision",
)
MOST_LINES = 30
"""Species that are listed as text; the page and the JSON file have all."""


def about(found: Mapping[str, Any]) -> list[str]:
    """What was measured on and how to read it, in sentences."""
    frames, cmap = found["frames"], found["cmap"]
    said = [
        f"{many(frames['count'], 'labelled frame')} of 5 s in "
        f"{many(frames['recordings'], 'recording')}, {frames['without_birds']:,} of them without a "
        f"bird; {many(frames['species_labelled'], 'species', 'species')} labelled.",
        "Row-wise F1 is BirdCLEF 2021's: the F1 of the labels of each frame, nocall being one, "
        "averaged over frames. Intervals are of 95 %, by recording.",
        "The model's thresholds promise a rate for windows of up to 60 s, nothing for frames, so a "
        "frame is decided by a threshold of its own.",
        f"cmAP is the mean over the {many(cmap['species'], 'species', 'species')} of the model "
        f"that are labelled somewhere; the other {cmap['species_without_positives']:,} have no "
        "average precision.",
    ]
    if unknown := frames["unknown_species"]:
        named = ", ".join(f"{code} ({count:,})" for code, count in list(unknown.items())[:8])
        said.append(
            f"{many(len(unknown), 'labelled species', 'labelled species')} the model does not "
            f"know and cannot hear, counted as missed: {named}{' ...' if len(unknown) > 8 else ''}."
        )
    if found["ways"][0]["way"] == "windows":
        said.append(
            "With one recording there is no other to choose a threshold on. Give --threshold."
        )
    return said


def text(found: Mapping[str, Any]) -> str:
    """The figures as plain text."""
    lines = [*about(found), "", f"cmAP {_figure(found['cmap'])}", ""]
    rows = [[_figure(way[name]) for name in _FIGURES] for way in found["ways"]]
    lines += _columns(
        [list(_HEADS[1:]), *rows], [_HEADS[0], *(w["decides"] for w in found["ways"])]
    )
    heard = _in_order(found["species"])
    shown = [one for one in heard if one["frames"]][:MOST_LINES]
    lines += ["", f"Decided by: {found['ways'][0]['decides']}."]
    lines += _columns(
        [list(_SPECIES[2:]), *([*map(str, _cells(one))] for one in shown)],
        ["species", *(one["code"] for one in shown)],
    )
    absent = [one for one in heard if not one["frames"]]
    reported = [one for one in absent if one["reported"]]
    if absent:
        lines.append(
            f"{many(len(absent), 'more species', 'more species')} without a labelled frame, "
            f"{len(reported):,} of them reported, in {sum(one['reported'] for one in absent):,} "
            "frames."
        )
    return "\n".join(lines)


def write(path: str | Path, title: str, found: Mapping[str, Any]) -> None:
    """Write the page."""
    first = found["ways"][0]
    ways = [(way["decides"], *(_cell(way[name]) for name in _FIGURES)) for way in found["ways"]]
    species = [
        (Markup("<code>{}</code>").format(one["code"]), one["name"], *_cells(one))
        for one in _in_order(found["species"])
    ]
    parts = [
        pages.cards(
            [
                ("row-wise F1", _figure(first["row_f1"])),
                ("cmAP", _figure(found["cmap"])),
                ("frames", f"{found['frames']['count']:,}"),
                ("recordings", f"{found['frames']['recordings']:,}"),
            ]
        ),
        *(pages.paragraph(sentence) for sentence in about(found)[1:]),
        pages.heading("Ways to decide"),
        pages.table(_HEADS, ways, numbers=(1, 2, 3, 4), name="ways"),
        pages.picture(_curve(found), "Row-wise F1 against the threshold of frames"),
        pages.heading("Species"),
        pages.paragraph(f"Decided by: {first['decides']}."),
        pages.filter_field("species", "Filter by code"),
        pages.table(_SPECIES, species, numbers=range(2, 9), name="species", sorts=True),
    ]
    pages.write(path, title, about(found)[0], parts)


def _in_order(species: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(species, key=lambda one: (-one["frames"], -one["reported"], one["code"]))


def _cells(one: Mapping[str, Any]) -> Iterator[str | int]:
    yield from (one["frames"], one["recordings"], one["reported"], one["right"])
    for name in ("precision", "recall", "average_precision"):
        yield "–" if one[name] is None else f"{one[name]:.3f}"


def _figure(figure: Mapping[str, float | None]) -> str:
    if figure["value"] is None:
        return "–"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _cell(figure: Mapping[str, float | None]) -> Markup | str:
    value, _, ends = _figure(figure).partition(" ")
    return Markup("{}<small>{}</small>").format(value, ends.strip("()")) if ends else value


def _columns(rows: Sequence[Sequence[str]], names: Sequence[str]) -> list[str]:
    """Right-aligned columns, the names to the right of them: some are sentences."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) + f"  {name}"
        for row, name in zip(rows, names, strict=True)
    ]


def _curve(found: Mapping[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2))
    axes = figure.add_subplot()
    axes.plot(*zip(*found["curve"], strict=True), color=pages.ACCENT, drawstyle="steps-post")
    silence = next(way for way in found["ways"] if way["way"] == "silence")["row_f1"]["value"]
    if silence is not None:
        axes.axhline(silence, color=pages.FAINT, linewidth=1)
        axes.annotate("never reports a bird", (0, silence), color=pages.FAINT, va="bottom")
    axes.set_xlabel("threshold of a frame's score")
    axes.set_ylabel("row-wise F1")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return figure
