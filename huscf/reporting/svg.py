"""Figures as SVG whose colours follow the reader's choice of light or dark."""

import io
import re
from typing import TYPE_CHECKING

from ..colours import INK, ON_DARK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def to_svg(figure: "Figure") -> str:
    """Return a figure as an SVG element without background; equal figures give equal text."""
    import matplotlib

    content = io.StringIO()
    # Text as outlines: whoever looks at it may lack the font.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "huscf"}):
        figure.savefig(content, format="svg", transparent=True, metadata=_METADATA)
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    end = svg.index(">") + 1
    return svg[:end] + _STYLE + _COLOUR.sub(_name_colour, svg[end:])


def _name_colour(found: re.Match[str]) -> str:
    """Return the variable of a colour that has another on dark pages."""
    colour = found[0]
    return f"var(--c{colour[1:]})" if colour in ON_DARK else colour


def _declare(colours: dict[str, str]) -> str:
    return "".join(f"--c{name[1:]}:{colour};" for name, colour in colours.items())


#: Text that says no colour of its own is black in matplotlib; here it is ink.
_STYLE = (
    f"<style>svg{{{_declare({c: c for c in ON_DARK})}fill:var(--c{INK[1:]})}}"
    f"@media(prefers-color-scheme:dark){{svg{{{_declare(ON_DARK)}}}}}</style>"
)
