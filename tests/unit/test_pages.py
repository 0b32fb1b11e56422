"""What all pages share: pictures that follow the page's look, and tables."""

import re
from pathlib import Path

from matplotlib.figure import Figure

from birdsong import pages


def _figure(height: float = 1.0) -> Figure:
    figure = Figure(figsize=(3, 2))
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, height], color=pages.ACCENT, marker="o", label="a <b>")
    axes.scatter([0.5], [0.5], color=pages.SECOND)
    axes.set_title('Grün & "x"')
    axes.legend()
    return figure


def test_a_picture_takes_its_colours_from_the_page_and_keeps_its_words() -> None:
    drawn = str(pages.picture(_figure(), 'A "line" <up>'))
    for colour in (pages.INK, pages.ACCENT, pages.SECOND, "#000000"):
        assert colour not in drawn
    assert "var(--accent)" in drawn
    assert "var(--second)" in drawn
    assert "Grün &amp; &quot;x&quot;" in drawn or 'Grün &amp; "x"' in drawn
    assert 'aria-label="A &#34;line&#34; &lt;up&gt;"' in drawn
    assert "a &lt;b&gt;" in drawn
    assert drawn.startswith("<svg role=")
    assert drawn.rstrip().endswith("</svg>")


def test_the_same_figure_gives_the_same_bytes_and_two_figures_share_no_name() -> None:
    one, again, other = (
        str(pages.picture(_figure(height), alt))
        for height, alt in ((1.0, "one"), (1.0, "one"), (2.0, "other"))
    )
    assert one == again
    names = [set(re.findall(r' id="([^"]+)"', drawn)) for drawn in (one, other)]
    assert all(names)
    assert not names[0] & names[1]
    for drawn, known in zip((one, other), names, strict=True):
        assert set(re.findall(r"#([\w-]+)[\")]", drawn)) <= known


def test_only_pages_with_a_table_that_sorts_carry_the_script(tmp_path: Path) -> None:
    rows = [("<i>", 1)]
    for sorts in (False, True):
        part = pages.table(("name", "count"), rows, numbers=(1,), sorts=sorts)
        pages.write(tmp_path / "page.html", "Title", "Lead.", [part])
        page = (tmp_path / "page.html").read_text()
        assert ("<script>" in page) == sorts
        assert "&lt;i&gt;" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
