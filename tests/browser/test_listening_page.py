"""The web page in a real browser, before the real server: from a recording to what is heard."""

import base64
import csv
import hashlib
import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import soundfile
from made_bundles import RATE
from made_listening import bucket_app, real_app, serving, song

from birdsong import detections

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

Visited = Callable[..., "Page"]

SHADE = """([seconds, kilohertz]) => {
  const canvas = document.querySelector("#plot canvas");
  const mel = (hertz) => Math.log10(1 + hertz / 700), low = mel(200);
  const up = (mel(1000 * kilohertz) - low) / (mel(11025) - low);
  const whole = Number(document.querySelector("#plot").getAttribute("aria-valuemax"));
  const x = Math.round(seconds / whole * canvas.width), y = Math.round((1 - up) * canvas.height);
  const part = canvas.getContext("2d").getImageData(x - 2, y - 2, 5, 5).data;
  return Math.min(...[...part].filter((_, i) => i % 4 === 1));
}"""
"""The darkest green of the picture around a moment and a frequency, 0 to 255."""

DROP = """([name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], name, {type: "audio/flac"}));
  for (const kind of ["dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: carried, bubbles: true}));
  }
}"""


@pytest.fixture(scope="module")
def minute(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 s: the first species at 7 and 32 s, the second at 21 s."""
    place = tmp_path_factory.mktemp("songs") / "minute.flac"
    return song(place, 48, {7: 1000, 21: 2500, 32: 1000})


def choose(page: "Page", file: Path | dict[str, Any]) -> None:
    page.locator("#file").set_input_files(file)
    page.locator("#result").wait_for()


def moment(page: "Page") -> float:
    return float(page.locator("#plot").get_attribute("aria-valuenow") or "nan")


def moment_after(page: "Page", seconds: float) -> None:
    page.wait_for_function(
        "(least) => Number(document.querySelector('#plot').getAttribute('aria-valuenow')) >= least",
        arg=seconds,
    )


def playing(page: "Page", does: bool) -> None:
    page.locator("#play", has_text="Pause" if does else "Play").wait_for()


def test_a_chosen_file_is_drawn_and_its_species_stand_on_the_time_line(
    visited: Visited, listening: str, minute: Path
) -> None:
    page = visited(listening)
    choose(page, minute)
    assert "2 species are heard in 48 s" in page.locator("#summary").inner_text()
    first = page.locator(".row", has_text="Alder Flycatcher")
    assert first.locator("i").inner_text() == "Empidonax alnorum"
    assert first.locator("code").inner_text() == "aldfly"
    answer = httpx.post(f"{listening}invocations", content=minute.read_bytes()).json()
    shares = {one["code"]: one["probability"] for one in answer["windows"][0]["detections"]}
    assert first.locator(".best").inner_text() == f"▶ {round(100 * shares['aldfly'])} %"
    # The picture: dark where the tones are, and nowhere else.
    page.locator("#plot[data-drawn]").wait_for()
    page.wait_for_timeout(100)
    for seconds, kilohertz in ((9, 1), (23, 2.5), (34, 1)):
        assert page.evaluate(SHADE, [seconds, kilohertz]) < 80
    for seconds, kilohertz in ((9, 2.5), (15, 1), (23, 1), (34, 5)):
        assert page.evaluate(SHADE, [seconds, kilohertz]) > 150
    # The button of the frame that decided stands below that moment.
    mark = first.locator(".mark")
    box, plot = mark.bounding_box(), page.locator("#plot").bounding_box()
    assert box is not None
    assert plot is not None
    start = (box["x"] - plot["x"]) / plot["width"] * 48
    told = answer["windows"][0]["detections"]
    (expected,) = [one["frame_start_seconds"] for one in told if one["code"] == "aldfly"]
    assert start == pytest.approx(expected, abs=0.2)
    assert "version 7" in page.locator("#made").inner_text()
    assert "Nothing" in page.locator("#keeps").inner_text()


def test_a_dropped_file_is_listened_to_the_same(
    visited: Visited, listening: str, minute: Path
) -> None:
    page = visited(listening)
    page.evaluate(DROP, ["dropped.flac", base64.b64encode(minute.read_bytes()).decode()])
    page.get_by_role("heading", name="dropped.flac").wait_for()
    assert page.locator(".row").count() == 2
    page.evaluate(
        "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: new DataTransfer(),"
        " bubbles: true}))"
    )
    page.get_by_role("alert").get_by_text("That is no file").wait_for()


def test_a_click_or_enter_on_a_moment_plays_it_and_stops_at_its_end(
    visited: Visited, listening: str, minute: Path
) -> None:
    page = visited(listening)
    choose(page, minute)
    mark = page.locator(".row", has_text="Barn | Swallow").locator(".mark")
    mark.click()
    moment_after(page, 20.2)
    playing(page, False)
    assert moment(page) == pytest.approx(25, abs=0.3)
    mark.press("Enter")
    playing(page, True)
    page.locator("#play").click()
    playing(page, False)
    assert 20 <= moment(page) < 25
    # A click into the picture goes there.
    page.locator("#plot").click(position={"x": 400, "y": 50})
    width = page.locator("#plot").evaluate("plot => plot.clientWidth")
    assert moment(page) == pytest.approx(48 * 400 / width, abs=0.2)


def test_all_of_it_works_by_keyboard_alone(visited: Visited, listening: str, minute: Path) -> None:
    page = visited(listening)
    # Long before it opens: Playwright does not wait until Chromium has heard that it shall tell.
    page.on("filechooser", lambda chooser: chooser.set_files(minute))

    def tab_to(what: str) -> None:
        for _ in range(30):
            if page.evaluate("(what) => document.activeElement.matches(what)", what):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not come to {what}")

    tab_to("#choose")
    page.keyboard.press("Enter")
    page.locator("#result").wait_for()
    tab_to("#plot")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert moment(page) == pytest.approx(6, abs=0.1)
    page.keyboard.press("Space")
    moment_after(page, 6.3)
    page.keyboard.press("Space")
    playing(page, False)
    page.keyboard.press("End")
    assert moment(page) == pytest.approx(48, abs=0.1)
    page.keyboard.press("+")
    page.get_by_role("button", name="Whole").wait_for()
    page.locator("#overview").wait_for()  # drawn with the next frame
    page.keyboard.press("0")
    page.locator("#overview").wait_for(state="hidden")
    tab_to(".mark")
    told = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert re.fullmatch(r"Hear .+, \d+ %, at 0:\d\d to 0:\d\d", told)
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") != told
    page.keyboard.press("Enter")
    playing(page, True)
    tab_to("#csv")
    with page.expect_download():
        page.keyboard.press("Enter")
    tab_to("summary")
    page.keyboard.press("Enter")
    tab_to("#scores button")
    assert page.locator("#scores tbody tr").count() == 3


def test_a_long_recording_is_scrolled_through_and_each_window_has_its_own_decision(
    visited: Visited, listening: str, tmp_path: Path
) -> None:
    tones = {30.0: 1000.0, 90.0: 2500.0, 150.0: 1000.0, 230.0: 4500.0}
    file = song(tmp_path / "long.ogg", 240, tones)
    page = visited(listening)
    choose(page, file)
    assert "over 4 windows" in page.locator("#summary").inner_text()
    page.locator("#overview").wait_for()  # drawn with the next frame
    assert page.locator("#plot").get_attribute("aria-valuemax") == "240"
    marks = page.locator(".row", has_text="Alder Flycatcher").locator(".mark")
    assert marks.count() == 2
    # Only the first minute is shown; going to a moment turns the page to it.
    tick = page.locator("#axis span").first
    assert tick.inner_text() == "0:00"
    marks.first.focus()
    page.keyboard.press("ArrowRight")
    page.locator("#axis", has_text="2:30").wait_for()
    assert tick.inner_text() != "0:00"
    page.keyboard.press("Enter")
    moment_after(page, 150)
    page.locator("#playhead").wait_for()
    page.locator("#plot[data-drawn]").wait_for()
    page.get_by_role("button", name="Whole").click()
    page.locator("#overview").wait_for(state="hidden")
    plot = page.locator("#plot").bounding_box()
    assert plot is not None
    wanted = [row.bounding_box() for row in page.locator(".mark").all()]
    assert all(box and plot["x"] - 4 <= box["x"] < plot["x"] + plot["width"] for box in wanted)
    page.locator("#plot").hover(position={"x": 500, "y": 40})
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    page.locator("#overview").wait_for()
    page.locator("#axis", has_text="2:15").wait_for()
    page.locator("#overview").click(position={"x": 5, "y": 5})
    page.locator("#axis", has_text="0:00").wait_for()


def test_saved_tables_are_those_of_predict_and_equal_the_answer(
    visited: Visited, listening: str, tmp_path: Path
) -> None:
    file = song(tmp_path / 'a "quoted", name.wav', 70, {7: 1000, 21: 2500, 62: 1000})
    answer = httpx.post(f"{listening}invocations", content=file.read_bytes()).json()
    rows = []
    for window in answer["windows"]:
        end = window["start_seconds"] + window["seconds"]
        for one in window["detections"]:
            start = one["frame_start_seconds"]
            names = ("code", "common_name", "scientific_name", "threshold")
            rows.append(
                {"file": file.name, "start_seconds": start}
                | {"end_seconds": round(min(start + 5, end), 3)}
                | {name: one[name] for name in names}
                | {name: round(one[name], 6) for name in ("score", "probability")}
                | {"window_start_seconds": window["start_seconds"]}
                | {"window_end_seconds": round(end, 3)}
            )
    assert len(rows) == 3
    page = visited(listening)
    choose(page, file)
    for button, kind, ending in (("CSV", "csv", "csv"), ("Raven", "raven", "selections.txt")):
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        assert download.value.suggested_filename.endswith(f".{ending}")
        ours = tmp_path / f"ours.{kind}"
        detections.write(ours, detections.Format(kind), [(file.name, rows)], RATE / 2)
        split = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == "raven" else {}
        there = Path(download.value.path()).read_text(encoding="utf-8")
        found = [list(csv.reader(io.StringIO(text), **split)) for text in (there, ours.read_text())]
        assert [_parsed(line) for line in found[0]] == [_parsed(line) for line in found[1]]
        assert len(found[0]) == 4


def _parsed(cells: list[str]) -> list[str | float]:
    return [float(cell) if re.fullmatch(r"-?[\d.]+", cell) else cell for cell in cells]


@pytest.mark.parametrize("name", ["wav", "mp3", "ogg"])
def test_common_formats_are_played_drawn_and_heard(
    visited: Visited, listening: str, tmp_path: Path, name: str
) -> None:
    file = song(tmp_path / f"song.{name}", 9, {2: 4500})
    page = visited(listening)
    choose(page, file)
    assert page.locator(".row strong").all_inner_texts() == ["Zistensänger"]
    page.locator("#plot[data-drawn]").wait_for()
    page.locator("#play").click()
    moment_after(page, 0.3)


def test_what_only_the_browser_can_decode_goes_to_the_server_as_wav(
    visited: Visited, listening: str, minute: Path
) -> None:
    page = visited(listening)
    types = []

    def answer(route: Any) -> None:
        types.append(route.request.headers["content-type"])
        if len(types) == 1:
            told = {"code": "unreadable", "detail": "It is of a format that is not known here."}
            route.fulfill(status=422, json=told)
        else:
            route.continue_()

    page.route("**/invocations*", answer)
    choose(page, minute)
    assert "your browser turned it into WAV" in page.locator("#summary").inner_text()
    assert types == ["audio/flac", "audio/wav"]
    assert page.locator(".row").count() == 2


def test_a_recording_without_birds_says_so_and_names_the_closest(
    visited: Visited, listening: str, tmp_path: Path
) -> None:
    page = visited(listening)
    choose(page, song(tmp_path / "quiet.wav", 12, {}))
    told = page.locator("#summary").inner_text()
    assert "No species is heard" in told
    assert "The closest is" in told
    assert page.locator(".row").count() == 0
    assert page.get_by_role("button", name="Save as CSV").is_disabled()


def test_sending_shows_how_far_it_is_and_can_be_cancelled(
    visited: Visited, listening: str, minute: Path
) -> None:
    page = visited(listening)
    held: list[Any] = []
    page.route("**/invocations*", lambda route: held.append(route))
    page.locator("#file").set_input_files(minute)
    page.get_by_role("progressbar").wait_for()
    assert minute.name in page.locator("#share").inner_text()
    page.get_by_role("button", name="Cancel").click()
    page.locator("#busy").wait_for(state="hidden")
    assert page.locator("#said").inner_text() == "Cancelled."
    assert page.locator("#result").is_hidden()
    page.unroute_all(behavior="ignoreErrors")
    choose(page, minute)


def test_a_second_recording_takes_the_place_of_the_first_even_while_that_is_sent(
    visited: Visited, listening: str, minute: Path, tmp_path: Path
) -> None:
    page = visited(listening)
    waiting: list[Any] = []
    page.route("**/invocations*", lambda route: waiting.append(route))
    page.locator("#file").set_input_files(minute)
    page.get_by_role("progressbar").wait_for()
    page.unroute_all(behavior="ignoreErrors")
    choose(page, song(tmp_path / "second.wav", 9, {2: 4500}))
    assert page.locator("#name").inner_text() == "second.wav"
    assert page.locator(".row strong").all_inner_texts() == ["Zistensänger"]
    page.wait_for_timeout(300)
    assert page.locator("#name").inner_text() == "second.wav"


def test_it_works_below_any_path(visited: Visited, listening_bundle: Path, minute: Path) -> None:
    from fastapi import FastAPI

    outer = FastAPI()
    inner = real_app(listening_bundle)
    outer.mount("/some/birds", inner)
    with serving(outer) as address:
        page = visited(f"{address}some/birds/")
        choose(page, minute)
        page.locator("#plot[data-drawn]").wait_for()
        assert page.locator(".row").count() == 2
    inner.state.listener.close()  # which a mounted application is not told


def test_before_a_bucket_the_file_goes_there_by_its_signed_form(
    visited: Visited, listening: str, minute: Path
) -> None:
    data = minute.read_bytes()
    answer = httpx.post(f"{listening}invocations?scores=frames", content=data).json()
    app = bucket_app(answer)
    with serving(app) as address:
        page = visited(address)
        assert "15 minutes" in page.locator("#limits").inner_text()
        choose(page, minute)
        assert page.locator(".row").count() == 2
        assert "deleted" in page.locator("#keeps").inner_text()
    (asked, stored, listened) = app.state.came
    assert [part[0] for part in app.state.came] == ["uploads", "bucket", "listen"]
    for _, headers, body in (asked, listened):
        # CloudFront signs a body for a function by this header alone.
        assert headers["x-amz-content-sha256"] == hashlib.sha256(body).hexdigest()
    assert f'"size":{len(data)}'.encode() in asked[2]
    # S3 reads no field that comes after the file.
    fields = re.findall(rb'; name="([^"]+)"', stored[2])
    assert fields == [b"key", b"policy", b"x-amz-signature", b"file"]
    assert data in stored[2]
    assert listened[2] == b'{"key":"uploads/1"}'


def test_a_bucket_that_refuses_is_told_in_words(visited: Visited, minute: Path) -> None:
    with serving(bucket_app({}, status=400)) as address:
        page = visited(address)
        page.locator("#file").set_input_files(minute)
        page.get_by_role("alert").get_by_text("The recording is too large").wait_for()


def test_waiting_is_seen_while_the_server_listens(
    visited: Visited, listening: str, minute: Path
) -> None:
    page = visited(listening)

    def late(route: Any) -> None:
        time.sleep(0.5)
        route.continue_()

    page.route("**/invocations*", late)
    page.locator("#file").set_input_files(minute)
    page.locator("#phase", has_text=re.compile("Sending|Listening")).wait_for()
    page.locator("#result").wait_for()
    assert "2 species are heard" in page.locator("#said").inner_text()
    assert soundfile.info(minute).duration == 48
