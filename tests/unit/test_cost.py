"""What making a model cost: noted beside artifacts, summed, and never guessed."""

import json
import re
from pathlib import Path

import pytest
from made_costs import HERE, NO_SEARCH, RATE, billed

from birdsong import artifacts, cost
from birdsong.cost import Part
from birdsong.errors import DataError


def _artifact(folder: Path, *parts: Part) -> str:
    with artifacts.create(folder, "model", {}) as made:
        (made.path / "weights").write_bytes(b"1")
        if parts:
            cost.note(made.path, *parts)
    return artifacts.verify(folder).sha256


def test_what_an_artifact_cost_is_read_again_and_changes_no_hash(tmp_path: Path) -> None:
    tune, train = billed("tune", 7200, 2400, 4), billed("train", 3600, 3600)
    dear, cheap, free = (
        _artifact(tmp_path / "dear", tune, train),
        _artifact(tmp_path / "cheap", NO_SEARCH, HERE),
        _artifact(tmp_path / "free"),
    )
    assert dear == cheap == free
    assert cost.read(tmp_path / "dear") == [tune, train]
    assert cost.read(tmp_path / "free") == []


@pytest.mark.parametrize(
    "text", ["", "[]", '{"parts": [{"step": "train"}]}', '{"parts": [{"seconds": NaN}]}']
)
def test_a_damaged_note_is_told_and_not_taken_for_no_cost(tmp_path: Path, text: str) -> None:
    _artifact(tmp_path / "model", HERE)
    (tmp_path / "model/cost.json").write_text(text)
    with pytest.raises(DataError, match=r"cost\.json"):
        cost.read(tmp_path / "model")


def test_search_and_training_stand_apart_and_together() -> None:
    tune = billed("tune", 7200, 2400, 4, unknown=1, jobs=5)
    parts = [tune, billed("train", 3600, 3600, interruptions=2)]
    assert [(row[0], *row[2:]) for row in cost.rows(parts)] == [
        ("tune, 4 trials", "7,200", "2,400", "67 %", "1.35"),
        ("train", "3,600", "3,600", "0 %", "2.03"),
        ("together", "10,800", "6,000", "44 %", "3.38"),
    ]
    assert cost.figures(parts) == {
        "cost_trained_seconds": 10_800,
        "cost_billed_seconds": 6000,
        "cost_usd": 3.3833,
    }
    said = " ".join(cost.sentences(parts))
    assert said.count("2.03 USD per hour of ml.g5.4xlarge in us-east-1") == 1
    assert "as of 2026-07-02." in said
    assert f"Source: a price list, {RATE.where}." in said
    assert "Volumes, S3, logs and traffic are not counted" in said
    assert "train lost its spot machine 2 times." in said
    assert "Of the 5 jobs of tune, 1 ended without seconds" in said
    assert "not known" not in said


def test_a_training_here_says_machine_and_seconds_and_no_dollars() -> None:
    parts = [NO_SEARCH, HERE]
    assert cost.rows(parts) == [("train", "x86_64, 2 cores, no GPU", "125", "–", "–", "not known")]
    assert "cost_usd" not in cost.figures(parts)
    said = " ".join(cost.sentences(parts))
    assert "No search was asked for." in said
    assert "bills nothing by itself; what its time costs is not known" in said
    assert "USD" not in said


def test_a_sum_of_known_and_unknown_dollars_says_both() -> None:
    rows = cost.rows([billed("tune", 7200, 2400, 4), HERE])
    assert rows[-1][-1] == "1.35 and not known"
    assert "cost_usd" not in cost.figures([billed("tune", 7200, 2400, 4), HERE])
    unpriced = billed("train", 100, 30, rate=None)
    assert cost.rows([unpriced])[0][3:] == ("30", "70 %", "not known")
    assert "no rate for ml.g5.4xlarge in us-east-1" in " ".join(cost.sentences([unpriced]))
    assert cost.rows([HERE, HERE])[-1][-1] == "not known"


def test_a_job_that_never_trained_saves_no_percent_of_nothing() -> None:
    assert cost.rows([billed("train", 0, 0)])[0][2:] == ("0", "0", "–", "0.00")


def test_no_note_is_said_to_be_none_and_a_missing_search_too() -> None:
    assert "is not known" in cost.markdown([])
    assert "|" not in cost.markdown([])
    assert "What a search before the training cost is not known." in cost.sentences([HERE])
    assert cost.figures([]) == {}


def test_the_section_of_a_card_is_a_whole_table_also_with_odd_names() -> None:
    odd = HERE.model_copy(update={"machine": "a | b"})
    rows = [line for line in cost.markdown([NO_SEARCH, odd]).splitlines() if line[:1] == "|"]
    assert len(rows) == 3
    assert {len(re.findall(r"\|", row)) for row in rows} == {7}
    assert json.loads(HERE.model_dump_json())["billed"] is None
