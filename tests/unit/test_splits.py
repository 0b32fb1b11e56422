"""Sharing out: groups whole, fractions close, nothing decided by the order of rows."""

import hashlib
import html
import itertools
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from birdsong import artifacts, splits
from birdsong.config import SplitConfig
from birdsong.errors import ConfigError, DataError
from birdsong.groups import Group, make_groups

REAL = Path(__file__).parents[2] / "../shared/data/birdclef2022_train_metadata.csv"
QUARTERS = SplitConfig(validation_fraction=0.1, calibration_fraction=0.2, test_fraction=0.2)


def make_table(count: int = 400, species: int = 5, seed: int = 0) -> pd.DataFrame:
    """Recordings by few authors on few days at few places."""
    rng = np.random.default_rng(seed)
    number = np.arange(count)
    return pd.DataFrame(
        {
            "id": [f"s{i % species}/r{i}.ogg" for i in number],
            "label": [f"s{i % species}" for i in number],
            "scientific_name": [f"Avis {i % species}" for i in number],
            "common_name": [f"Bird {i % species}" for i in number],
            "author": [f"Author {i}" for i in rng.integers(0, 40, count)],
            "date": [f"2020-05-{day:02d}" for day in rng.integers(1, 20, count)],
            "latitude": rng.integers(0, 3, count).astype(float),
            "longitude": 5.0,
            "sha256": [hashlib.sha256(str(i).encode()).hexdigest() for i in number],
            "extra": [{"type": "song"} for _ in number],
        }
    )


def write_recordings(path: Path, table: pd.DataFrame) -> Path:
    import pyarrow as pa

    table = table.reset_index(drop=True)

    with artifacts.create(path, "recordings", {}) as folder:
        table.to_parquet(
            folder.path / "recordings.parquet",
            schema=None
            if table.empty
            else pa.Schema.from_pandas(table.drop(columns="extra")).append(
                pa.field("extra", pa.map_(pa.string(), pa.string()))
            ),
            index=False,
        )
    return path


def read_table(page: str, name: str) -> pd.DataFrame:
    """A table of the report, all cells text."""
    body = re.search(f'<table id="{name}">.*?</table>', page, re.DOTALL)[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.split("<tr>")[1:]]
    rows = [[html.unescape(cell) for cell in row] for row in rows]
    return pd.DataFrame(rows[1:], columns=rows[0])


def run(tmp_path: Path, table: pd.DataFrame, config: SplitConfig) -> pd.DataFrame:
    recordings = write_recordings(tmp_path / "recordings", table)
    splits.split(recordings, tmp_path / "splits", tmp_path / "leaks.html", config)
    return pd.read_parquet(tmp_path / "splits/splits.parquet")


def test_groups_stay_whole_and_fractions_are_close(tmp_path):
    table = make_table(2000)
    result = run(tmp_path, table, QUARTERS).merge(table, on="id")
    assert len(result) == 2000
    assert result.groupby("group")["part"].nunique().max() == 1
    assert result.groupby(["author", "date", "latitude"])["part"].nunique().max() == 1
    shares = pd.crosstab(result["label"], result["part"], normalize="index")
    for part, wanted in [("train", 0.5), ("validation", 0.1), ("calibration", 0.2), ("test", 0.2)]:
        assert shares[part].between(wanted - 0.02, wanted + 0.02).all()


def test_the_order_of_rows_does_not_matter_and_the_seed_does(tmp_path):
    table = make_table()
    first = run(tmp_path / "a", table, QUARTERS)
    second = run(tmp_path / "b", table.sample(frac=1, random_state=1), QUARTERS)
    other = run(tmp_path / "c", table, QUARTERS.model_copy(update={"seed": 1}))
    pd.testing.assert_frame_equal(first, second)
    assert (first["part"] != other["part"]).mean() > 0.2


def test_splits_are_the_same_artifact_each_time(tmp_path):
    table = make_table()
    for name in "ab":
        run(tmp_path / name, table, QUARTERS)
    first, second = (artifacts.read_spec(tmp_path / name / "splits") for name in "ab")
    assert first.sha256 == second.sha256
    assert (tmp_path / "a/leaks.html").read_bytes() == (tmp_path / "b/leaks.html").read_bytes()


