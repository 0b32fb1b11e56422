"""Recording by microphone, with one that plays a file: a tone goes in, a bird comes out."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
from made_bundles import tone
from made_listening import real_app, serving, told
from made_pages import CHROMIUM

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

Visited = Callable[..., "Page"]

REMEMBER = """
const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = (asked) => { window.asked = asked; return real(asked); };
"""


@pytest.fixture(scope="module")
def with_microphone(
    browser: "Browser", tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Browser"]:
    """Chromium that hears the second species in its microphone, again and again."""
    place = tmp_path_factory.mktemp("microphone") / "bird.wav"
    soundfile.write(place, tone(2500, 30, rate=48_000), 48_000, subtype="PCM_16")
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    flags += [f"--use-file-for-fake-audio-capture={place}", "--no-sandbox"]
    found = browser.browser_type.launch(executable_path=CHROMIUM, args=flags)
    yield found
    found.close()


def test_the_microphone_is_recorded_as_it_is_and_heard(
    visited: Visited, listening: str, with_microphone: "Browser", tmp_path: Path
) -> None:
    page = visited(listening, REMEMBER, with_microphone)
    page.get_by_role("button", name="Record").click()
    meter = page.get_by_role("meter")
    meter.wait_for()
    page.locator("#elapsed", has_text="0:02").wait_for()
    assert float(meter.get_attribute("aria-valuenow") or "nan") > -20
    assert page.evaluate("window.asked") == {
        "audio": {
            "channelCount": 1,
            "echoCancellation": False,
            "noiseSuppression": False,
            "autoGainControl": False,
        }
    }
    assert page.evaluate("document.activeElement.id") == "stop"
    page.keyboard.press("Enter")
    page.locator("#result").wait_for()
    assert page.locator(".row strong").all_inner_texts() == ["Barn | Swallow"]
    with page.expect_download() as download:
        page.get_by_role("link", name="Save the recording").click()
    kept = tmp_path / "kept.wav"
    download.value.save_as(kept)
    samples, rate = soundfile.read(kept)
    assert samples.ndim == 1
    assert soundfile.info(kept).subtype == "PCM_16"
    assert 1.5 < len(samples) / rate < 6
    power = np.abs(np.fft.rfft(samples[rate // 2 : rate // 2 + rate])) ** 2
    assert abs(int(power.argmax()) - 2500) <= 2
    assert download.value.suggested_filename.startswith("recording 20")


def test_a_recording_can_be_thrown_away_and_ends_at_the_servers_limit(
    visited: Visited, listening_bundle: Path, with_microphone: "Browser"
) -> None:
    with serving(real_app(listening_bundle, largest_bytes=150_000)) as address:
        page = visited(address, by=with_microphone)
        page.get_by_role("button", name="Record").click()
        page.get_by_role("button", name="Discard").click()
        page.locator("#recorder").wait_for(state="hidden")
        assert page.locator("#result").is_hidden()
        page.get_by_role("button", name="Record").click()
        page.locator("#result").wait_for()
        assert "ended at the length" in page.locator("#summary").inner_text()


def test_a_recording_whose_server_is_gone_is_kept_to_save_or_send_later(
    visited: Visited, listening: str, with_microphone: "Browser"
) -> None:
    page = visited(listening, by=with_microphone)
    page.get_by_role("button", name="Record", exact=True).click()
    page.locator("#elapsed", has_text="0:01").wait_for()
    page.route("**/invocations*", lambda route: route.abort())
    page.get_by_role("button", name="Stop and listen").click()
    assert "The server does not answer" in told(page)
    with page.expect_download() as download:
        page.locator("#problem").get_by_role("link", name="Save the recording").click()
    assert soundfile.info(download.value.path()).duration > 0.5
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    page.locator("#result").wait_for()


def test_a_microphone_that_is_refused_or_absent_is_told_in_words(
    visited: Visited, listening: str
) -> None:
    page = visited(
        listening,
        "navigator.mediaDevices.getUserMedia = async () => {"
        " throw new DOMException('of the test', window.refusal); };",
    )
    for error, words in (
        ("NotAllowedError", "The microphone was refused"),
        ("NotFoundError", "There is no microphone"),
        ("NotReadableError", "Another program may hold it"),
        ("OverconstrainedError", "The browser says: of the test"),
    ):
        page.evaluate("(name) => { window.refusal = name; }", error)
        page.get_by_role("button", name="Record", exact=True).click()
        page.get_by_role("alert").get_by_text(words).wait_for()
        assert words in told(page)
        assert page.get_by_role("button", name="Record", exact=True).is_enabled()


def test_the_browsers_own_refusal_and_a_page_without_https_are_told(
    visited: Visited, listening: str
) -> None:
    page = visited(listening)
    page.get_by_role("button", name="Record").click()
    assert "microphone" in told(page)
    page = visited(
        listening,
        "Object.defineProperty(navigator, 'mediaDevices', {value: undefined});"
        "Object.defineProperty(window, 'isSecureContext', {value: false});",
    )
    page.get_by_role("button", name="Record").click()
    assert "only to pages under https or on localhost" in told(page)


def test_a_microphone_that_gives_nothing_is_told_while_it_records(
    visited: Visited, listening: str, with_microphone: "Browser"
) -> None:
    muted = (
        "navigator.mediaDevices.getUserMedia = async () => {"
        " const context = new AudioContext(), out = context.createMediaStreamDestination();"
        " return out.stream; };"
    )
    page = visited(listening, muted, with_microphone)
    page.get_by_role("button", name="Record").click()
    page.get_by_text("Nothing comes from the microphone").wait_for()
    page.get_by_role("button", name="Stop and listen").click()
    assert "silent" in told(page)
