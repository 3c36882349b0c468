"""report.html: a run on one page that needs nothing beside itself."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HuscfError
from ..nested_values import to_yaml
from ..provenance import KEYS
from ..whole_files import write_bytes, write_text
from .charts import draw_panels, plot_panels, plot_plan, plot_traffic, to_png
from .federation_charts import (
    draw_maps_by_round,
    plot_cluster_map,
    plot_maps_by_round,
    plot_weights,
)
from .federation_history import by_round, choose_colours
from .page_parts import (
    fold,
    make_chart,
    make_client_table,
    make_listing,
    make_multiples,
    make_panels,
    make_picture,
    make_table,
)
from .page_style import STYLE
from .run_record import RunRecord
from .score_columns import format_score, tabulate_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: A long run shows the samples of so many earlier rounds: all pictures are in the page.
MAX_EARLIER_ROUNDS = 12
#: The maps of more rounds than this are folded away.
MAX_UNFOLDED_MAPS = 8


def write_page(run: RunRecord) -> Path:
    """Write report.html and its charts as files into the run's folder; return the page's path."""
    pictures = run.folder / "charts"
    if pictures.is_symlink():
        raise HuscfError(f"{pictures}: a link, which is not followed; remove it")
    charts = draw_charts(run)
    pictures.mkdir(exist_ok=True)
    for name, content in charts.items():
        write_bytes(pictures / f"{name}.png", content)
    page = run.folder / "report.html"
    write_text(page, render_page(run))
    return page


def draw_charts(run: RunRecord) -> dict[str, bytes]:
    """Return the charts that a run has data for, as PNG by name."""
    rounds = by_round(run.federation)
    figures = {
        "clusters": _plot_last_map(run),
        "weights": plot_weights(rounds),
        "plan": plot_plan(run.plan),
        "traffic": plot_traffic(run.clients),
    }
    drawn = {
        "curves": draw_panels([run]),
        "clusters_by_round": draw_maps_by_round(rounds),
        **{name: to_png(figure) for name, figure in figures.items() if figure is not None},
    }
    return {name: content for name, content in drawn.items() if content is not None}


def render_page(run: RunRecord) -> str:
    """Return the page's HTML; charts, pictures and sounds are in it, and it has no script."""
    sections = [
        ("What ran", _describe(run)),
        ("Scores", _scores(run)),
        ("Samples", _samples(run)),
        ("Curves", make_panels(plot_panels(run)) or "<p>No round has ended.</p>"),
        ("Clusters", _clusters(run)),
        ("Plan", _plan(run)),
        ("Costs", _costs(run)),
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
        '<meta name="color-scheme" content="light dark">'
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
    data, method = run.config.get("data"), run.config["model"]["method"]
    networks, options = run.plan["blocks"], method.get("init_args") or {}
    others = {name: value for name, value in options.items() if name not in networks}
    rows = [
        ("data", _brief(data) if data else "at the sites"),
        ("domains", ", ".join(name for name in run.domains if name) or "-"),
        ("method", _brief({**method, "init_args": others})),
        *((name, _describe_network(options.get(name), n)) for name, n in networks.items()),
        ("federation", _list_options(run.config.get("federation") or {})),
    ]
    return f'<div class="cards">{cards}</div>{make_table(("", ""), rows, "facts")}'


def _scores(run: RunRecord) -> str:
    """The scores of `huscf test`, and those of training beside them."""
    table = tabulate_scores(run)
    if table is None:
        return "<p>Not evaluated in this run; huscf test measures it.</p>"
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    return make_table(table.headings, table.rows, "scores") + notes


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
        html += fold("Earlier rounds, same noise", _figures(earlier, "small"))
    return html and f"<p>One row per class; columns are the domain's clients in turn.</p>{html}"


def _clusters(run: RunRecord) -> str:
    rounds = by_round(run.federation)
    caption = "Clients as the server saw them in the last round: near ones have alike data"
    html = make_chart(_plot_last_map(run), caption)
    is_long = len(rounds) > MAX_UNFOLDED_MAPS
    caption = "Weights of the clients in every round"
    html += make_chart(plot_weights(rounds), caption, "wide" if is_long else "")
    html = html and f'<div class="panels">{html}</div>'
    if maps := make_multiples(plot_maps_by_round(rounds)):
        maps = f"<p>Maps are turned alike, and clusters keep their colours.</p>{maps}"
        html += fold("Round by round", maps) if is_long else maps
    if not run.clients or "cluster" not in run.clients[0]:
        return html
    headings = ("client", "domain", "cluster", "num_samples", "weight", "divergence")
    return html + make_client_table(run.clients, headings)


def _plot_last_map(run: RunRecord) -> "Figure | None":
    rounds = by_round(run.federation)
    last = max(rounds, default=0)
    return plot_cluster_map(rounds.get(last, []), choose_colours(rounds).get(last))


def _plan(run: RunRecord) -> str:
    networks = list(run.plan["blocks"])
    caption = "Who holds which block of the {}, the most frequent cuts first"
    charts = (make_chart(plot_plan(run.plan, [n]), caption.format(n)) for n in networks)
    html = f'<div class="panels">{"".join(charts)}</div>'
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
    cuts = [f"{name} {end}" for name in networks for end in ("head", "tail")]
    return html + make_listing(("client", "profile", *cuts), rows)


def _costs(run: RunRecord) -> str:
    html = make_chart(plot_traffic(run.clients), "Traffic of every client")
    if not run.clients or "uplink_mbytes" not in run.clients[0]:
        return html
    headings = ("client", "profile", "uplink_mbytes", "downlink_mbytes", "dropped_steps")
    return html + make_client_table(run.clients, headings)


def _provenance(run: RunRecord) -> str:
    """Software, machine and command of every start; a resumed run has several."""
    starts = run.provenance
    if not starts:
        return ""
    keys = [key for key in KEYS if any(start.get(key) for start in starts)]
    rows = [[key.replace("_", " "), *(start.get(key, "-") for start in starts)] for key in keys]
    headings = ["" if len(starts) == 1 else f"start {n}" for n in range(1, len(starts) + 1)]
    return make_table(["", *headings], rows, "facts" if len(starts) == 1 else "")


def _configuration(run: RunRecord) -> str:
    text = to_yaml(run.config, default_flow_style=False, width=100)
    return f"<details><summary>config.yaml</summary><pre>{escape(text)}</pre></details>"


def _figures(pictures: Sequence[tuple[Path, str]], kind: str) -> str:
    shown = "".join(make_picture(path.read_bytes(), caption) for path, caption in pictures)
    return shown and f'<div class="pictures {kind}">{shown}</div>'


def _describe_network(chosen: Mapping[str, Any] | None, num_blocks: int) -> str:
    blocks = f"{num_blocks} blocks"
    return blocks if chosen is None else f"{_brief(chosen)}, {blocks}"


def _list_options(options: Mapping[str, Any]) -> str:
    """Return part of a configuration in a line, without what is null."""
    return ", ".join(f"{k} {_brief(v)}" for k, v in options.items() if v is not None)


def _brief(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_brief, value))}]"
    if not isinstance(value, Mapping):
        return str(value)
    if "class_path" not in value:
        return f"({_list_options(value)})"
    name, options = value["class_path"].rsplit(".", 1)[-1], value.get("init_args") or {}
    return f"{name} ({_list_options(options)})" if options else name


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")
