"""index.html beside generated recordings: a row of players for every class."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple
from urllib.parse import quote

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; margin: 1.2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h2 { margin: 1.6rem 0 .4rem; font-size: 1.15rem; }
h3 { margin: .9rem 0 .3rem; font-size: 1rem; overflow-wrap: anywhere; }
div { display: flex; flex-wrap: wrap; gap: .6rem; }
audio { height: 2.2rem; width: 15rem; max-width: 100%; display: block; }
figure { margin: 0; max-width: 100%; }
figcaption { font-size: .8rem; opacity: .7; }
h2, h3 { break-after: avoid; }
"""


class Recording(NamedTuple):
    """One recording on the page: group (domain or cluster), class, client, and relative path."""

    group: str
    class_name: str
    client: int
    file: str


def render_players(recordings: Sequence[Recording]) -> str:
    """Return the page's HTML; recordings of one class of one group follow each other."""
    parts: list[str] = []
    before = ("", "")
    for each in recordings:
        group, name = each.group, each.class_name
        if (group, name) != before:
            parts.append("</div>" if parts else "")
            parts.append(f"<h2>{escape(group)}</h2>" if group != before[0] else "")
            parts.append(f"<h3>{escape(name)}</h3><div>")
            before = (group, name)
        parts.append(
            f'<figure><audio controls preload="metadata" src="{quote(each.file)}"></audio>'
            f"<figcaption>client {each.client}</figcaption></figure>"
        )
    body = "".join(parts)
    more = "Some of every class; manifest.csv lists all recordings."
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>Generated recordings</title><style>{STYLE}</style>'
        f"</head><body><h1>Generated recordings</h1><p>{more}</p>{body}</div></body></html>\n"
    )
