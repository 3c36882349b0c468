"""Text of a card: tables in Markdown out of names that may be anything."""

import re
from collections.abc import Sequence

from ..errors import make_printable

#: Longer text of a cell is cut.
MAX_SIGNS = 5000


def make_markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; no cell can leave its place."""
    cells = [[escape_markdown(cell) for cell in row] for row in (headings, *rows)]
    lines = [cells[0], ["---"] * len(headings), *cells[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape_markdown(text: str) -> str:
    """Return text out of a file so that it is shown as it is, on one line."""
    plain = make_printable(" ".join(text.split()))[:MAX_SIGNS]
    return re.sub(r"([\\`*\[\]<>|#~])", r"\\\1", plain)
