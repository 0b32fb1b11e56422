"""The leak report: what kept recordings together, and what could still tie parts together."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from birdsong import pages
from birdsong.config import SplitConfig
from birdsong.groups import author_of, place_of
from birdsong.splits import KEPT_FIRST, PARTS, count_parts

if TYPE_CHECKING:
    import pandas as pd


def write_report(path: str | Path, table: "pd.DataFrame", config: SplitConfig) -> None:
    """Write the page.

    Args:
        path: Where the HTML goes.
        table: The recordings with label, author, latitude, longitude, common_name, and their
            part, group and grouped_by.
        config: How they were shared out.
    """
    counts = count_parts(table)
    total = len(table)
    sizes = table.groupby("group").size()
    wanted = {
        "validation": config.validation_fraction,
        "calibration": config.calibration_fraction,
        "test": config.test_fraction,
    }
    wanted["train"] = 1 - sum(wanted.values())
    lead = f"{total:,} recordings of {len(counts)} species. " + (
        f"The parts are those of the column {config.split_column!r}, taken as they are."
        if config.split_column
        else "Recordings that share "
        f"{', '.join(config.group_keys) or 'nothing but their bytes'} stay in one part; "
        f"seed {config.seed}."
    )
    parts_table = pages.table(
        ["part", "recordings", "share", "asked for", "species", "groups"],
        [
            [
                part,
                f"{counts[part].sum():,}",
                f"{counts[part].sum() / total:.1%}",
                "own column" if config.split_column else f"{wanted[part]:.1%}",
                int((counts[part] > 0).sum()),
                f"{table.loc[table['part'] == part, 'group'].nunique():,}",
            ]
            for part in PARTS
        ],
        numbers=(1, 2, 3, 4, 5),
        name="parts",
    )
    grouped = table.groupby("grouped_by")
    together = pages.table(
        ["grouped by", "recordings", "groups", "largest group"],
        [
            [
                str(by).replace("+", " + "),
                f"{len(rows):,}",
                f"{rows['group'].nunique():,}",
                f"{rows.groupby('group').size().max():,}",
            ]
            for by, rows in sorted(grouped, key=lambda pair: -len(pair[1]))
        ],
        numbers=(1, 2, 3),
        name="grouped_by",
    )
    held_out = [  # parts that were asked for, also where they came out empty
        part
        for part in PARTS[1:]
        if (counts[part].sum() if config.split_column else wanted[part] > 0)
    ]
    short = counts[(counts[held_out] == 0).any(axis=1) | (counts["train"] == 0)]
    groups_of = table.groupby("label")["group"].nunique()
    names = table.groupby("label")["common_name"].first()
    species = pages.table(
        ["species", "name", "groups", *PARTS, "missing in"],
        [
            [
                code,
                names[code] if isinstance(names[code], str) else "",
                groups_of[code],
                *counts.loc[code],
                ", ".join(part for part in ("train", *held_out) if counts.loc[code, part] == 0),
            ]
            for code in counts.index
        ],
        numbers=(2, 3, 4, 5, 6),
        name="species",
    )
    few = (
        f"{len(short)} of {len(counts)} species are not in every part."
        if len(short)
        else "Every species is in every part."
    )
    if len(short) and not config.split_column:
        few += (
            " A species with few groups is given to train first, then to "
            f"{', then to '.join(part for part in KEPT_FIRST if part in held_out)}; "
            "at most half of its groups are held out for that. Where it is missing in calibration "
            "it gets a pooled threshold, where it is missing in test nothing is known about it."
        )
    pages.write(
        path,
        "How the recordings were shared out",
        lead,
        [
            pages.cards(
                [
                    ("recordings", f"{total:,}"),
                    ("groups", f"{len(sizes):,}"),
                    ("species", len(counts)),
                    ("species not in every part", len(short)),
                ]
            ),
            parts_table,
            pages.heading("What keeps recordings together"),
            together,
            pages.heading("What could still leak"),
            pages.table(
                ["what", *PARTS],
                _ties(table, sizes),
                numbers=(1, 2, 3, 4),
                name="ties",
            ),
            pages.paragraph(
                "A model can know the voice of a place or of a microphone: where many held-out "
                "recordings share their author with train, figures on new recordists may be "
                "lower. Grouping by author alone (group_by=author) tests for that."
            ),
            pages.heading("Species"),
            pages.paragraph(few),
            species,
        ],
    )


def _ties(table: "pd.DataFrame", sizes: "pd.Series[int]") -> Iterable[list[str]]:
    """Rows of the table of what could still leak: recordings of each part that are concerned."""
    authors = [author_of(value) for value in table["author"]]
    places = [
        place_of(latitude, longitude)
        for latitude, longitude in zip(table["latitude"], table["longitude"], strict=True)
    ]
    parts = table["part"].tolist()

    def shared_with_train(keys: list[str]) -> list[bool]:
        trained = {key for key, part in zip(keys, parts, strict=True) if key and part == "train"}
        return [key in trained and part != "train" for key, part in zip(keys, parts, strict=True)]

    groups = table["group"].tolist()
    both = [f"{a}\n{p}" if a and p else "" for a, p in zip(authors, places, strict=True)]
    rows = [
        ("same group also in train (a split of one's own that breaks groups)", groups),
        ("same author and place also in train, another day or no day given", both),
        ("same author also in train", authors),
        ("same place also in train, whoever recorded", places),
    ]
    concerned = [(text, shared_with_train(keys), False) for text, keys in rows]
    concerned += [
        ("no author given: nobody knows what belongs together", [not a for a in authors], True),
        (
            "stands alone, though it may belong to others",
            [
                by == "alone" and sizes[g] == 1
                for by, g in zip(table["grouped_by"], groups, strict=True)
            ],
            True,
        ),
    ]
    for text, flags, with_train in concerned:
        row = [text]
        for part in PARTS:
            of_part = [flag for flag, other in zip(flags, parts, strict=True) if other == part]
            if not of_part or (part == "train" and not with_train):
                row.append("")
            else:
                row.append(f"{sum(of_part):,} of {len(of_part):,}")
        yield row
