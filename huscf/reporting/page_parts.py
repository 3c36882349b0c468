"""Pieces of the pages: tables, pictures, charts."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from .charts import Panel
from .svg import to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: More clients than this are listed in clients.csv only.
MAX_LISTED = 100


def make_table(headings: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return a table's HTML, which scrolls by itself where it is wider than its place.

    Args:
        headings: Of the columns; all empty leaves them out.
        rows: Cells as text.
        kind: Class of the table in the style sheet.
    """
    top = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    head = f"<thead><tr>{top}</tr></thead>" if any(headings) else ""
    table = f'<table class="{kind}">' if kind else "<table>"
    return f'<div class="scroll">{table}{head}<tbody>{lines}</tbody></table></div>'


def make_client_table(clients: Sequence[Mapping[str, str]], headings: Sequence[str]) -> str:
    """Return columns of clients.csv as a table, folded away where it is long."""
    rows = [[_shorten(client.get(name, "")) for name in headings] for client in clients]
    return make_listing(
        [name.replace("_mbytes", " MB").replace("_", " ") for name in headings], rows
    )


def make_listing(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of clients, folded away where it is long."""
    table = make_table(headings, rows[:MAX_LISTED])
    if len(rows) <= 12:
        return table
    more = "" if len(rows) <= MAX_LISTED else f", the first {MAX_LISTED}; all are in the files"
    return fold(f"{len(rows)} clients{more}", table)


def fold(summary: str, content: str) -> str:
    """Return content that is shown on demand."""
    return f"<details><summary>{summary}</summary>{content}</details>"


def make_picture(content: bytes | None, caption: str) -> str:
    """Return a PNG as HTML, "" where there is none."""
    return "" if content is None else _make_figure(content, "png", caption)


def make_chart(figure: "Figure | None", caption: str, kind: str = "") -> str:
    """Return a chart as HTML, in colours for light and dark pages; "" where there is none.

    Args:
        figure: The chart.
        caption: Below it, and for those who do not see it.
        kind: "wide" scrolls where the screen is narrow, instead of shrinking.
    """
    return "" if figure is None else _make_figure(to_svg(figure).encode(), "svg+xml", caption, kind)


def make_multiples(charts: Iterable[tuple[str, "Figure"]]) -> str:
    """Return small charts beside each other, as many as there is room for."""
    shown = "".join(make_chart(figure, caption) for caption, figure in charts)
    return shown and f'<div class="multiples">{shown}</div>'


def make_panels(panels: Iterable[Panel]) -> str:
    """Return the curves of figures, each with a heading."""
    parts = []
    for panel in panels:
        kind = "panel wide" if len(panel.figures) > 2 else "panel"
        content = make_multiples(panel.figures)
        if len(panel.figures) == 1:
            caption, figure = panel.figures[0]
            content = make_chart(figure, caption)
        parts.append(f'<div class="{kind}"><h3>{escape(panel.heading)}</h3>{content}</div>')
    return f'<div class="panels">{"".join(parts)}</div>' if parts else ""


def _make_figure(content: bytes, form: str, caption: str, kind: str = "") -> str:
    encoded = base64.b64encode(content).decode()
    text = escape(caption)
    start = f'<figure class="{kind}">' if kind else "<figure>"
    return (
        f'{start}<img alt="{text}" src="data:image/{form};base64,{encoded}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _shorten(text: str) -> str:
    """Four digits of what is a long decimal number."""
    try:
        return f"{float(text):.4g}" if "." in text and len(text) > 6 else text
    except ValueError:
        return text
