"""The look that all HTML pages of birdsong share: one file each, no script or font from elsewhere.

KFP shows HTML artifacts in a sandboxed frame and users mail them around, so everything is inline.
"""

import base64
import io
import re
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
"""Colours of pictures: text and axes, the network, the baseline, what stands back.

A page replaces them by variables of the same use, so that pictures follow its light or dark look.
"""

_VARIABLES = {INK: "ink", "#000000": "ink", ACCENT: "accent", SECOND: "second", FAINT: "faint"}

_PAGE = ENVIRONMENT.from_string("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1f2933; --soft: #52606d; --line: #d9e2ec;
  --back: #ffffff; --panel: #f5f7fa; --accent: #2b6cb0; --second: #c05621; --faint: #9aa5b1;
  --bad: #b83232; --good: #2f855a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9fb3c8; --line: #33414f;
  --back: #14191f; --panel: #1d252e; --accent: #63a4e8; --second: #f0945a; --faint: #74869a;
  --bad: #f28b82; --good: #68c99a; } }
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
td small { display: block; color: var(--soft); }
img, svg { max-width: 100%; height: auto; } audio { width: 100%; height: 2rem; }
svg text { fill: var(--ink); }
.filter { font: inherit; padding: .35rem .6rem; border: 1px solid var(--line); color: inherit;
  background: var(--panel); border-radius: .4rem; width: min(100%, 20rem); margin: .25rem 0 .5rem; }
.sorts th { cursor: pointer; user-select: none; white-space: normal; vertical-align: bottom; }
.sorts th::after { content: " ↕"; color: var(--faint); }
.sorts th[aria-sort=ascending]::after { content: " ▲"; color: var(--accent); }
.sorts th[aria-sort=descending]::after { content: " ▼"; color: var(--accent); }
.bad { color: var(--bad); } .good { color: var(--good); } .soft { color: var(--soft); }
code { background: var(--panel); padding: .1rem .3rem; border-radius: .25rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="lead">{{ lead }}</p>
{{ body }}
{{ script }}
</body>
</html>
""")

_SORTING = Markup("""<script>
document.querySelectorAll("table.sorts").forEach(table => {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column], held = cell.querySelector("[data-sort]");
    const text = held ? held.dataset.sort : cell.textContent.trim();
    if (text === "-" || text === "–") return "";
    return text === "" || isNaN(text) ? text : Number(text);
  };
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
      const rows = [...body.rows].map(row => [key(row, column), row]);
      rows.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === "");
        if (typeof a === "number" && typeof b === "number") return down * (a - b);
        return down * String(a).localeCompare(String(b));
      });
      rows.forEach(([, row]) => body.append(row));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); }
    });
  });
});
document.querySelectorAll("input[data-filters]").forEach(field => {
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    [...document.getElementById(field.dataset.filters).tBodies[0].rows].forEach(row => {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    });
  });
});
</script>""")
"""Tables of the class `sorts` sort by a click on a heading; cells without a value stand last."""

_TABLE = ENVIRONMENT.from_string("""<div class="scroll"><table id="{{ name }}"\
{% if sorts %} class="sorts"{% endif %}>
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
    body = Markup("\n").join(parts)
    script = _SORTING if 'class="sorts"' in body else ""
    with write_aside(path) as temporary:
        temporary.write_text(
            _PAGE.render(title=title, lead=lead, body=body, script=script), encoding="utf-8"
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
    sorts: bool = False,
) -> Markup:
    """A table; `numbers` are the columns that are aligned to the right. Cells are escaped.

    One that `sorts` does so by the text of a cell, or by `data-sort` of an element in it.
    """
    return Markup(_TABLE.render(heads=heads, rows=rows, numbers=numbers, name=name, sorts=sorts))


def filter_field(table: str, words: str) -> Markup:
    """A field that hides the rows of a table whose first cell does not hold what is typed."""
    return Markup(
        '<input class="filter" type="search" data-filters="{}" placeholder="{}" aria-label="{}">'
    ).format(table, words, words)


def picture(figure: "Figure", alt: str) -> Markup:
    """A matplotlib figure as inline SVG; `alt` says in words what it shows."""
    import matplotlib

    buffer = io.StringIO()
    # Text stays text; ids come from the content, so that the same figure gives the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        figure.savefig(
            buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
        )
    drawn = buffer.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    # Names of groups would stand twice on a page with two pictures.
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    for colour, name in _VARIABLES.items():
        drawn = drawn.replace(colour, f"var(--{name})")
    return Markup('<svg role="img" aria-label="{}"{}').format(alt, Markup(drawn[len("<svg") :]))


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
