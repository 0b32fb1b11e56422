"""The audit: a page on what is in a source, and what is wrong with it."""

import itertools
from typing import TYPE_CHECKING

from markupsafe import Markup

from birdsong import pages
from birdsong.config import IngestConfig
from birdsong.ledger import Ledger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_PROBLEMS = 500
"""Most problems that the page lists one by one; problems.parquet holds all."""
SHOWN_LICENCES = 12
"""Most wordings of licences that the page lists one by one."""
SHOWN_SPECIES = 60
"""Most species with a bar of their own in the picture."""

_EXPLAINED = {
    "unreadable": "cannot be read or decoded",
    "empty": "holds no sound at all",
    "silent": "decodes, but nothing can be heard in it",
    "clipped": "recorded too loud, its peaks are cut off; used all the same",
    "duplicate": "the same bytes, file name or row a second time; the first one is used",
    "label without file": "listed in the table, but the file is not there",
    "file without label": "there, but nothing says which species it is",
    "bad metadata": "the table's row does not parse: left out, or one field left empty",
}


def write(
    path: str, ledger: Ledger, summary: dict[str, float], config: IngestConfig, layout: str
) -> None:
    """Write the page.

    Args:
        path: Where it goes.
        ledger: What was found.
        summary: The headline figures.
        config: The source and its limits.
        layout: How the source is laid out.
    """
    cards: list[tuple[str, object]] = [
        ("recordings that can be used", f"{summary['recordings']:,.0f}"),
        ("species", f"{summary['species']:,.0f}"),
        ("hours of sound", f"{summary['hours']:,.1f}"),
        ("left out", f"{summary['excluded']:,.0f}"),
        (f"bad (at most {100 * config.max_bad_share:g} %)", f"{100 * summary['bad_share']:.1f} %"),
    ]
    parts: list[Markup] = [pages.cards(cards), *_problem_counts(ledger)]
    if summary["recordings"]:
        parts += _pictures(ledger)
        parts += _tables(ledger)
    parts += _problems(ledger)
    lead = (
        f"What is in {config.source} (layout {layout}), and what is wrong with it. Recordings that "
        "were left out take no part in the run."
    )
    pages.write(path, "Audit of the recordings", lead, parts)


def _pictures(ledger: Ledger) -> list[Markup]:
    species = ledger.table(
        "SELECT label, count(*) FROM results JOIN entries USING (id) "
        "GROUP BY label ORDER BY count(*) DESC, label"
    )
    most, least = species[0], species[-1]
    alone = (
        [
            pages.paragraph(
                f"There is one species alone, {most[0]}: a classifier has nothing to tell it from, "
                "so accuracy and ROC say nothing. Add recordings of other species."
            )
        ]
        if len(species) == 1
        else []
    )
    return [
        *alone,
        pages.heading("Recordings of each species"),
        pages.paragraph(
            f"From {least[1]:,} ({least[0]}) to {most[1]:,} ({most[0]}). Species with few "
            "recordings are learnt badly and may get no threshold of their own."
        ),
        pages.picture(_species_figure(species), "Recordings of each species, most first"),
        pages.heading("Length of the recordings"),
        pages.picture(_length_figure(ledger), "Histogram of the recordings' lengths"),
    ]


def _species_figure(species: list[tuple[str, int]]) -> "Figure":
    from matplotlib.figure import Figure

    counts = [count for _, count in species]
    figure = Figure(figsize=(9, 3))
    axes = figure.subplots()
    axes.bar(range(len(species)), counts, color=pages.ACCENT, width=0.85)
    axes.set_ylabel("recordings")
    if len(species) <= SHOWN_SPECIES:
        axes.set_xticks(range(len(species)), [label for label, _ in species], rotation=90)
        axes.tick_params(axis="x", labelsize=8)
    else:
        axes.set_xlabel(f"{len(species):,} species, most recordings first")
    axes.margins(x=0.01)
    _plain(axes)
    return figure


_EDGES = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 3600)


