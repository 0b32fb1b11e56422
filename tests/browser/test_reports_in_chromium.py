"""The report and the page of a search in a real browser: sort, filter, player, dark and narrow."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from made_costs import billed
from made_reports import write_page

from birdsong import search_page, search_space
from birdsong.config import Hyperparameters, TrainConfig, TuneConfig

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

Opened = Callable[..., "Page"]

_LIGHTNESS = """(element, name) => {
  const [r, g, b] = getComputedStyle(element)[name].match(/[\\d.]+/g).map(Number);
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}"""


@pytest.fixture
def opened(browser: "Browser") -> Iterator[Opened]:
    """Opens a file; nothing may be fetched and no script may fail."""
    contexts, problems = [], []

    def open_file(file: Path, width: int = 1280, scheme: Any = "light") -> "Page":
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith(("file:", "data:")) else problems.append(request.url)
            ),
        )
        page.goto(file.as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    spent = [billed("tune", 7200, 2400, 4), billed("train", 3600, 3600)]
    write_page(place, species=14, test=60, errors=2, skill=0.3, spent=spent)
    return place / "report.html"


def column(page: "Page", table: str, number: int) -> list[str]:
    cells = page.locator(f"#{table} tbody tr:visible td:nth-child({number})")
    found: list[str] = cells.evaluate_all(
        "cells => cells.map(cell => (cell.querySelector('[data-sort]')?.dataset.sort"
        " ?? cell.textContent).trim())"
    )
    return found


def test_species_sort_by_number_both_ways_by_mouse_and_keyboard(
    report: Path, opened: Opened
) -> None:
    page = opened(report)
    head = page.locator("#species th").filter(has_text="AUC, network")
    before = column(page, "species", 6)
    head.click()
    rising = column(page, "species", 6)
    assert rising == sorted(before, key=float)
    assert rising != before
    assert head.get_attribute("aria-sort") == "ascending"
    head.press("Enter")
    assert column(page, "species", 6) == rising[::-1]
    page.locator("#species th").first.click()
    names = column(page, "species", 1)
    assert names == sorted(names)
    assert head.get_attribute("aria-sort") is None


def test_the_filter_leaves_the_species_that_are_typed(report: Path, opened: Opened) -> None:
    page = opened(report)
    field = page.get_by_label("Find a species")
    field.fill("BIRD S13")
    assert len(column(page, "species", 1)) == 1
    field.fill("nothing like it")
    assert column(page, "species", 1) == []
    field.fill("")
    assert len(column(page, "species", 1)) == 14


def test_the_player_of_an_error_plays(report: Path, opened: Opened) -> None:
    page = opened(report)
    players = page.locator(".error audio")
    assert players.count() == 2
    played, length = players.nth(1).evaluate(
        "async (player) => { player.muted = true; await player.play();"
        " await new Promise((done) => setTimeout(done, 400));"
        " return [player.currentTime, player.duration]; }"
    )
    assert played > 0.1
    assert length == pytest.approx(1.1, abs=0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_pictures_stand_out_in_light_and_dark(
    report: Path, opened: Opened, scheme: str
) -> None:
    page = opened(report, scheme=scheme)
    back = page.locator("body").evaluate(_LIGHTNESS, "backgroundColor")
    assert (back > 0.9) if scheme == "light" else (back < 0.2)
    for words, what in (("body", "color"), ("svg text", "fill"), (".card span", "color")):
        ink = page.locator(words).first.evaluate(_LIGHTNESS, what)
        assert abs(ink - back) > 0.4, words


def test_a_phone_scrolls_tables_and_not_the_page(report: Path, opened: Opened) -> None:
    page = opened(report, width=400)
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]
    table = page.locator("#species").evaluate("table => table.parentElement.scrollWidth")
    assert table > 400


def test_trials_sort_and_those_without_a_value_stand_last(tmp_path: Path, opened: Opened) -> None:
    space = search_space.parse("")
    values = space.start(Hyperparameters(), TrainConfig())
    heights = [0.4, 0.9, None, 0.65]
    trials = [
        {
            "number": number,
            "state": "failed" if height is None else "complete",
            "error": "the loss is nan" if height is None else "",
            "accuracy": height,
            "by_epoch": [] if height is None else [height / 2, height],
            "values": values,
            "seconds": 1.0,
        }
        for number, height in enumerate(heights)
    ]
    search_page.write(
        tmp_path / "trials.html", values, trials, space.dimensions, None, TuneConfig(trials=4)
    )
    page = opened(tmp_path / "trials.html", width=400, scheme="dark")
    head = page.locator("#trials th").filter(has_text="best accuracy")
    head.click()
    assert column(page, "trials", 3) == ["0.400", "0.650", "0.900", "-"]
    head.click()
    assert column(page, "trials", 3) == ["0.900", "0.650", "0.400", "-"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
