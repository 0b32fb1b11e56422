"""A page at /docs made from the OpenAPI document: plain HTML, without a script or a CDN."""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response

_STYLE = Path(__file__).with_name("docs.css")


def install(app: FastAPI) -> None:
    """Add the page and its style."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(page(app.openapi()), media_type="text/html; charset=utf-8")

    @app.get("/docs.css", include_in_schema=False)
    async def style() -> Response:
        return Response(_STYLE.read_bytes(), media_type="text/css; charset=utf-8")


def page(document: dict[str, Any]) -> str:
    """The document as HTML."""
    info = document["info"]
    parts = [
        f"<h1>{_(info['title'])} <small>{_(info['version'])}</small></h1>",
        f"<p>{_(info.get('summary', ''))}. The same for programs: "
        '<a href="openapi.json">openapi.json</a>.</p>',
        "<h2>Try it</h2>",
        "<pre>curl --data-binary @song.ogg -H 'Content-Type: audio/ogg' "
        "ADDRESS/invocations?scores=all</pre>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts += _operation(f"{method.upper()} {path}", operation)
    parts.append("<h2>Objects</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts += _object(name, schema)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{_(info['title'])}: interface</title>"
        f'<link rel="stylesheet" href="docs.css"><main>{"".join(parts)}</main></html>'
    )


def _operation(heading: str, operation: dict[str, Any]) -> list[str]:
    parts = [f"<h2><code>{_(heading)}</code></h2>", f"<p>{_(operation.get('description', ''))}</p>"]
    rows = [
        (
            f"{'?' if one['in'] == 'query' else ''}{one['name']}",
            _kind(one["schema"]),
            one.get("description", ""),
        )
        for one in operation.get("parameters", ())
    ]
    rows += [
        ("body", kind, _kind(content["schema"]))
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
    ]
    if rows:
        parts.append(_table(("sent", "", ""), rows))
    answers = []
    for status, answer in operation["responses"].items():
        kinds = answer.get("content", {})
        shown = ", ".join(f"{k}: {_kind(c.get('schema', {}))}" for k, c in kinds.items())
        answers.append((status, answer.get("description", ""), shown))
    return [*parts, _table(("answer", "", ""), answers)]


def _object(name: str, schema: dict[str, Any]) -> list[str]:
    rows = [
        (field, _kind(told), told.get("description", ""))
        for field, told in schema.get("properties", {}).items()
    ]
    return [
        f'<h3 id="{_(name)}">{_(name)}</h3>',
        f"<p>{_(schema.get('description', ''))}</p>",
        _table(("field", "kind", ""), rows),
    ]


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(json.dumps(one) for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"text to {_kind(schema['additionalProperties'])}"
    return str(schema.get("format") or schema.get("type") or "any")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = "".join(
        "<tr>" + "".join(f"<td>{_(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    heads = "".join(f"<th>{_(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table>"


def _(text: object) -> str:
    return html.escape(str(text))