def test_missing_values_step_down_from_day_to_place_to_author_to_alone():
    table = make_table(6)
    table["author"] = ["Ada", "Ada", "Ada", " ada ", "unknown", None]
    table["date"] = ["2020-05-01", "2020-05-01T07:00", "2020-05-00", None, "2020-05-01", None]
    table["latitude"] = [1.0, 1.001, 1.0, np.nan, 1.0, 1.0]
    groups = make_groups(table, ("author", "date", "place"))
    found = {group.rows: group.grouped_by for group in groups}
    assert found == {
        (0, 1): "author+date+place",
        (2,): "author+place",
        (3,): "author",
        (4,): "alone",
        (5,): "alone",
    }


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("author", {(0, 1, 2), (3,)}),
        ("place", {(0, 2, 3), (1,)}),
        ("author,date", {(0, 1), (2,), (3,)}),
        ("date,place", {(0,), (1,), (2, 3)}),
        ("", {(0,), (1,), (2,), (3,)}),
    ],
)
def test_group_by_restricts_what_keeps_recordings_together(keys, expected):
    table = make_table(4)
    table["author"] = ["Ada", "Ada", "Ada", "Bo"]
    table["date"] = ["2020-05-01", "2020-05-01", "2020-05-02", "2020-05-02"]
    table["latitude"] = [1.0, 2.0, 1.0, 1.0]
    groups = make_groups(table, SplitConfig(group_by=keys).group_keys)
    assert {group.rows for group in groups} == expected


def test_copies_of_the_same_bytes_stay_together_though_their_metadata_differ(tmp_path):
    table = make_table(200)
    table.loc[150, "sha256"] = table.loc[3, "sha256"]
    table.loc[151, "sha256"] = table.loc[150, "sha256"]
    table.loc[[3, 150, 151], "author"] = ["Ada", "Bo", "Cleo"]
    result = run(tmp_path, table, QUARTERS).set_index("id")
    copies = result.loc[table.loc[[3, 150, 151], "id"]]
    assert copies["part"].nunique() == copies["group"].nunique() == 1


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (1, {"train"}),
        (2, {"train", "test"}),
        (3, {"train", "test"}),
        (4, {"train", "test", "calibration"}),
        (5, {"train", "test", "calibration"}),
        (6, {"train", "test", "calibration", "validation"}),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_species_with_few_groups_loses_validation_then_calibration_then_test(count, parts, seed):
    labels = ["common"] * 300 + ["rare"] * count
    groups = [Group(f"g{i}", "alone", (i,)) for i in range(len(labels))]
    assigned = splits.assign(labels, groups, SplitConfig(seed=seed))
    assert set(assigned[300:]) == parts
    assert assigned[300:].count("train") >= count / 2


def test_a_group_of_several_species_stays_whole_and_every_species_can_be_learnt():
    rng = np.random.default_rng(0)
    labels = [f"s{i}" for i in rng.integers(0, 30, 600)]
    bounds = np.unique(np.concatenate([[0, 600], rng.integers(0, 600, 150)]))
    groups = [
        Group(f"g{i}", "author", tuple(range(start, end)))
        for i, (start, end) in enumerate(itertools.pairwise(bounds))
    ]
    assigned = splits.assign(labels, groups, SplitConfig())
    for group in groups:
        assert len({assigned[row] for row in group.rows}) == 1
    trained = {label for label, part in zip(labels, assigned, strict=True) if part == "train"}
    assert trained == set(labels)
    for part, share in [("train", 0.8), ("validation", 0.06), ("calibration", 0.07)]:
        assert assigned.count(part) / 600 == pytest.approx(share, abs=0.03)


def test_one_author_of_everything_leaves_all_in_train(tmp_path):
    table = make_table(50).assign(author="Ada", date=None, latitude=np.nan)
    result = run(tmp_path, table, QUARTERS)
    assert set(result["part"]) == {"train"}


def test_a_fraction_of_zero_leaves_its_part_empty(tmp_path):
    config = SplitConfig(validation_fraction=0.05, calibration_fraction=0, test_fraction=0.05)
    result = run(tmp_path, make_table(1000), config)
    counts = result["part"].value_counts()
    assert set(counts.index) == {"train", "validation", "test"}
    assert counts["test"] == pytest.approx(50, abs=10)


def test_all_fractions_zero_train_on_everything(tmp_path):
    config = SplitConfig(validation_fraction=0, calibration_fraction=0, test_fraction=0)
    assert set(run(tmp_path, make_table(20), config)["part"]) == {"train"}


def test_the_sizes_of_the_reference_are_reached_by_settings():
    total = 62_874
    config = SplitConfig(
        validation_fraction=2_997 / total, calibration_fraction=0, test_fraction=3_014 / total
    )
    # 397 species of 8 to 500 recordings, as in 2021.
    sizes = np.linspace(8, 500, 397)
    codes = np.random.default_rng(0).choice(397, total, p=sizes / sizes.sum())
    labels = [f"s{code}" for code in codes]
    groups = [Group(f"g{i}", "alone", (i,)) for i in range(total)]
    assigned = splits.assign(labels, groups, config)
    assert assigned.count("validation") == pytest.approx(2_997, rel=0.02)
    assert assigned.count("test") == pytest.approx(3_014, rel=0.02)
    assert assigned.count("calibration") == 0


def test_classes_are_ordered_by_code_with_their_most_frequent_names(tmp_path):
    table = make_table(30)
    table.loc[0, "common_name"] = None
    table.loc[5, "scientific_name"] = "Misspelt"
    run(tmp_path, table, QUARTERS)
    classes = artifacts.read_json(tmp_path / "splits/classes.json")
    assert [species["code"] for species in classes] == ["s0", "s1", "s2", "s3", "s4"]
    assert classes[0] == {"code": "s0", "scientific_name": "Avis 0", "common_name": "Bird 0"}


def test_names_that_nobody_gives_are_empty(tmp_path):
    run(tmp_path, make_table(30).assign(common_name=None, scientific_name=None), QUARTERS)
    classes = artifacts.read_json(tmp_path / "splits/classes.json")
    assert classes[0] == {"code": "s0", "scientific_name": "", "common_name": ""}


def with_column(table: pd.DataFrame, values: list[str | None]) -> pd.DataFrame:
    extras = [{"fold": value} if value is not None else {} for value in values]
    return table.assign(extra=extras)


def test_a_split_of_ones_own_is_taken_as_it_is_though_it_breaks_groups(tmp_path):
    values = ["train", "valid", "val", "Validation", "calibration", " test "] * 10
    table = with_column(make_table(60).assign(author="Ada"), values)
    result = run(tmp_path, table, SplitConfig(split_column="fold")).set_index("id")
    names = {"valid": "validation", "val": "validation", "Validation": "validation"}
    expected = [names.get(value, value.strip()) for value in values]
    assert result.loc[table["id"], "part"].tolist() == expected
    page = (tmp_path / "leaks.html").read_text()
    assert "same group also in train" in page
    assert "taken as they are" in page


@pytest.mark.parametrize("value", ["holdout", "", None, "1"])
def test_an_unknown_value_in_the_split_column_is_an_error_that_names_it(tmp_path, value):
    table = with_column(make_table(20), ["train"] * 19 + [value])
    with pytest.raises(DataError, match=r"1 of 20 values in 'fold'.*s4/r19\.ogg says"):
        run(tmp_path, table, SplitConfig(split_column="fold"))
    assert not (tmp_path / "splits").exists()


def test_a_split_column_that_is_not_there_is_an_error_that_lists_the_columns(tmp_path):
    with pytest.raises(ConfigError, match=r"no column 'fold'. It has type"):
        run(tmp_path, make_table(20), SplitConfig(split_column="fold"))


def test_a_split_of_ones_own_without_train_is_an_error(tmp_path):
    table = with_column(make_table(4), ["test"] * 4)
    with pytest.raises(DataError, match="is in train"):
        run(tmp_path, table, SplitConfig(split_column="fold"))


