"""What goes wrong is told in words that help; and nothing that comes in does harm on the page."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from made_listening import LARGEST, bucket_app, give, real_app, serving, told, wav

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

Visited = Callable[..., "Page"]

HURT = "<img src=x onerror=window.hurt=1>"


def test_a_file_that_is_too_large_is_told_before_anything_is_sent(
    visited: Visited, listening: str
) -> None:
    page = visited(listening)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    give(page, "large.wav", b"\0" * (LARGEST + 1))
    words = told(page)
    assert "too large" in words
    assert "large.wav has 4 MiB, the server takes up to 4 MiB" in words
    assert "POST" not in sent
    assert page.get_by_role("button", name="Try again").count() == 0


def test_what_cannot_be_heard_is_refused_with_its_reason_and_the_next_file_works(
    visited: Visited, listening: str
) -> None:
    page = visited(listening)
    for name, data, title in (
        ("empty.wav", b"", "The file is empty"),
        ("letter.txt", b"Dear birds, " * 200, "cannot be read as a recording"),
        ("picture.wav", b"\x89PNG\r\n\x1a\n" + bytes(2000), "cannot be read as a recording"),
        ("cut.flac", b"fLaC\0\0\0", "cannot be read as a recording"),
        ("silent.wav", wav(7), "The recording is silent"),
    ):
        give(page, name, data, "text/plain" if name.endswith("txt") else "audio/wav")
        words = told(page)
        assert title in words
        assert len(words) > len(title) + 20
        give(page, "good.wav", wav(6, 1000))
        page.locator("#result").wait_for()
        assert page.locator("#problem").is_hidden()


def test_a_server_that_is_down_is_told_and_found_again_when_it_is_back(
    visited: Visited, listening_bundle: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    app = real_app(listening_bundle)
    with serving(app, port) as address:
        page = visited(address)
    give(page, "song.wav", wav(6, 1000))
    words = told(page)
    assert "The server does not answer" in words
    assert "still here" in words
    again = page.get_by_role("button", name="Try again")
    again.click()
    assert "The server does not answer" in told(page)
    with serving(real_app(listening_bundle), port):
        again.click()
        page.locator("#result").wait_for()
        assert page.locator(".row").count() == 1


def test_a_page_whose_server_went_before_its_settings_came_waits_for_it(
    visited: Visited, listening: str
) -> None:
    page = visited(listening)
    page.route("**/settings", lambda route: route.abort())
    page.reload()
    page.locator("#down", has_text="The server does not answer").wait_for()
    page.unroute_all()
    page.locator("#down").get_by_role("button", name="Try again").click()
    page.locator("#down").wait_for(state="hidden")
    page.get_by_text("What is kept").wait_for()
    assert page.locator("#said").inner_text() == "The server answers again."


def test_without_a_network_it_says_that_this_device_is_offline(
    visited: Visited, listening: str
) -> None:
    page = visited(listening)
    page.context.set_offline(True)
    give(page, "song.wav", wav(6, 1000))
    assert "This device is offline" in told(page)
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    page.locator("#result").wait_for()


def test_whatever_stands_between_answers_it_becomes_a_sentence_and_a_way_on(
    visited: Visited, listening: str
) -> None:
    page = visited(listening)
    later = {"Retry-After": "7"}
    for status, headers, body, words in (
        (503, later, '{"detail": "The queue is full."}', "queue is full. Try again in 7 seconds"),
        (502, {}, "<html>Bad gateway</html>", "The server failed"),
        (500, {}, '{"detail": "Its log says why."}', "Its log says why."),
        (429, {}, '{"message": "Too Many Requests"}', "Too Many Requests"),
        (403, {}, "", "was refused"),
        (200, {}, "<p>a captive portal", "cannot be read"),
        (200, {}, "{}", "cannot be read"),
        (200, {}, "null", "cannot be read"),
    ):
        answer = {"status": status, "headers": headers, "body": body}
        page.route("**/invocations*", lambda route, _, told=answer: route.fulfill(**told))
        give(page, "song.wav", wav(6, 1000))
        assert words in told(page)
        page.unroute_all()
        page.get_by_role("button", name="Try again").click()
        page.locator("#result").wait_for()


def test_hostile_names_of_files_and_species_stay_text(visited: Visited) -> None:
    species = {"code": HURT, "common_name": HURT, "scientific_name": HURT, "threshold": 0.5}
    heard = species | {"score": 0.9, "probability": 0.9, "frame_start_seconds": 0.0}
    window = {"start_seconds": 0.0, "seconds": 6.0, "detections": [heard]}
    window["frame_scores"] = {HURT: [0.9, 0.1], "__proto__": [0.2, 0.1]}
    answer = {"model": HURT, "version": HURT, "bundle_sha256": HURT, "runtime": HURT}
    answer |= {"seconds": 1.0, "highest_hz": 11025, "windows": [window], "species": [species]}
    with serving(bucket_app(answer)) as address:
        page = visited(address)
        give(page, f"{HURT}\u202egnp.wav", wav(6, 1000))
        page.locator("#result").wait_for()
        page.locator("summary").click()
        page.locator("#scores tbody tr").first.wait_for()
        assert HURT in page.locator("#name").inner_text()
        assert HURT in page.locator("#made").inner_text()
        assert HURT in page.locator(".row strong").inner_text()
        with page.expect_download() as download:
            page.get_by_role("button", name="CSV").click()
        assert "/" not in download.value.suggested_filename
        page.route(
            "**/listen*", lambda route: route.fulfill(status=422, json={"code": "", "detail": HURT})
        )
        give(page, HURT, wav(6, 1000))
        assert HURT in told(page)
        assert page.evaluate("window.hurt ?? null") is None
        assert page.locator("img").count() == 0
