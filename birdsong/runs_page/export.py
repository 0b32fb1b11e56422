"""One run as one HTML file that opens from disk: the page's own code, and the values inlined."""

import base64
import html
import json
import re
from pathlib import Path
from typing import Any

from birdsong.artifacts import write_aside
from birdsong.errors import DataError
from birdsong.runs_page import lineage, previews, server
from birdsong.runs_page.store import Store

MODULES = (
    "dom",
    "data",
    "preview",
    "dag",
    "list",
    "panel",
    "compare",
    "actions",
    "app",
)
"""The page's modules, each after those that it imports from."""

LARGEST_PAGE, LARGEST_FILE = 3_000_000, 400_000
"""Most bytes of one page, and of one picture or sound, that are taken along."""
LARGEST_ALL = 8_000_000
"""Most bytes of these together."""
_LOG_BYTES = 200_000
_ROWS = 50

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; media-src data: blob:; font-src data:; base-uri 'none'; "
    "form-action 'none'"
)
_IMPORT = re.compile(r"^import .*? from \"\./\w+\.js\";$", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


def export(runs: str | Path, run: str, target: str | Path) -> Path:
    """Write a run as one HTML file.

    Args:
        runs: The runs folder.
        run: Id of the run.
        target: The file; what stood there is replaced.

    Returns:
        The file.

    Raises:
        DataError: There is no such run, or its record cannot be read.
    """
    store = Store(runs)
    values = collect(store, run)
    text = page(values)
    with write_aside(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(target)


def collect(store: Store, run: str) -> dict[str, Any]:
    """All that the exported page shows, with previews as far as they are small."""
    detail = store.detail(run)
    record = store.run(run)
    found: dict[str, Any] = {
        "run": detail,
        "list": {
            "folder": store.folder.name,
            "runs": [one for one in store.summaries() if one["id"] == run],
            "actions": [],
        },
        "version": lineage.version(store, record),
        "lineage": {},
        "logs": {},
        "previews": {},
        "files": {},
        "pages": {},
    }
    for step in detail["steps"]:
        found["logs"][step["name"]] = server.read_log(store.log(run, step["name"]), -1, _LOG_BYTES)
    room = LARGEST_ALL
    for step in detail["steps"]:
        for name, value in step["outputs"].items():
            if "uri" not in value:
                continue
            found["lineage"][f"{step['name']}/{name}"] = lineage.lineage(
                store, record, step["name"], name
            )
            if value.get("file"):
                room -= _take(store, value["file"], found, room)
    return found


def _take(store: Store, file: str, found: dict[str, Any], room: int) -> int:
    """Take a file or folder along; returns how many bytes that took."""
    try:
        place = store.locate(file)
        look = previews.preview(place, _ROWS)
    except OSError:
        return 0
    found["previews"][file] = look
    if look["kind"] == "folder":
        taken = 0
        for entry in look["entries"]:
            # A model's or a bundle's own files say nothing to people.
            if entry["kind"] in ("table", "json", "text", "image", "audio", "html"):
                taken += _take(store, f"{file}/{entry['name']}", found, room - taken)
        return taken
    largest = LARGEST_PAGE if look["kind"] == "html" else LARGEST_FILE
    if look["kind"] not in ("html", "image", "audio") or look["bytes"] > min(largest, room):
        return 0
    data = place.read_bytes()
    if look["kind"] == "html":
        found["pages"][file] = data.decode(errors="replace")
    else:
        coded = base64.b64encode(data).decode()
        found["files"][file] = f"data:{previews.media_type(place)};base64,{coded}"
    return len(data)


def page(values: dict[str, Any]) -> str:
    """The HTML file with its code and values inside."""
    code = "\n".join(_EXPORT.sub("", _IMPORT.sub("", _static(f"{name}.js"))) for name in MODULES)
    title = html.escape(str(values["run"]["id"]))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} · birdsong</title>\n<style>\n{_static('style.css')}</style>\n"
        '</head>\n<body>\n<header><a href="#/" class="home">birdsong <span>runs</span></a>'
        '<span id="where"></span><span id="link" role="status"></span></header>\n'
        '<main id="main" tabindex="-1"></main>\n'
        '<dialog id="dialog" aria-labelledby="dialog-title"></dialog>\n'
        f"<script>window.BIRDSONG_EXPORT = {_inline(json.dumps(values, default=str))};</script>\n"
        f"<script>{_inline(_static('vendor/dagre.min.js'))}</script>\n"
        f'<script type="module">{_inline(code)}</script>\n</body>\n</html>\n'
    )


def _inline(code: str) -> str:
    """Code that an HTML parser does not take for the end of its element."""
    return (
        code.replace("</", "<\\/")
        .replace("<!--", "<\\!--")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def _static(name: str) -> str:
    try:
        return (server.STATIC / name).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"The page's file {name} is missing ({error}); install birdsong again."
        ) from error
