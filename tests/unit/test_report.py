import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_costs import billed
from made_reports import write_page


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    reader = _Reader()
    reader.feed(write_page(tmp_path))
    assert reader.open == []
    assert all(link.startswith("data:") for link in reader.links)
    assert {link.split(";")[0] for link in reader.links} == {
        "data:image/jpeg",
        "data:audio/ogg",
    }


def test_the_headline_shows_network_and_baseline_with_intervals(tmp_path: Path) -> None:
    page = write_page(tmp_path)
    assert re.search(r"network right \(\d+ to \d+ %\)", page)
    assert re.search(r"baseline right \(\d+ to \d+ %\)", page)
    assert re.search(r"points difference \([+-]\d+ to [+-]\d+ points\)", page)
    assert "The network is better than the baseline" in page


def test_a_network_that_is_no_better_is_not_praised(tmp_path: Path) -> None:
    assert "cannot be told apart" in write_page(tmp_path, skill=0.0)


def test_few_test_recordings_are_said_to_be_few(tmp_path: Path) -> None:
    assert "40 test recordings are few" in write_page(tmp_path)
    assert "are few" not in write_page(tmp_path, test=400)


def test_names_from_metadata_cannot_break_thewrite_page(tmp_path: Path) -> None:
    page = write_page(tmp_path, name="<script>alert(1)</script>&")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in page


def test_each_species_has_a_row_that_sorts_by_its_numbers(tmp_path: Path) -> None:
    page = write_page(tmp_path, species=6)
    table = page[page.index('<table id="species"') :]
    table = table[: table.index("</table>")]
    rows = table.split("<tr>")[2:]
    assert len(rows) == 6
    keys = re.findall(r'data-sort="([^"]*)"', table)
    assert len(keys) == 6 * 8
    assert all(np.isfinite(float(key)) for key in keys if key)


@pytest.mark.parametrize(
    ("species", "test", "held_out"), [(1, 5, 20), (3, 0, 30), (3, 10, 0), (2, 1, 1)]
)
def test_there_is_a_page_for_any_amount_of_data(
    tmp_path: Path, species: int, test: int, held_out: int
) -> None:
    page = write_page(tmp_path, species=species, test=test, held_out=held_out, errors=0)
    text = re.sub(r"<script>.*?</script>|base64,[^\"]*", "", page, flags=re.DOTALL)
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", text)


def test_all_species_of_the_reference_fit_on_a_page_of_a_few_megabytes(tmp_path: Path) -> None:
    page = write_page(tmp_path, species=397, test=800, held_out=800, errors=12)
    assert page.count("<small><i>Avis avis") == 397
    assert "the rest is other" in page
    assert len(page) < 5_000_000


def test_a_page_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OSError):  # noqa: PT011
        write_page(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_recordings_and_windows_have_tables_of_their_own_that_say_how_they_are_scored(
    tmp_path: Path,
) -> None:
    page = write_page(tmp_path, windows=2)
    assert "per recording, with 95 % interval" in page
    assert "per window, with 95 % interval" in page
    assert "score is the highest of its windows" in page
    assert page.count("One of the top three is labelled") == 2
    assert "taken off again" in page
    one = write_page(tmp_path)
    assert "Each test recording is one window" in one
    assert "per window, with" not in one
    assert "precision" in page


def test_what_training_had_of_each_species_stands_beside_its_score(tmp_path: Path) -> None:
    page = write_page(tmp_path, species=12, test=60)
    assert page.count("<h2>What the training data had, and what it did to the scores</h2>") == 1
    assert "rank correlation" in page
    assert ">5.0 min, 2 groups<" in page
    assert "mean rating" not in page
    assert "nothing can be said about what the training data did" in write_page(tmp_path, species=4)


def test_what_training_cost_is_a_table_with_its_sum_and_the_rates_source(tmp_path: Path) -> None:
    spent = [billed("tune", 7200, 2400, 4), billed("train", 3600, 3600, interruptions=1)]
    page = write_page(tmp_path, spent=spent)
    assert page.count("<h2>What it cost</h2>") == 1
    table = page[page.index('<table id="cost"') :]
    rows = table[: table.index("</table>")].split("<tr>")[2:]
    assert [re.findall(r"<td[^>]*>([^<]*)</td>", row)[-1] for row in rows] == [
        "1.35",
        "2.03",
        "3.38",
    ]
    assert "Source: a price list, https://prices.example/" in page
    page = write_page(tmp_path)
    assert '<table id="cost"' not in page
    assert "What the training cost is not known" in page


def test_a_figure_of_few_groups_claims_no_more_than_they_tell(tmp_path: Path) -> None:
    page = write_page(tmp_path, species=2, test=3)
    assert "belong to 3 groups" in page
    assert "too few to say whether network and baseline differ" in page


def test_the_picture_of_errors_tells_right_from_wrong_without_numbers(tmp_path: Path) -> None:
    page = write_page(tmp_path, species=4, test=40, skill=0.1)
    picture = next(
        part for part in page.split("<svg")[1:] if "all on the diagonal are right" in part
    )
    assert "var(--accent)" in picture
    assert "var(--second)" in picture