def test_a_split_of_ones_own_that_leaks_copies_is_an_error(tmp_path):
    table = with_column(make_table(4), ["train", "train", "test", "test"])
    table.loc[3, "sha256"] = table.loc[0, "sha256"]
    with pytest.raises(DataError, match=r"same bytes.*s0/r0\.ogg \(train\)"):
        run(tmp_path, table, SplitConfig(split_column="fold"))


def test_no_recordings_at_all_are_an_error(tmp_path):
    with pytest.raises(DataError, match="no recordings"):
        run(tmp_path, make_table(0).astype({"id": "str"}), QUARTERS)


def test_the_leak_report_counts_what_still_ties_parts_together(tmp_path):
    # One author on many days at one place: grouping by day leaves the place on both sides.
    table = make_table(200).assign(author="Ada", latitude=1.0)
    table.loc[:9, "author"] = None
    run(tmp_path, table, QUARTERS)
    page = (tmp_path / "leaks.html").read_text()
    ties = read_table(page, "ties").set_index("what")
    test = ties["test"]
    assert test["same group also in train (a split of one's own that breaks groups)"][:2] == "0 "
    shared, total = test["same author also in train"].split(" of ")
    assert 0 < int(shared) <= int(total)


def test_names_in_the_report_are_escaped(tmp_path):
    run(tmp_path, make_table(30).assign(common_name="<script>alert(1)</script>"), QUARTERS)
    assert "<script>" not in (tmp_path / "leaks.html").read_text()


@pytest.mark.real
def test_real_metadata_of_14852_recordings_is_shared_out_in_seconds(tmp_path):
    if not REAL.exists():
        pytest.skip("shared/data/birdclef2022_train_metadata.csv is not here")
    metadata = pd.read_csv(REAL)
    table = pd.DataFrame(
        {
            "id": metadata["filename"],
            "label": metadata["primary_label"],
            "scientific_name": metadata["scientific_name"],
            "common_name": metadata["common_name"],
            "author": metadata["author"],
            "date": None,
            "latitude": metadata["latitude"],
            "longitude": metadata["longitude"],
            "sha256": [hashlib.sha256(name.encode()).hexdigest() for name in metadata["filename"]],
            "extra": [{"type": "song"}] * len(metadata),
        }
    )
    recordings = write_recordings(tmp_path / "recordings", table)
    started = time.process_time()
    summary = splits.split(recordings, tmp_path / "splits", tmp_path / "leaks.html", SplitConfig())
    assert time.process_time() - started < 10
    result = pd.read_parquet(tmp_path / "splits/splits.parquet").merge(table, on="id")
    assert len(result) == 14_852
    assert result.groupby("group")["part"].nunique().max() == 1
    shares = result["part"].value_counts(normalize=True)
    for part, wanted in [("train", 0.8), ("validation", 0.06), ("calibration", 0.07)]:
        assert shares[part] == pytest.approx(wanted, abs=0.01)
    assert set(result["grouped_by"]) == {"author+place"}
    assert summary["species"] == 152
    assert summary["species_without_train"] == 0
    counts = splits.count_parts(result)
    listed = read_table((tmp_path / "leaks.html").read_text(), "species")
    listed = listed.set_index("species")["missing in"]
    for part in ("validation", "calibration", "test"):
        missing = set(counts.index[counts[part] == 0])
        assert summary[f"species_without_{part}"] == len(missing)
        assert set(listed.index[listed.str.contains(part)]) == missing


def test_a_part_that_was_asked_for_and_came_out_empty_is_told_on_the_page(tmp_path):
    # Two groups of each species: none can go to validation.
    table = make_table(count=4, species=2)
    table["author"] = [f"author {number}" for number in range(len(table))]
    parts = run(tmp_path, table, SplitConfig())
    assert "validation" not in set(parts["part"])
    page = (tmp_path / "leaks.html").read_text()
    assert "Every species is in every part" not in page
    assert "validation" in read_table(page, "species")["missing in"].iloc[0]
