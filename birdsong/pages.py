"""The look that all HTML pages of birdsong share: one file each, no script or font from elsewhere.

KFP shows HTML artifacts in a sandboxed frame and users mail them around, so everything is inline.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from birdsong.artifacts import write_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENVIRONMENT = Environment(
    autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)

INK, ACCENT, SECOND, FAINT = "#1f2933", "#2b6cb0", "#c05621", "#9aa5b1"
"""Colours of pictures: text and axes, the network, the baseline, what stands back."""

_PAGE = ENVIRONMENT.from_string("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light; --ink: #1f2933; --soft: #52606d; --line: #d9e2ec; --back: #ffffff;
  --panel: #f5f7fa; --accent: #2b6cb0; --bad: #b83232; --good: #2f855a; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 72rem; color: var(--ink);
  background: var(--back); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
.lead { color: var(--soft); margin: 0 0 1.25rem; max-width: 60rem; }
.cards { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0; }
.card { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem;
  padding: .6rem .9rem; min-width: 9rem; }
.card b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
img, svg { max-width: 100%; height: auto; } audio { width: 100%; height: 2rem; }
.bad { color: var(--bad); } .good { color: var(--good); } .soft { color: var(--soft); }
code { background: var(--panel); padding: .1rem .3rem; border-radius: .25rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="lead">{{ lead }}</p>
{{ body }}
</body>
</html>
""")

_TABLE = ENVIRONMENT.from_string("""<div class="scroll"><table id="{{ name }}">
<thead><tr>{% for head in heads %}<th{% if loop.index0 in numbers %} class="number"{% endif %}>\
{{ head }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr>{% for cell in row %}<td{% if loop.index0 in numbers %} class="number"{% endif %}>\
{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
""")

_CARDS = ENVIRONMENT.from_string("""<div class="cards">{% for label, value in cards %}\
<div class="card"><b>{{ value }}</b><span>{{ label }}</span></div>{% endfor %}</div>
""")


def write(path: str | Path, title: str, lead: str, parts: Iterable[Markup]) -> None:
    """Write a page: a title, one sentence or two on what it shows, and its parts in order."""
    with write_aside(path) as temporary:
        temporary.write_text(
            _PAGE.render(title=title, lead=lead, body=Markup("\n").join(parts)), encoding="utf-8"
        )


def heading(text: str) -> Markup:
    """A heading between parts of a page."""
    return Markup("<h2>{}</h2>").format(text)


def paragraph(text: str) -> Markup:
    """A paragraph of plain text."""
    return Markup("<p>{}</p>").format(text)


def cards(values: Sequence[tuple[str, object]]) -> Markup:
    """A row of headline figures: label and value."""
    return Markup(_CARDS.render(cards=values))


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    numbers: Sequence[int] = (),
    name: str = "table",
) -> Markup:
    """A table; `numbers` are the columns that are aligned to the right. Cells are escaped."""
    return Markup(_TABLE.render(heads=heads, rows=rows, numbers=numbers, name=name))


def picture(figure: "Figure", alt: str, dpi: int = 110) -> Markup:
    """A matplotlib figure as an inline PNG; `alt` says in words what it shows."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    return inline_image(buffer.getvalue(), "image/png", alt)


def inline_image(data: bytes, media_type: str, alt: str) -> Markup:
    """Bytes of an image as an inline picture."""
    text = base64.b64encode(data).decode()
    return Markup('<img alt="{}" src="data:{};base64,{}">').format(alt, media_type, text)


def player(data: bytes, media_type: str) -> Markup:
    """Bytes of a sound file as an inline player."""
    text = base64.b64encode(data).decode()
    return Markup('<audio controls preload="none" src="data:{};base64,{}"></audio>').format(
        media_type, text
    )
