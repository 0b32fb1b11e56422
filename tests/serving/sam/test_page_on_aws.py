"""The web page as it stands on AWS, in a real browser: the function sends it and answers it.

What CloudFront, S3 and SageMaker do is stood in for by made_lambda, moto's server and birdsong's
own server.
"""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import made_lambda
import pytest
import soundfile
from made_bundles import RATE, TONES_HZ, tone
from made_lambda import Aws

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture
def page(aws: Aws, browser: "Browser") -> Iterator["Page"]:
    wrong: list[str] = []
    with made_lambda.front_door(aws.function.invoke) as address:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda message: wrong.append(message.text) if "Policy" in message.text else None,
        )
        page.goto(address)
        page.get_by_text("What is kept").wait_for()
        yield page
        context.close()
    assert wrong == []


def choose(page: "Page", wave: Any) -> None:
    data = io.BytesIO()
    soundfile.write(data, wave, RATE, format="FLAC")
    page.locator("#file").set_input_files(
        {"name": "früh.flac", "mimeType": "audio/flac", "buffer": data.getvalue()}
    )


def test_a_file_goes_to_the_bucket_is_heard_by_the_endpoint_and_forgotten(
    page: "Page", aws: Aws
) -> None:
    assert "deleted" in page.locator("#keeps").inner_text()
    choose(page, tone(TONES_HZ[0], 20))
    page.locator("#result").wait_for()
    row = page.locator(".row", has_text="Alder Flycatcher")
    assert row.locator("code").inner_text() == "aldfly"
    assert "version 7" in page.locator("#made").inner_text()
    assert len(aws.endpoint.seen) == 1
    assert aws.stored() == []


def test_an_endpoint_that_is_down_is_told_and_the_same_file_can_be_tried_again(
    page: "Page", aws: Aws
) -> None:
    aws.endpoint.fails(400, "ValidationError", "Endpoint birdsong-live of account 1 not found.")
    choose(page, tone(TONES_HZ[0], 20))
    alert = page.get_by_role("alert")
    alert.get_by_text("There is no model behind this page now").wait_for()
    aws.endpoint.works()
    page.get_by_role("button", name="Try again").click()
    page.locator("#result").wait_for()


def test_a_body_without_its_hash_does_not_pass_the_front_door(aws: Aws) -> None:
    sent = {"name": "a", "size": 9, "type": "audio/ogg"}
    with made_lambda.front_door(aws.function.invoke) as address:
        assert httpx.post(f"{address}/uploads", json=sent, trust_env=False).status_code == 403
