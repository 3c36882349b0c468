"""Tables of what samples are worth to a classifier: beside real data, and beside the paper's."""

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..metrics.evaluation import PUBLISHED_BUDGET

if TYPE_CHECKING:
    from rich.table import Table

#: End of the figure's name, and heading.
KINDS = (
    ("_own", "own real data\nof one client"),
    ("_pooled", "real data\nof all"),
    ("", "generated\nalone"),
    ("_mixed", "own and\ngenerated"),
)


def make_usefulness_table(row: Mapping[str, float]) -> "Table | None":
    """Return a table of what samples add to real data; None where that was not measured.

    Args:
        row: A row of metrics.csv with columns eval/<domain>/<figure>.
    """
    from rich.table import Table

    ending = "/downstream_gain"
    domains = [key.split("/")[1] for key in row if key.startswith("eval/") and key.endswith(ending)]
    if not domains:
        return None
    title = "Accuracy on real test data of one classifier, trained for as many steps on"
    table = Table("domain", title=title, title_justify="left", caption_justify="left")
    for _, heading in KINDS:
        table.add_column(heading, justify="right")
    table.add_column("gain of one client", justify="right")
    for domain in domains:
        figures = {
            key.removeprefix(f"eval/{domain}/downstream_"): value
            for key, value in row.items()
            if key.startswith(f"eval/{domain}/downstream_")
        }
        cells = [_format(figures, f"accuracy{kind}") for kind, _ in KINDS]
        gain = f"{figures['gain']:+.3f}, least {figures['gain_least']:+.3f}"
        table.add_row(domain, *cells, gain)
    table.caption = (
        "single clients: mean ± standard deviation; generated alone: by all clients together"
    )
    return table


def explain_gains(summary: Mapping[str, Any]) -> str:
    """Return least, median and most of what samples add to single clients' own data, or ""."""
    texts = []
    for name in summary["domains"]:
        gains = [
            figures["downstream_gain"]
            for figures in summary["clients"].values()
            if figures["domain"] == name and "downstream_gain" in figures
        ]
        if gains:
            least, median, most = min(gains), statistics.median(gains), max(gains)
            text = f"{name} least {least:+.3f}, median {median:+.3f}, most {most:+.3f}"
            texts.append(f"{text} ({len(gains)} clients)")
    return f"gain by generated samples: {'; '.join(texts)}" if texts else ""


def make_published_table(summary: Mapping[str, Any]) -> "Table":
    """Return a test by the paper's protocol beside the figures that its released code ships.

    Args:
        summary: Of `summarize_scores`, with the keys "published" and "budget".
    """
    from rich.table import Table

    title = "By the paper's protocol, beside the figures shipped with its released code"
    table = Table("domain", title=title, title_justify="left", caption_justify="left")
    for heading in ("accuracy", "published", "points", "score", "published", "points"):
        table.add_column(heading, justify="right")
    table.add_column("scenario of the paper")
    for name, domain in summary["domains"].items():
        accuracy = domain["together"]["downstream_accuracy"]
        score = domain["together"]["generation_score"]
        results = [result for result in summary["published"] if result["domain"] == name]
        for result in results:
            table.add_row(
                name,
                *_compare(100 * accuracy, 100 * result["accuracy"]),
                *_compare(score, result["score"]),
                f"{result['scenario']}: {result['what']}",
            )
        if not results:
            table.add_row(name, f"{100 * accuracy:.2f}", "-", "-", f"{score:.2f}", "-", "-", "none")
    table.caption = f"{describe_budget(summary['budget'])}\npublished: {PUBLISHED_BUDGET}"
    return table


def describe_budget(budget: Mapping[str, int]) -> str:
    """Return what a run has cost, in the words of PUBLISHED_BUDGET."""
    return (
        f"this run: {budget['rounds']} rounds, {budget['steps']} steps, batch "
        f"{budget['batch_size']}, {budget['clients']} clients with {budget['samples']} samples in "
        f"all, generator of {budget['generator_parameters']:,} parameters"
    )


def _compare(own: float, published: float) -> list[str]:
    return [f"{own:.2f}", f"{published:.2f}", f"{own - published:+.2f}"]


def _format(figures: Mapping[str, float], name: str) -> str:
    if name not in figures:
        return "-"
    spread = figures.get(f"{name}_std", 0.0)
    return f"{figures[name]:.3f}" + (f" ± {spread:.3f}" if spread else "")