def _length_figure(ledger: Ledger) -> "Figure":
    from matplotlib.figure import Figure

    case = " ".join(
        f"WHEN seconds < {edge} THEN {number}" for number, edge in enumerate(_EDGES[1:])
    )
    counts = dict(
        ledger.table(
            f"SELECT CASE {case} ELSE {len(_EDGES) - 1} END AS bin, count(*) "
            "FROM results GROUP BY bin"
        )
    )
    names = [f"{a}-{b}" for a, b in itertools.pairwise(_EDGES)] + [f"≥ {_EDGES[-1]}"]
    first, last = min(counts), max(counts)
    shown = range(first, last + 1)
    figure = Figure(figsize=(9, 2.6))
    axes = figure.subplots()
    axes.bar(range(len(shown)), [counts.get(i, 0) for i in shown], color=pages.ACCENT, width=0.9)
    axes.set_xticks(range(len(shown)), [names[i] for i in shown], fontsize=8)
    axes.set_xlabel("seconds")
    axes.set_ylabel("recordings")
    _plain(axes)
    return figure


def _plain(axes: "object") -> None:
    axes.spines[["top", "right"]].set_visible(False)  # type: ignore[attr-defined]
    axes.tick_params(colors=pages.INK)  # type: ignore[attr-defined]


def _tables(ledger: Ledger) -> list[Markup]:
    rates = ledger.table(
        "SELECT rate, channels, count(*), sum(seconds) / 3600 FROM results "
        "GROUP BY rate, channels ORDER BY count(*) DESC"
    )
    licences = ledger.table(
        "SELECT coalesce(licence, 'not stated'), count(*) FROM results JOIN entries USING (id) "
        "GROUP BY licence ORDER BY count(*) DESC, licence"
    )
    others = licences[SHOWN_LICENCES:]
    if others:
        rest = sum(count for _, count in others)
        licences = [*licences[:SHOWN_LICENCES], (f"{len(others):,} other wordings", rest)]
    species = ledger.table(
        "SELECT label, max(coalesce(json_extract(metadata, '$.common_name'), '')), "
        "max(coalesce(json_extract(metadata, '$.scientific_name'), '')), count(*), "
        "count(DISTINCT json_extract(metadata, '$.author')), sum(seconds) / 60 "
        "FROM results JOIN entries USING (id) GROUP BY label ORDER BY label"
    )
    return [
        pages.heading("Species"),
        pages.table(
            ("code", "name", "scientific name", "recordings", "recordists", "minutes"),
            [(*row[:3], f"{row[3]:,}", f"{row[4]:,}", f"{row[5]:,.1f}") for row in species],
            numbers=(3, 4, 5),
            name="species",
        ),
        pages.heading("Sample rates and channels"),
        pages.table(
            ("rate, Hz", "channels", "recordings", "hours"),
            [(f"{r:,}", c, f"{n:,}", f"{hours:,.2f}") for r, c, n, hours in rates],
            numbers=(0, 1, 2, 3),
            name="rates",
        ),
        pages.heading("Licences"),
        pages.table(
            ("licence", "recordings"),
            [(licence, f"{count:,}") for licence, count in licences],
            numbers=(1,),
            name="licences",
        ),
    ]


def _problem_counts(ledger: Ledger) -> list[Markup]:
    counts = ledger.table(
        "SELECT problem, sum(excluded), sum(1 - excluded) FROM problems "
        "GROUP BY problem ORDER BY count(*) DESC"
    )
    if not counts:
        return [pages.paragraph("Nothing is wrong: every recording can be used.")]
    rows = [(name, _EXPLAINED.get(name, ""), f"{a:,}", f"{b:,}") for name, a, b in counts]
    return [
        pages.heading("What is wrong"),
        pages.table(
            ("problem", "what it means", "left out", "kept"),
            rows,
            numbers=(2, 3),
            name="problem-counts",
        ),
    ]


def _problems(ledger: Ledger) -> list[Markup]:
    ((total,),) = ledger.table("SELECT count(*) FROM problems")
    if not total:
        return []
    shown = ledger.table(
        "SELECT id, problem, detail, CASE excluded WHEN 1 THEN 'left out' ELSE 'kept' END "
        f"FROM problems ORDER BY excluded DESC, problem, id LIMIT {SHOWN_PROBLEMS}"
    )
    parts = [pages.heading("Problems one by one")]
    if total > SHOWN_PROBLEMS:
        parts.append(
            pages.paragraph(
                f"The first {SHOWN_PROBLEMS:,} of {total:,}; problems.parquet of the recordings "
                "artifact lists all."
            )
        )
    parts.append(pages.table(("recording", "problem", "detail", "outcome"), shown, name="problems"))
    return parts
