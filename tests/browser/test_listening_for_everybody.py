"""The web page for everybody: on a phone, with a screen reader, in light and dark."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from axe_playwright_python.sync_playwright import Axe
from made_listening import give, song, told, wav

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

Visited = Callable[..., "Page"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken_in_any_state(
    visited: Visited, listening: str, tmp_path: Path, scheme: str
) -> None:
    page = visited(listening, color_scheme=scheme)
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}

    def check() -> None:
        found = Axe().run(page, options=rules | {"resultTypes": ["violations"]})
        broken = [
            (rule["id"], [node["html"] for node in rule["nodes"]])
            for rule in found.response["violations"]
        ]
        assert broken == []

    check()
    give(page, "silent.wav", wav(7))
    told(page)
    check()
    page.locator("#file").set_input_files(song(tmp_path / "a.flac", 100, {7: 1000, 80: 2500}))
    page.locator("#result").wait_for()
    page.locator("summary").click()
    check()
    page.evaluate("document.querySelector('#recorder').hidden = false")
    page.evaluate("document.querySelector('#busy').hidden = false")
    check()


def test_a_phone_never_scrolls_sideways(visited: Visited, listening: str, tmp_path: Path) -> None:
    size = {"width": 360, "height": 740}
    page = visited(listening, viewport=size, has_touch=True, is_mobile=True)

    def narrow() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360

    narrow()
    give(page, "a-name-without-a-place-to-break-" * 6 + ".wav", wav(7))
    told(page)
    narrow()
    name = "ein_sehr_langer_name_" * 8 + ".flac"
    page.locator("#file").set_input_files(song(tmp_path / name, 100, {7: 1000, 80: 2500}))
    page.locator("#result").wait_for()
    page.locator("summary").tap()
    narrow()
    for button in page.get_by_role("button").all():
        box = button.bounding_box()
        if button.is_visible() and "mark" not in (button.get_attribute("class") or ""):
            assert box is not None
            assert min(box["width"], box["height"]) >= 32, button.inner_text()
    # What is not shown now is heard all the same, and shown then.
    page.locator(".row", has_text="Barn | Swallow").locator(".best").tap()
    page.locator("#play", has_text="Pause").wait_for()
    plot = page.locator("#plot").bounding_box()
    assert plot is not None
    assert plot["width"] > 300


def test_a_screen_reader_finds_names_roles_and_news(
    visited: Visited, listening: str, tmp_path: Path
) -> None:
    page = visited(listening)
    page.locator("#file").set_input_files(song(tmp_path / "a.flac", 12, {2: 1000}))
    page.locator("#result").wait_for()
    tree = page.locator("main").aria_snapshot()
    for line in (
        'heading "a.flac" [level=2]',
        'slider "Position in the recording"',
        'list "Species that are heard"',
        'button "Hear Alder Flycatcher where it is most probable, ',
        'button "Hear Alder Flycatcher, ',
        'button "Save as CSV"',
    ):
        assert line in tree, tree
    status = page.get_by_role("status")
    assert "One species is heard in 12 s" in status.inner_text()
    assert "Alder Flycatcher" in status.inner_text()
    value = page.locator("#plot").get_attribute("aria-valuetext")
    assert value == "0 s of 12 s"
