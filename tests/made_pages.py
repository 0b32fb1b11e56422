"""For tests in a browser: Chromium, and the page of runs that `ui` serves."""

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@contextlib.contextmanager
def chromium() -> Iterator["Browser"]:
    """The machine's own Chromium without a window; the test is skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    # Chromium's own sandbox needs rights that containers and root do not have.
    with sync_playwright() as playwright:
        # A name that leads here, as an attacker's does after its DNS answer was changed.
        resolve = "--host-resolver-rules=MAP evil.test 127.0.0.1"
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", resolve]
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def served(runs: Path) -> Iterator[str]:
    """The address, with its token, at which a folder of runs is served."""
    command = [sys.executable, str(ROOT / "pipeline.py"), "ui", "--port", "0", "--runs", str(runs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = re.search(r"http\S+", server.stdout.readline())
        try:
            assert found is not None
            yield found.group(0)
        finally:
            server.terminate()
