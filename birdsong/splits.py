"""Share recordings out for training, validation, calibration and test, groups kept whole.

What a group is stands in `birdsong.groups`.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsong import artifacts
from birdsong.config import SplitConfig
from birdsong.errors import ConfigError, DataError
from birdsong.groups import Group, digest, make_groups

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("train", "validation", "calibration", "test")

KEPT_FIRST = ("test", "calibration", "validation")
"""Held-out parts in the order in which a species with few groups is given to them.

Of a species' groups and of its recordings, at most half are given away in this order. So a
species with one group is in train only; with two or three also in test; with four or five also
in calibration; with six or more in all parts. It loses validation first, which only chooses the
epoch and pools all species; then calibration, where a pooled threshold stands in; test last,
since without it nobody knows how well the species is recognised.
"""

_COLUMN_VALUES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "calibration": "calibration",
    "test": "test",
}


def split(
    recordings_path: str | Path,
    splits_path: str | Path,
    leaks_path: str | Path,
    config: SplitConfig,
) -> dict[str, float]:
    """Share recordings out and report what was kept together and what could still leak.

    The same recordings, settings and seed give the same parts, whatever the order of the rows.

    Args:
        recordings_path: Artifact of ingest.
        splits_path: Where the artifact goes: `splits.parquet` (id, part, group, grouped_by) and
            `classes.json` (code, scientific_name, common_name in the order of the scores).
        leaks_path: Where the report goes, an HTML page.
        config: Fractions, seed, and what keeps recordings together, or a column of one's own.

    Returns:
        Recordings in each part, and counts of groups and of species without each part.

    Raises:
        ConfigError: The split column does not exist.
        DataError: There are no recordings, a value of the split column is none of train,
            validation (valid, val), calibration and test, nothing is left to train on, or the
            same recording (by SHA-256) would be in two parts.
    """
    import pandas as pd

    from birdsong import leaks

    artifacts.read_spec(recordings_path, "recordings")
    columns = ["id", "label", "scientific_name", "common_name", "author", "date"]
    columns += ["latitude", "longitude", "sha256"] + (["extra"] if config.split_column else [])
    table = pd.read_parquet(Path(recordings_path) / "recordings.parquet", columns=columns)
    if table.empty:
        raise DataError(
            "split: there are no recordings to share out. Look at the audit of ingest for why."
        )
    table = table.sort_values("id", ignore_index=True)
    groups = make_groups(table, config.group_keys)
    if config.split_column:
        parts = read_column(table, config.split_column)
    else:
        parts = assign(table["label"].tolist(), groups, config)
    copies = _dropped_copies(recordings_path, config.split_column)
    _refuse_copies_across_parts(table, parts, copies)

    group_of = {row: group for group in groups for row in group.rows}
    result = pd.DataFrame(
        {
            "id": table["id"],
            "part": parts,
            "group": [group_of[row].name for row in range(len(table))],
            "grouped_by": [group_of[row].grouped_by for row in range(len(table))],
        }
    ).astype("str")
    inputs = {"recordings": recordings_path}
    with artifacts.create(splits_path, "splits", config, inputs) as folder:
        result.to_parquet(folder.path / "splits.parquet", index=False)
        artifacts.write_json(folder.path / "classes.json", list_classes(table))
    table = table.assign(**{name: result[name] for name in ("part", "group", "grouped_by")})
    leaks.write_report(leaks_path, table, config)
    counts = count_parts(table)
    return {
        **{f"recordings_{part}": float(counts[part].sum()) for part in PARTS},
        "groups": float(len(groups)),
        "species": float(len(counts)),
        **{f"species_without_{part}": float((counts[part] == 0).sum()) for part in PARTS},
    }


def count_parts(table: "pd.DataFrame") -> "pd.DataFrame":
    """Count the recordings of each species (rows, by code) in each of `PARTS` (columns).

    Args:
        table: Columns label and part.
    """
    import pandas as pd

    return pd.crosstab(table["label"], table["part"]).reindex(columns=list(PARTS), fill_value=0)


def list_classes(table: "pd.DataFrame") -> list[dict[str, str]]:
    """The species in the order of the scores: by code, decided here once.

    Args:
        table: Columns label, scientific_name and common_name, the last two may be missing.

    Returns:
        One object per species: code, scientific_name, common_name ("" where nobody says).
    """
    return [
        {
            "code": str(code),
            "scientific_name": _most_frequent(rows["scientific_name"].dropna().tolist()),
            "common_name": _most_frequent(rows["common_name"].dropna().tolist()),
        }
        for code, rows in sorted(table.groupby("label"), key=lambda pair: str(pair[0]))
    ]


def assign(labels: Sequence[str], groups: Sequence[Group], config: SplitConfig) -> list[str]:
    """Give each group to a part, close to the fractions within each species and overall.

    Three passes, rare species first: each species gets a group in train; each gets a group in
    as many held-out parts as `KEPT_FIRST` allows; the other groups, large ones first, go where
    they bring the species that they hold closest to the fractions. Groups of the same size are
    drawn by a hash of seed and content.

    Args:
        labels: Species of each recording.
        groups: Which recordings stay together; a group may hold several species.
        config: Fractions and seed. A part with the fraction 0 gets nothing.

    Returns:
        The part of each recording.
    """
    fractions = {
        "validation": config.validation_fraction,
        "calibration": config.calibration_fraction,
        "test": config.test_fraction,
    }
    fractions = {part: share for part, share in fractions.items() if share > 0}
    fractions["train"] = 1 - sum(fractions.values())
    held_out = [part for part in KEPT_FIRST if part in fractions]

    order = sorted(groups, key=lambda group: digest(str(config.seed), group.name))
    species_of = [Counter(labels[row] for row in group.rows) for group in order]
    groups_of: dict[str, list[int]] = defaultdict(list)
    for index, counts in enumerate(species_of):
        for code in counts:
            groups_of[code].append(index)
    totals = Counter(labels)
    rare_first = sorted(groups_of, key=lambda code: (len(groups_of[code]), code))

    fewest = [min(len(groups_of[code]) for code in counts) for counts in species_of]

    most_away = max(0.5, 1 - fractions["train"])

    part_of: dict[int, str] = {}
    have: Counter[tuple[str, str]] = Counter()  # (species, part) to recordings
    filled: Counter[str] = Counter()  # part to recordings

    def place(index: int, part: str) -> None:
        part_of[index] = part
        for code, count in species_of[index].items():
            have[code, part] += count
            filled[part] += count

    def cost(index: int, part: str) -> float:
        """How much farther from the fractions everything is with this group in this part."""
        size, total = 0, 0.0
        for code, count in species_of[index].items():
            missing = totals[code] * fractions[part] - have[code, part]
            total += count * (count - 2 * missing)  # (missing - count)^2 - missing^2
            size += count
        # Rounding within species would starve small parts; the part as a whole counts as well.
        whole = len(labels) * fractions[part]
        return total + size * (filled[part] / whole - 1)

    def allowed(index: int) -> list[str]:
        """The parts that a group may be in, so that train keeps enough of its species."""
        for code, count in species_of[index].items():
            given_away = sum(have[code, part] for part in held_out)
            if given_away + count > most_away * totals[code]:
                return ["train"]
        return ["train", *held_out[: fewest[index] // 2]]

    for code in rare_first:
        if not have[code, "train"]:
            free = [index for index in groups_of[code] if index not in part_of]
            place(min(free, key=lambda index: cost(index, "train")), "train")
    for code in rare_first:
        for part in held_out[: len(groups_of[code]) // 2]:
            if have[code, part]:
                continue
            free = [
                index
                for index in groups_of[code]
                if index not in part_of and part in allowed(index)
            ]
            if free:
                place(min(free, key=functools.partial(cost, part=part)), part)
    rest = [index for index in range(len(order)) if index not in part_of]
    for index in sorted(rest, key=lambda index: (fewest[index], -species_of[index].total())):
        place(index, min(allowed(index), key=lambda part: cost(index, part)))

    parts = [""] * len(labels)
    for index, group in enumerate(order):
        for row in group.rows:
            parts[row] = part_of[index]
    return parts


def read_column(table: "pd.DataFrame", column: str) -> list[str]:
    """Read a split of the user's own, exactly as it is.

    Args:
        table: Columns id and extra, the metadata's other columns of each recording.
        column: Name of the column.

    Raises:
        ConfigError: No recording has this column.
        DataError: A value is missing or unknown, or none says train.
    """
    extras = [_as_mapping(value) for value in table["extra"]]
    if not any(column in extra for extra in extras):
        there = sorted({name for extra in extras for name in extra})
        raise ConfigError(
            f"split_column: the metadata has no column {column!r}. "
            + (f"It has {', '.join(there)}." if there else "It has no columns of its own.")
        )
    parts, wrong = [], []
    for name, extra in zip(table["id"], extras, strict=True):
        value = extra.get(column)
        part = _COLUMN_VALUES.get((value or "").strip().lower())
        if part is None:
            wrong.append(f"{name} says {value!r}" if value else f"{name} says nothing")
        parts.append(part or "")
    if wrong:
        raise DataError(
            f"split_column: {len(wrong)} of {len(table)} values in {column!r} are none of "
            f"{', '.join(_COLUMN_VALUES)}: {'; '.join(wrong[:3])}"
            f"{'; ...' if len(wrong) > 3 else ''}. Mend them in the metadata."
        )
    if "train" not in parts:
        raise DataError(f"split_column: no recording of {column!r} is in train.")
    return parts


def _refuse_copies_across_parts(
    table: "pd.DataFrame", parts: Sequence[str], dropped: Sequence[tuple[str, str, str]]
) -> None:
    """Refuse that one recording (by its bytes) is in two parts.

    Args:
        table: Columns id and sha256.
        parts: Of its rows.
        dropped: Id, hash and part of copies that ingest left out.
    """
    seen: dict[str, tuple[str, str]] = {}
    leaking = []
    kept = zip(table["id"], table["sha256"], parts, strict=True)
    for name, sha256, part in (*kept, *dropped):
        other, other_part = seen.setdefault(sha256, (name, part))
        if other_part != part:
            leaking.append(f"{other} ({other_part}) and {name} ({part})")
    if leaking:
        raise DataError(
            f"split: {len(leaking)} recordings have the same bytes as one in another part: "
            f"{'; '.join(leaking[:3])}{'; ...' if len(leaking) > 3 else ''}. "
            "Give copies the same part, or leave all but one out."
        )


def _dropped_copies(recordings_path: str | Path, column: str) -> list[tuple[str, str, str]]:
    """Id, hash and part, by the user's own column, of the copies that ingest left out.

    They take no part in the run; but where their author put them says what the split was to be.
    """
    import pandas as pd

    place = Path(recordings_path) / "duplicates.parquet"
    if not column or not place.is_file():
        return []
    table = pd.read_parquet(place, columns=["id", "sha256", "extra"])
    values = (str(_as_mapping(extra).get(column) or "").strip().lower() for extra in table["extra"])
    return [
        (name, sha256, _COLUMN_VALUES[value])
        for name, sha256, value in zip(table["id"], table["sha256"], values, strict=True)
        if value in _COLUMN_VALUES
    ]


def _most_frequent(values: Sequence[str]) -> str:
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value), default="")


def _as_mapping(value: Any) -> Mapping[str, str]:
    """A map cell of Parquet, which pandas reads as a list of pairs."""
    return dict(value) if value is not None else {}
