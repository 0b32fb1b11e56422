"""What records and artifacts hold, and what other pages try, does no harm in a real browser."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from made_pages import served
from made_runs import make_run

from birdsong.runs.record import State, list_runs

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

_PRESS = """async ([ours, run]) => {
  const told = [], read = (answer) => answer.text();
  const note = (text) => told.push(text), refused = () => told.push("refused");
  for (const mode of ["cors", "no-cors"]) {
    const kind = {"content-type": mode === "cors" ? "application/json" : "text/plain"};
    const body = JSON.stringify({run});
    await fetch(`${ours}/api/cancel`, {method: "POST", mode, body, headers: kind})
      .then((answer) => told.push(answer.type), refused);
    await fetch(`${ours}/api/runs`, {mode}).then(read).then(note, refused);
  }
  return told;
}"""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def address(runs: Path) -> Iterator[str]:
    with served(runs) as found:
        yield found


def test_without_its_token_the_page_shows_no_buttons(
    browser: "Browser", address: str, runs: Path
) -> None:
    make_run(runs, State.RUNNING)
    context = browser.new_context()
    page = context.new_page()
    page.goto(address.split("#")[0])
    page.locator(".run .name").click()
    page.locator(".node.step").first.wait_for()
    assert page.locator('[data-key="cancel"]').count() == 0
    context.close()


def test_markup_in_records_stays_text_and_pages_of_artifacts_cannot_reach_out(
    browser: "Browser", address: str, runs: Path
) -> None:
    run = make_run(runs, source="<img src=x onerror=window.hurt=1>")
    (run.folder / "artifacts/train/page").write_text(
        "<!doctype html><p id=a></p><script>try { a.textContent = parent.document.title }"
        " catch { a.textContent = 'kept out' }; fetch('/api/runs').catch(() => {"
        " a.textContent += ', no network' })</script>"
    )
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    page.locator(".run .name").click()
    page.locator('[data-key="artifact:train:page"]').click()
    page.frame_locator("iframe.page").get_by_text("kept out, no network").wait_for()
    assert "<img" in page.locator(".facts").inner_text()
    assert page.evaluate("window.hurt ?? null") is None
    context.close()


def test_markup_in_names_metrics_errors_and_logs_stays_text(
    browser: "Browser", address: str, runs: Path
) -> None:
    hurt = "<img src=x onerror=window.hurt=1>"
    run = make_run(runs, failing="train", note=hurt, **{hurt: hurt})
    (run.folder / "logs/train.log").write_text(hurt)
    place = run.folder / "run.json"
    document = json.loads(place.read_text())
    document |= {"error": hurt, "note": hurt, "command": [hurt], "parent": hurt}
    for step in document["steps"]:
        step |= {"metrics": {hurt: 1.0}, "error": hurt if step["name"] == "train" else None}
        step["inputs"][hurt] = {"type": hurt, "value": hurt}
        step["outputs"][hurt] = {"type": "system." + hurt, "uri": hurt, "metadata": {hurt: hurt}}
    document["headline"] |= {"error": hurt, "note": hurt, "source": hurt, "parent": hurt}
    text = json.dumps(document, indent=1) + "\n"
    place.write_text(text.replace('"ingest"', json.dumps(hurt)))
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    page.locator(".run .name").wait_for()
    views = ["", "/timeline", "/settings", "/lineage", "/graph/step:train"]
    for view in [f"#/run/{run.id}{view}" for view in views] + [f"#/compare/{run.id},{run.id}"]:
        page.evaluate(f"location.hash = {json.dumps(view)}")
        page.wait_for_timeout(400)
        assert "<img" in page.locator("main").inner_text()
    page.evaluate(f"location.hash = '#/run/{run.id}/graph/step:train'")
    page.get_by_role("tab", name="Log").click()
    page.locator(".log", has_text="<img").wait_for()
    page.get_by_role("tab", name="Outputs").click()
    page.wait_for_timeout(300)
    assert page.evaluate("window.hurt ?? null") is None
    assert page.locator("main img").count() == 0
    context.close()


def test_another_page_can_neither_press_a_button_nor_read_a_run(
    browser: "Browser", address: str, runs: Path
) -> None:
    run = make_run(runs, State.RUNNING)
    port = re.search(r":(\d+)/", address)
    assert port is not None
    context = browser.new_context()
    page = context.new_page()
    ours = f"http://127.0.0.1:{port[1]}"
    context.route("http://other.test/", lambda route: route.fulfill(body="<p>other"))
    page.goto("http://other.test/")
    told = page.evaluate(_PRESS, [ours, run.id])
    assert not any(run.id in text for text in told), told
    # The same name for both, as after DNS rebinding: the browser sees one origin.
    page.goto(f"http://evil.test:{port[1]}/")
    assert "does not go by that name" in page.locator("body").inner_text()
    told = page.evaluate(_PRESS, [f"http://evil.test:{port[1]}", run.id])
    assert not any(run.id in text for text in told), told
    # This very process is the engine of the record: it would have got SIGTERM.
    assert list_runs(runs)[0].state == State.RUNNING
    context.close()
