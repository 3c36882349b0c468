"""The scores of `huscf test` as plain values for metrics.json and as tables for people."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..metrics import InceptionFeatures
from ..metrics.evaluation import DomainScores, TestProtocol
from .usefulness import explain_gains

if TYPE_CHECKING:
    from rich.table import Table

#: Figure, heading, and whether more is better; the order of the tables.
FIGURES = (
    ("judge_accuracy", "judge on real data", True),
    ("label_accuracy", "label accuracy", True),
    ("generation_score", "generation score", True),
    ("generation_score_real", "... of real data", True),
    ("frechet_distance", "Frechet distance", False),
    ("frechet_distance_real", "... of real data", False),
    ("kernel_distance", "kernel distance", False),
    ("precision", "precision", True),
    ("recall", "recall", True),
    ("density", "density", True),
    ("coverage", "coverage", True),
    ("nearest_real_ratio", "nearest real ratio", True),
    ("spectral_distance_db", "spectral distance dB", False),
    ("downstream_accuracy", "downstream accuracy", True),
    ("downstream_accuracy_pooled", "... pooled real data", True),
    ("downstream_accuracy_own", "... own real data", True),
    ("downstream_accuracy_generated", "... own samples", True),
    ("downstream_accuracy_mixed", "... own data+samples", True),
    ("downstream_gain", "... gain by samples", True),
    ("downstream_precision", "downstream precision", True),
    ("downstream_recall", "downstream recall", True),
    ("downstream_f1", "downstream F1", True),
    ("downstream_fpr", "downstream FPR", False),
    ("fid", "FID (Inception)", False),
    ("kid", "KID (Inception)", False),
)

#: More domains beside each other would not fit on a usual screen.
DOMAINS_PER_TABLE = 2

#: Figures of the short tables.
BRIEF = ("judge_accuracy", "label_accuracy", "generation_score", "frechet_distance")


def summarize_scores(
    scores: Sequence[DomainScores],
    clusters: Mapping[int, int],
    seed: int,
    inception: InceptionFeatures | None = None,
    plain_judge: bool = False,
    protocol: TestProtocol = "huscf",
) -> dict[str, Any]:
    """Return scores per domain and per cluster as plain values.

    Args:
        scores: One entry per domain.
        clusters: Cluster of every client.
        seed: The run's seed, of which the sampling noise is derived.
        inception: Where FID and KID come from, or None.
        plain_judge: Whether scores rest on a plain judge.
        protocol: How a test has measured.

    Returns:
        seed, evaluation_seeds, protocol, plain_judge, inception; domains: {name: {together,
        over_seeds, by_seed, over_clients}}, clusters: {number: over_clients}, clients: {id:
        figures}. together is the mean over evaluation seeds; over_seeds and over_clients are
        {figure: {mean, std, n}}, std is that of a sample.
    """
    by_client = {c: (s.domain, figures) for s in scores for c, figures in s.by_client.items()}
    members = {
        cluster: [c for c in by_client if clusters[c] == cluster]
        for cluster in sorted({clusters[c] for c in by_client})
    }
    return {
        "seed": seed,
        "evaluation_seeds": list(scores[0].by_seed) if scores else [],
        "protocol": protocol,
        "plain_judge": plain_judge,
        "inception": inception and asdict(inception),
        "domains": {
            s.domain: {
                "together": s.together,
                "over_seeds": _over(list(s.by_seed.values())),
                "by_seed": {str(number): figures for number, figures in s.by_seed.items()},
                "num_per_class": s.num_per_class,
                "num_clients": s.num_clients,
                "clients_measured": list(s.by_client),
                "client_num_per_class": s.client_num_per_class,
                "over_clients": _over(list(s.by_client.values())),
            }
            for s in scores
        },
        "clusters": {
            str(cluster): {
                "clients": ids,
                "domains": sorted({by_client[c][0] for c in ids}),
                "over_clients": _over([by_client[c][1] for c in ids]),
            }
            for cluster, ids in members.items()
        },
        "clients": {
            str(c): {"domain": domain, "cluster": clusters[c], **figures}
            for c, (domain, figures) in by_client.items()
        },
    }


def make_score_tables(summary: Mapping[str, Any]) -> list["Table"]:
    """Return tables of the domains and, where clients were measured, one of the clusters."""
    names = list(summary["domains"])
    starts = range(0, len(names), DOMAINS_PER_TABLE)
    tables = [_domain_table(summary, names[at : at + DOMAINS_PER_TABLE]) for at in starts]
    if tables:
        tables[-1].caption = _explain(summary)
        tables[-1].caption_justify = "left"
    if summary["clusters"]:
        tables.append(_cluster_table(summary["clusters"]))
    return tables


def make_evaluation_table(row: Mapping[str, float]) -> "Table":
    """Return a table of a training run's own evaluation.

    Args:
        row: A row of metrics.csv with columns eval/<domain>/<figure>.
    """
    from rich.table import Table

    domains = list(dict.fromkeys(key.split("/")[1] for key in row if key.startswith("eval/")))
    table = Table(title="Scores of all clients together", title_justify="left")
    table.add_column("domain", no_wrap=True)
    chosen = (*BRIEF, "nearest_real_ratio", "downstream_accuracy")
    headings = {key: heading for key, heading, _ in FIGURES}
    for key in chosen:
        table.add_column(headings[key], justify="right")
    for domain in domains:
        values = [row.get(f"eval/{domain}/{key}") for key in chosen]
        cells = ("-" if value is None else format_figure(value) for value in values)
        table.add_row(domain, *cells)
    return table


def format_figure(value: float, scale: float | None = None) -> str:
    """Return three decimals, or five for what is close to zero.

    Args:
        value: What is written.
        scale: What decides about its decimals; None is the value itself.
    """
    size = abs(value if scale is None else scale)
    return f"{value:.5f}" if 0 < size < 0.01 else f"{value:.3f}"


def format_spread(spread: Mapping[str, float] | None) -> str:
    """Return "mean ± std", the mean alone where nothing varies, or a dash."""
    if spread is None:
        return "-"
    mean = format_figure(spread["mean"])
    if spread["n"] < 2 or spread["std"] == 0:
        return mean
    return f"{mean} ± {format_figure(spread['std'], spread['mean'])}"


def has_figure(domain: Mapping[str, Any], key: str) -> bool:
    """Return whether a test measured a figure of a domain: of all clients, or of single ones."""
    return key in domain["together"] or key in domain.get("over_clients", {})


def _domain_table(summary: Mapping[str, Any], names: Sequence[str]) -> "Table":
    from rich.table import Table

    domains = {name: summary["domains"][name] for name in names}
    table = Table(title=f"Scores by domain (run of seed {summary['seed']})", title_justify="left")
    table.add_column("better")
    table.add_column("figure")
    for name, domain in domains.items():
        table.add_column(f"{name}\ntogether", justify="right")
        if domain["over_clients"]:
            table.add_column(f"{name}\nper client", justify="right")
    for key, heading, is_more_better in FIGURES:
        if not any(has_figure(domain, key) for domain in domains.values()):
            continue
        cells = []
        for domain in domains.values():
            cells.append(format_spread(domain["over_seeds"].get(key)))
            if domain["over_clients"]:
                cells.append(format_spread(domain["over_clients"].get(key)))
        table.add_row("more" if is_more_better else "less", heading, *cells)
    return table


def _explain(summary: Mapping[str, Any]) -> str:
    domain = next(iter(summary["domains"].values()))
    text = (
        f"together: {domain['num_per_class']} samples of each class over all clients of the "
        f"domain; {explain_draws(summary)}. The scores are worth as much as the judge."
    )
    if not domain["over_clients"]:
        return text
    measured, count = len(domain["clients_measured"]), domain["num_clients"]
    text += (
        f"\nper client: mean ± standard deviation over {measured} of {count} clients, "
        f"{domain['client_num_per_class']} samples of each class each. Distances grow with fewer "
        "samples: compare them within their column."
    )
    if gains := explain_gains(summary):
        text += (
            f"\n{gains}. All downstream figures: one classifier, as many steps, as many samples as "
            "of all together."
        )
    return text


def explain_draws(summary: Mapping[str, Any]) -> str:
    """Return what the spread of all clients' figures is over, and what the figures rest on."""
    seeds = summary["evaluation_seeds"]
    names = ", ".join(map(str, seeds))
    text = f"mean ± standard deviation over {len(seeds)} draws, evaluation seeds {names}"
    if len(seeds) < 2:
        text = f"one draw, evaluation seed {names}"
    if summary.get("data_changed"):
        text += "; against other data than the run was trained on"
    if summary.get("protocol") == "paper":
        text += "; by the protocol of the paper: a downstream classifier trained for 15 epochs"
    if summary.get("plain_judge"):
        text += "; scores and distances under a plain judge"
    if inception := summary.get("inception"):
        antialias = str(inception["antialias"]).lower()
        text += (
            f"; FID and KID of at most {inception['max_samples']} pictures and as many real test "
            f"pictures, resized with antialias {antialias}"
        )
    return text


def _cluster_table(clusters: Mapping[str, Any]) -> "Table":
    from rich.table import Table

    title = "Scores by cluster, mean ± standard deviation over its measured clients"
    table = Table("cluster", "clients", "domains", title=title, title_justify="left")
    headings = {key: heading for key, heading, _ in FIGURES}
    for key in BRIEF:
        table.add_column(headings[key], justify="right")
    for name, cluster in clusters.items():
        cells = [format_spread(cluster["over_clients"].get(key)) for key in BRIEF]
        table.add_row(name, str(len(cluster["clients"])), ", ".join(cluster["domains"]), *cells)
    return table


def _over(figures: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return the spread of every figure over those that have it."""
    spreads = {}
    for name in dict.fromkeys(name for f in figures for name in f):
        values = [f[name] for f in figures if name in f]
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        spreads[name] = {"mean": statistics.fmean(values), "std": std, "n": len(values)}
    return spreads
