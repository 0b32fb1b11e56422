"""The page of runs in a real browser, over real runs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from made_pages import served
from made_runs import make_run

from birdsong.runs.record import Run, State, list_runs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
GATED = Path(__file__).with_name("gated_pipeline.py")
SMALL = ROOT / "tests/unit/runs/small_pipelines.py"

CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const found = rgb(getComputedStyle(one).backgroundColor);
      if (found[3] === 255) return found;
    }
    return rgb("Canvas");
  };
  const holdsText = (one) => [...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  const texts = [...document.querySelectorAll("main *, header *")]
    .filter((one) => one.offsetParent && !one.closest(":disabled") && holdsText(one));
  return texts.map((one) => {
    const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), one.textContent.slice(0, 40)];
  });
}"""
"""Contrast of each text on the page to what is behind it, as WCAG computes it."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def address(runs: Path) -> Iterator[str]:
    with served(runs) as found:
        yield found


@pytest.fixture
def page(browser: "Browser", address: str) -> Iterator["Page"]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(20_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: problems.append(message.text) if message.type == "error" else None,
    )
    page.goto(address)
    yield page
    context.close()
    # A stopped server, and a plan that is refused with words that the page shows.
    expected = ("ERR_CONNECTION", "409 (Conflict)")
    assert [text for text in problems if not any(part in text for part in expected)] == []


def start(name: str, runs: Path, arguments: str = "{}") -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(SMALL), name, str(runs), arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


def test_a_run_is_watched_from_its_start_to_its_end(
    page: "Page", runs: Path, tmp_path: Path
) -> None:
    page.get_by_text("No runs in").wait_for()
    command = [sys.executable, str(GATED), str(runs), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as child:
        page.locator(".run .name").click()
        page.locator(".node.step").first.wait_for()
        assert page.locator(".node.step").count() == 3
        held = page.locator('[data-key="step:hold"][data-state="RUNNING"]')
        held.wait_for(timeout=60_000)
        page.locator('[data-key="step:make"][data-state="SUCCEEDED"]').wait_for()
        assert page.locator('[data-key="step:last"]').get_attribute("data-state") == "PENDING"
        held.get_by_text("1/2").wait_for()
        held.click()
        page.get_by_role("tab", name="Log").click()
        page.locator(".log", has_text="progress wait 1/2 things").wait_for()
        (tmp_path / "go").touch()
        page.locator(".log", has_text="a wren is heard").wait_for()
        page.locator(".head .badge.SUCCEEDED").wait_for(timeout=60_000)
        assert page.locator('.node.step[data-state="SUCCEEDED"]').count() == 3
        assert child.wait(60) == 0
    page.get_by_role("tab", name="Details").click()
    page.keyboard.press("Escape")
    page.locator(".panel").wait_for(state="hidden")
    page.locator('[data-key="step:make"]').focus()
    page.keyboard.press("Enter")
    panel = page.locator(".panel")
    panel.get_by_role("heading", name="make").wait_for()
    assert "number" in panel.get_by_role("region", name="Metrics").inner_text()
    assert "song" in panel.get_by_role("region", name="Parameters").inner_text()
    page.get_by_role("tab", name="Outputs").click()
    frame = page.frame_locator("iframe.page")
    frame.get_by_text("a page").wait_for()
    assert page.locator("iframe.page").get_attribute("sandbox") == "allow-scripts"
    page.keyboard.press("Escape")
    panel.wait_for(state="hidden")
    page.wait_for_function("document.activeElement?.dataset.key === 'step:make'")
    page.keyboard.press("ArrowDown")
    key = page.evaluate("document.activeElement.dataset.key")
    assert key.startswith("artifact:make:")


def test_a_log_is_followed_while_its_step_works_and_searched(page: "Page", runs: Path) -> None:
    run = make_run(runs, State.RUNNING)
    page.locator(".run .name").click()
    page.locator('[data-key="step:train"]').click()
    page.get_by_role("tab", name="Log").click()
    log = page.locator(".log")
    page.get_by_text("über <b>bold</b>").wait_for()
    with (run.folder / "logs/train.log").open("a") as file:
        file.write("a wren is heard\n")
    page.get_by_text("a wren is heard").wait_for()
    page.get_by_label("Search the log").fill("WREN")
    page.locator("mark", has_text="wren").wait_for()
    assert "begins" not in log.inner_text()
    assert page.locator(".log b").count() == 0


def test_a_log_shows_the_steps_own_lines_and_kfps_when_asked(page: "Page", runs: Path) -> None:
    run = make_run(runs)
    executor = "[KFP Executor 2026-01-01 00:00:00,000 INFO]: "
    inputs = '{\n    "inputs": {\n        "a": {}\n    }\n}\n'
    (run.folder / "logs/train.log").write_text(
        f"{executor}Looking for it\n{executor}Got executor_input:\n{inputs}"
        f"a wren\n{executor}Wrote\n"
    )
    page.evaluate(f"location.hash = '#/run/{run.id}/graph/step:train'")
    page.get_by_role("tab", name="Log").click()
    log = page.locator(".log")
    page.locator(".log", has_text="a wren").wait_for()
    assert log.inner_text().strip() == "a wren"
    page.get_by_label("KFP's lines").check()
    page.locator(".log", has_text="inputs").wait_for()
    assert log.inner_text().count("KFP Executor") == 3


def test_a_failed_step_is_found_from_the_list(page: "Page", runs: Path) -> None:
    make_run(runs)
    with start("chain", runs, '{"how": "birdsong"}') as child:
        assert child.wait(60) == 1
    page.locator(".run.FAILED").wait_for()
    page.get_by_label("Search runs").fill("failed")
    page.locator(".run.SUCCEEDED").wait_for(state="detached")
    page.locator(".run.FAILED .name").click()
    page.get_by_role("link", name="Open read").click()
    page.locator(".panel .error", has_text="no birds").wait_for()
    assert page.locator('[data-key="step:last"]').get_attribute("data-state") == "SKIPPED"


def test_two_runs_are_compared_by_what_differs(page: "Page", runs: Path) -> None:
    make_run(runs, epochs=3)
    make_run(runs, epochs=5)
    page.locator(".run").nth(1).wait_for()
    for box in page.locator(".run input").all():
        box.check()
    page.get_by_role("button", name="Compare 2 runs").click()
    table = page.get_by_role("region", name="Parameters that differ")
    table.wait_for()
    assert table.locator("tbody tr").count() == 1
    assert "epochs" in table.inner_text()
    for table in page.locator("main table").all():
        heads = table.locator("thead a").all_inner_texts()
        assert sorted(heads) == sorted(run.id for run in list_runs(runs))
    metrics = page.get_by_role("region", name="Metrics")
    assert "accuracy" in metrics.inner_text()


def write_history(run: Run, losses: list[float]) -> None:
    """A model as train leaves it, with the curves of its epochs."""
    folder = run.folder / "artifacts/train/model"
    folder.mkdir()
    epochs = [{"epoch": n, "loss": loss} for n, loss in enumerate(losses, 1)]
    (folder / "history.json").write_text(json.dumps({"epochs": epochs}))
    place = run.folder / "run.json"
    document = json.loads(place.read_text())
    step = next(step for step in document["steps"] if step["name"] == "train")
    step["outputs"]["model"] = {
        "type": "system.Model",
        "uri": str(folder),
        "path": str(folder),
        "metadata": {},
    }
    points = [{"falsePositiveRate": x, "recall": x**0.5} for x in (0, 0.5, 1)]
    step["outputs"]["curves"] = {
        "type": "system.ClassificationMetrics",
        "uri": str(folder) + "x",
        "path": str(folder) + "x",
        "metadata": {"confidenceMetrics": points},
    }
    place.write_text(json.dumps(document))


def test_curves_of_two_runs_are_drawn_over_each_other(page: "Page", runs: Path) -> None:
    for losses in ([0.9, 0.5, 0.3], [0.9, 0.4, 0.2]):
        write_history(make_run(runs), losses)
    ids = [run.id for run in list_runs(runs)]
    page.evaluate(f"location.hash = '#/compare/{','.join(ids)}'")
    for title in ("Loss of training", "train: recall by false positive rate"):
        figure = page.locator("figure", has_text=title)
        figure.locator("polyline").nth(1).wait_for()
        assert figure.locator("polyline").count() == 2
        told = figure.locator(".legend").inner_text()
        assert all(name in told for name in ids)
    first, second = page.locator("figure", has_text="Loss of training").locator("polyline").all()
    assert first.get_attribute("points") != second.get_attribute("points")


def test_a_keyboard_alone_finds_a_failed_step_and_its_log(page: "Page", runs: Path) -> None:
    make_run(runs, failing="train")
    page.locator(".run.FAILED").wait_for()

    def tab_to(key: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement?.dataset.key ?? ''") == key:
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                stroke = "getComputedStyle(document.activeElement.querySelector('rect') || "
                wide = page.evaluate(f"{stroke}document.body).strokeWidth")
                assert outline != "none" or wide == "3px", f"nothing shows that {key} has the focus"
                return
        raise AssertionError(f"the tab key does not reach {key}")

    (run,) = list_runs(runs)
    tab_to(f"open {run.id}")
    page.keyboard.press("Enter")
    page.locator(".node.step").first.wait_for()
    tab_to("failed")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="train").wait_for()
    tab_to("tab log")
    page.keyboard.press("Enter")
    page.locator(".log", has_text="train begins").wait_for()
    page.keyboard.press("Escape")
    page.locator(".panel").wait_for(state="hidden")
    page.wait_for_function("document.activeElement?.dataset.key === 'step:train'")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.dataset.key").startswith("artifact:ingest:")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_light_and_dark(
    browser: "Browser", address: str, runs: Path, scheme: str
) -> None:
    run = make_run(runs, failing="evaluate-threshold", note="a note")
    context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(address)
    page.locator(".run .name").wait_for()
    for place in ("#/", f"#/run/{run.id}/graph/step:train", f"#/run/{run.id}/settings"):
        page.evaluate(f"location.hash = '{place}'")
        page.wait_for_timeout(500)
        found = page.evaluate(CONTRASTS)
        assert len(found) > 5
        assert [entry for entry in found if entry[0] < 4.5] == []  # WCAG 2.2, AA
    context.close()


def test_a_run_is_cancelled_from_the_page(page: "Page", runs: Path, tmp_path: Path) -> None:
    with start("waiting", runs, f'{{"folder": "{tmp_path}"}}') as child:
        page.locator(".run .name").click()
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        page.locator('[data-key="cancel"]').click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
        page.locator(".head .badge.CANCELLED").wait_for(timeout=60_000)
        assert child.wait(60) == 130


def test_a_plan_is_shown_before_anything_starts_and_nothing_starts_by_closing(
    page: "Page", runs: Path
) -> None:
    make_run(runs)
    page.locator(".run .name").click()
    page.locator('[data-key="step:train"]').click()
    page.get_by_role("button", name="Rerun from here").click()
    # A record made by hand has no pipeline that could run: the command's words are shown.
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("--from train --runs").wait_for(timeout=60_000)
    settings = dialog.get_by_label("Changed parameters")
    settings.fill("epochs=4 not-a-name=1")
    settings.press("Enter")
    dialog.get_by_text("not NAME=VALUE").wait_for(timeout=60_000)
    assert dialog.get_by_role("button", name="Start").is_disabled()
    settings.fill("epochs=4")
    settings.press("Enter")
    dialog.get_by_text("--set epochs=4").wait_for(timeout=60_000)
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert len(list_runs(runs)) == 1


def test_a_step_is_rerun_from_the_page_to_its_end(page: "Page", runs: Path) -> None:
    line = ["run", "--profile", "demo", "--source", "demo:?species=3&recordings=12&seed=0"]
    command = [sys.executable, str(ROOT / "pipeline.py"), *line, "--runs", str(runs)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        page.locator(".run .name").click(timeout=60_000)
        page.locator('[data-key="step:split"][data-state="SUCCEEDED"]').wait_for(timeout=90_000)
        page.locator('[data-key="cancel"]').click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
        page.locator(".head .badge.CANCELLED").wait_for(timeout=60_000)
        child.wait(60)
    page.locator('[data-key="step:split"]').click()
    page.get_by_role("button", name="Rerun only this").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("asked for").wait_for(timeout=60_000)
    dialog.get_by_role("button", name="Start").click()
    # The page goes to the new run as soon as there is one.
    page.get_by_text("goes on from").wait_for(timeout=60_000)
    page.locator(".head .badge.SUCCEEDED").wait_for(timeout=90_000)
    page.locator('[data-key="step:split"][data-state="SUCCEEDED"]').wait_for()
    page.get_by_role("link", name="compare").click()
    page.get_by_role("heading", name="Compare 2 runs").wait_for()
    first, second = sorted(list_runs(runs), key=lambda run: run.started)
    assert second.parent == first.id
    assert second.steps["split"].metrics == first.steps["split"].metrics


def set_parent(run: Run, parent: str) -> None:
    place = run.folder / "run.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"parent": parent}))


def test_sounds_play_and_pictures_tables_and_texts_are_shown(page: "Page", runs: Path) -> None:
    import numpy as np
    import pandas as pd
    import soundfile
    from matplotlib.figure import Figure

    run = make_run(runs)
    folder = run.folder / "artifacts/train/out"
    tone = 0.1 * np.sin(np.arange(22_050) / 10)
    for name in ("song.flac", "song.ogg", "song.wav"):
        soundfile.write(folder / name, tone, 22_050)
    Figure((2, 1)).savefig(folder / "picture.png")
    pd.DataFrame({"bird": ["wren"], "count": [3]}).to_parquet(folder / "birds.parquet")
    (folder / "rows.json").write_text('[{"bird": "robin", "count": 4}]')
    (folder / "settings.json").write_text('{"epochs": 3}')
    page.evaluate(f"location.hash = '#/run/{run.id}/graph/artifact:train:out'")
    files = page.locator(".files > li")
    files.first.wait_for()

    def opened(name: str) -> "Locator":
        item = files.filter(has_text=name)
        item.locator("summary").click()
        return item

    for name in ("song.flac", "song.ogg", "song.wav"):
        opened(name).locator("audio").wait_for()
        seconds = f"""async () => {{
          const audio = document.querySelector("audio[src*='{name}']");
          audio.muted = true;
          await audio.play();
          return audio.duration;
        }}"""
        assert 0.9 < page.evaluate(seconds) < 1.1
    picture = opened("picture.png").locator("img")
    picture.wait_for()
    assert picture.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 200
    for name, text in (("birds.parquet", "wren"), ("rows.json", "robin"), ("table.csv", "3")):
        opened(name).locator("td", has_text=text).wait_for()
    opened("settings.json").locator("pre", has_text="epochs").wait_for()


def test_nothing_sticks_out_of_a_wide_or_narrow_window(page: "Page", runs: Path) -> None:
    run = make_run(runs, failing="train", source="s3://a-bucket/with/a/long/prefix/" * 4)
    set_parent(run, run.id)
    page.locator(".run .parent a").wait_for()
    views = ["", "/timeline", "/settings", "/lineage", "/graph/step:train"]
    for width in (400, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        page.evaluate("location.hash = '#/'")
        page.locator(".run").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for view in views:
            page.evaluate(f"location.hash = '#/run/{run.id}{view}'")
            page.wait_for_timeout(200)
            page.locator(".run-page .view > *").first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_exported_run_opens_from_disk(browser: "Browser", runs: Path, tmp_path: Path) -> None:
    from birdsong.runs_page.export import export

    run = make_run(runs, failing="evaluate-threshold", note="</script><b>note</b>")
    target = export(runs, run.id, tmp_path / "out.html")
    context = browser.new_context()
    page = context.new_page()
    problems: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(target.as_uri())
    page.locator('[data-key="step:train"]').click()
    page.get_by_role("tab", name="Log").click()
    page.get_by_text("train begins").wait_for()
    page.get_by_role("tab", name="Outputs").click()
    page.frame_locator("iframe.page").get_by_text("page of train").wait_for()
    page.get_by_text("table.csv").click()
    page.get_by_role("region", name="table.csv").wait_for()
    assert page.locator("button", has_text="Rerun").count() == 0
    context.close()
    assert problems == []
    assert [place for place in asked if place.startswith("http")] == []
