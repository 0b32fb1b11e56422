"""For the web page's tests: its server, and a browser that tells what goes wrong."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from made_listening import make_bundle, real_app, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def listening_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("listening"))


@pytest.fixture(scope="session")
def listening(listening_bundle: Path) -> Iterator[str]:
    """The address of the server with its page."""
    with serving(real_app(listening_bundle)) as address:
        yield address


@pytest.fixture
def visited(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """Opens a page; no script of it may fail, and no request may leave its origin."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def visit(address: str, script: str = "", by: Any = browser, **settings: Any) -> "Page":
        size = settings.pop("viewport", {"width": 1280, "height": 900})
        context = by.new_context(viewport=size, **settings)
        contexts.append(context)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda message: (
                wrong.append(message.text)
                if "Content Security Policy" in message.text or "Refused to" in message.text
                else None
            ),
        )
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((address, f"blob:{address.split('/')[0]}"))
                else wrong.append(request.url)
            ),
        )
        page.goto(address)
        page.get_by_text("What is kept").wait_for()
        assert page.title() == "birdsong"
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []
