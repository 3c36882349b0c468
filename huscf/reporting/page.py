"""report.html: a run on one page that needs nothing beside itself."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from ..errors import HuscfError
from ..whole_files import write_bytes, write_text
from .charts import draw_panels, draw_plan, draw_traffic
from .federation_charts import draw_cluster_map, draw_maps_by_round, draw_weights
from .federation_history import by_round, choose_colours
from .page_style import STYLE
from .run_record import RunRecord
from .score_columns import format_score, tabulate_scores

#: More clients than this are listed in clients.csv only.
MAX_LISTED = 100
#: A long run shows the samples of so many earlier rounds: all pictures are in the page.
MAX_EARLIER_ROUNDS = 12
#: The maps of more rounds than this are folded away.
MAX_UNFOLDED_MAPS = 8


def write_page(run: RunRecord) -> Path:
    """Write report.html and its charts as files into the run's folder; return the page's path."""
    charts = draw_charts(run)
    pictures = run.folder / "charts"
    if pictures.is_symlink():
        raise HuscfError(f"{pictures}: a link, which is not followed; remove it")
    pictures.mkdir(exist_ok=True)
    for name, content in charts.items():
        write_bytes(pictures / f"{name}.png", content)
    page = run.folder / "report.html"
    write_text(page, render_page(run, charts))
    return page


def draw_charts(run: RunRecord) -> dict[str, bytes]:
    """Return the charts that a run has data for, as PNG by name."""
    rounds = by_round(run.federation)
    last = max(rounds, default=0)
    drawn = {
        "curves": draw_panels([run]),
        "clusters": draw_cluster_map(rounds.get(last, []), choose_colours(rounds).get(last)),
        "clusters_by_round": draw_maps_by_round(rounds),
        "weights": draw_weights(rounds),
        "plan": draw_plan(run.plan),
        "traffic": draw_traffic(run.clients),
    }
    return {name: content for name, content in drawn.items() if content is not None}


def render_page(run: RunRecord, charts: Mapping[str, bytes]) -> str:
    """Return the page's HTML; pictures and sounds are in it, and it has no script.

    Args:
        run: What is shown.
        charts: PNG by name, see draw_charts.
    """
    sections = [
        ("What ran", _describe(run)),
        ("Scores", _scores(run)),
        ("Samples", _samples(run)),
        ("Curves", make_picture(charts.get("curves"), "Figures by round")),
        ("Clusters", _clusters(run, charts)),
        ("Plan", _plan(run, charts)),
        ("Costs", _costs(run, charts)),
        ("Provenance", _provenance(run)),
        ("Configuration", _configuration(run)),
    ]
    shown = [(heading, body) for heading, body in sections if body]
    links = "".join(f'<a href="#{_anchor(h)}">{h}</a>' for h, _ in shown)
    body = "".join(
        f'<section id="{_anchor(heading)}"><h2>{heading}</h2>{content}</section>'
        for heading, content in shown
    )
    title = escape(run.name)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{STYLE}</style></head><body>'
        f"<header><h1>{title}</h1><nav>{links}</nav></header><main>{body}</main></body></html>\n"
    )


def _describe(run: RunRecord) -> str:
    last = run.last()
    clusters = last.get("federation/num_clusters")
    seconds = sum(row.get("seconds", 0.0) for row in run.rows)
    mbytes = sum(row.get("traffic/mbytes", 0.0) for row in run.rows)
    facts = {
        "rounds": str(len(run.rows)),
        "clients": str(len(run.clients)),
        "clusters found": "-" if clusters is None else f"{clusters:.0f}",
        "adjusted Rand index": format_score(last.get("federation/ari")),
        "training time": f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.0f} s",
        "traffic": f"{mbytes / 1e3:.2f} GB" if mbytes >= 1e3 else f"{mbytes:.3g} MB",
        "seed": str(run.config.get("seed_everything", "-")),
    }
    cards = "".join(f"<div><b>{escape(v)}</b><span>{k}</span></div>" for k, v in facts.items())
    data, method = run.config["data"], run.config["model"]["method"]
    parts = method.get("init_args") or {}
    rows = [
        ("data", _class_name(data)),
        ("domains", ", ".join(name for name in run.domains if name) or "-"),
        ("method", _class_name(method)),
        *(
            (
                name,
                f"{_class_name(parts[name])}, {count} blocks"
                if name in parts
                else f"{count} blocks",
            )
            for name, count in run.plan["blocks"].items()
        ),
        ("federation", _brief(run.config.get("federation") or {})),
    ]
    return f'<div class="cards">{cards}</div>{make_table(("", ""), rows)}'


def _scores(run: RunRecord) -> str:
    """The scores of `huscf test`, and those of training beside them."""
    table = tabulate_scores(run)
    if table is None:
        return "<p>Not evaluated in this run; huscf test measures it.</p>"
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    return make_table(table.headings, table.rows) + notes


def _samples(run: RunRecord) -> str:
    final = [(path, path.stem.removesuffix("-final")) for path in run.grids()]
    html = _figures(final, "wide")
    for path in run.sounds():
        sound = base64.b64encode(path.read_bytes()).decode()
        name = escape(path.stem.removesuffix("-final"))
        html += (
            f"<p>{name}: one sample of each class, through Griffin-Lim "
            f'<audio controls src="data:audio/wav;base64,{sound}"></audio></p>'
        )
    rounds = list(run.earlier_grids().values())
    stride = -(-len(rounds) // MAX_EARLIER_ROUNDS)
    if rounds:
        earlier = [
            (path, path.stem.replace("-round-", ", round "))
            for paths in rounds[::stride]
            for path in paths
        ]
        html += "<details><summary>Earlier rounds, same noise</summary>"
        html += _figures(earlier, "small") + "</details>"
    return html and f"<p>One row per class; columns are the domain's clients in turn.</p>{html}"


def _clusters(run: RunRecord, charts: Mapping[str, bytes]) -> str:
    caption = "Clients as the server saw them in the last round: near ones have alike data"
    html = make_picture(charts.get("clusters"), caption)
    caption = "The same round by round; maps are turned alike, and clusters keep their colours"
    maps = make_picture(charts.get("clusters_by_round"), caption)
    if len(by_round(run.federation)) > MAX_UNFOLDED_MAPS:
        maps = f"<details><summary>Round by round</summary>{maps}</details>"
    html += maps + make_picture(charts.get("weights"), "Weights of the clients in every round")
    if not run.clients or "cluster" not in run.clients[0]:
        return html
    headings = ("client", "domain", "cluster", "num_samples", "weight", "divergence")
    return html + _client_table(run.clients, headings)


def _plan(run: RunRecord, charts: Mapping[str, bytes]) -> str:
    html = make_picture(charts.get("plan"), "Who holds which block, the most frequent cuts first")
    figures = [
        (label, _number(run.plan[key]))
        for key, label in (
            ("latency_s", "seconds a step, planned"),
            ("lower_bound_s", "proven lower bound, seconds"),
            ("gap", "gap to the bound"),
        )
        if isinstance(run.plan.get(key), float)
    ]
    stages = run.plan.get("stages") or {}
    figures += [(f"of which {name}", _number(value)) for name, value in stages.items()]
    if figures:
        html += make_table(("latency", ""), figures)
    rows = [
        [str(c["client"]), c["profile"] or "-", *map(str, c["cuts"])] for c in run.plan["clients"]
    ]
    heads = ("client", "profile", "G head", "G tail", "D head", "D tail")
    return html + _listing(heads, rows)


def _costs(run: RunRecord, charts: Mapping[str, bytes]) -> str:
    html = make_picture(charts.get("traffic"), "Traffic of every client")
    if not run.clients or "uplink_mbytes" not in run.clients[0]:
        return html
    headings = ("client", "profile", "uplink_mbytes", "downlink_mbytes", "dropped_steps")
    return html + _client_table(run.clients, headings)


def _provenance(run: RunRecord) -> str:
    """Software, machine and command of every start; a resumed run has several."""
    tables = []
    for entry in run.provenance:
        rows = [(key.replace("_", " "), value) for key, value in entry.items() if value]
        tables.append(make_table(("", ""), rows))
    return "".join(tables)


def _configuration(run: RunRecord) -> str:
    text = yaml.safe_dump(run.config, sort_keys=False, default_flow_style=False, width=100)
    return f"<details><summary>config.yaml</summary><pre>{escape(text)}</pre></details>"


def _client_table(clients: Sequence[Mapping[str, str]], headings: Sequence[str]) -> str:
    rows = [[_shorten(client.get(name, "")) for name in headings] for client in clients]
    return _listing([name.replace("_mbytes", " MB").replace("_", " ") for name in headings], rows)


def _listing(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that is folded away where it is long."""
    table = make_table(headings, rows[:MAX_LISTED])
    if len(rows) <= 12:
        return table
    more = "" if len(rows) <= MAX_LISTED else f", the first {MAX_LISTED}; all are in the files"
    return f"<details><summary>{len(rows)} clients{more}</summary>{table}</details>"


def make_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table's HTML."""
    top = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    head = f"<thead><tr>{top}</tr></thead>" if any(headings) else ""
    return f'<div class="scroll"><table>{head}<tbody>{lines}</tbody></table></div>'


def _figures(pictures: Sequence[tuple[Path, str]], kind: str) -> str:
    shown = "".join(make_picture(path.read_bytes(), caption) for path, caption in pictures)
    return shown and f'<div class="pictures {kind}">{shown}</div>'


def make_picture(content: bytes | None, caption: str) -> str:
    """Return a PNG as HTML, "" where there is none."""
    if content is None:
        return ""
    encoded = base64.b64encode(content).decode()
    text = escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{encoded}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _class_name(section: Any) -> str:
    path = section["class_path"] if isinstance(section, dict) else str(section)
    arguments = section.get("init_args") or {} if isinstance(section, dict) else {}
    return f"{path.rsplit('.', 1)[-1]} ({_brief(arguments)})"


def _brief(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items() if isinstance(v, int | float | str))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _shorten(text: str) -> str:
    """Four digits of what is a long decimal number."""
    try:
        return f"{float(text):.4g}" if "." in text and len(text) > 6 else text
    except ValueError:
        return text


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")
