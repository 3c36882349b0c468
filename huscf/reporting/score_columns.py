"""One table of a run's scores: those of `huscf test`, and beside them those of its training."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .run_record import RunRecord
from .scores import FIGURES, explain_draws, format_figure, format_spread, has_figure

#: A domain's figures by key as they are written.
Column = Mapping[str, str]


@dataclass(frozen=True)
class ScoreColumns:
    """A table of scores.

    Args:
        headings: "figure", and one or two columns a domain.
        rows: Name of the figure, and a cell a column, "-" where it was not measured.
        notes: What the columns are of, a sentence each.
    """

    headings: list[str]
    rows: list[list[str]]
    notes: list[str]


def tabulate_scores(run: RunRecord, domains: Collection[str] | None = None) -> ScoreColumns | None:
    """Return a run's scores, or None where nothing was measured.

    Args:
        run: The run.
        domains: Those that are shown; None shows all.
    """
    tested = {
        name: {key: _tested(domain, key) for key, _, _ in FIGURES if has_figure(domain, key)}
        for name, domain in run.scores.get("domains", {}).items()
    }
    trained = _read_training(run)
    columns: dict[str, Column] = {}
    for name in dict.fromkeys([*tested, *trained]):
        if domains is not None and name not in domains:
            continue
        has_both = name in tested and name in trained
        for kind, measured in (("test", tested), ("training", trained)):
            if name in measured:
                columns[f"{name}, {kind}" if has_both else name] = measured[name]
    rows = [
        [heading, *(column.get(key, "-") for column in columns.values())]
        for key, heading, _ in FIGURES
        if any(key in column for column in columns.values())
    ]
    if not rows:
        return None
    return ScoreColumns(["figure", *columns], rows, _explain(run, bool(tested), bool(trained)))


def format_score(value: float | None) -> str:
    """Return a figure, or a dash."""
    return "-" if value is None else format_figure(value)


def _read_training(run: RunRecord) -> dict[str, Column]:
    """Return the last figures of the training's own evaluation by domain."""
    last = run.last()
    names = [name for name in run.domains if f"eval/{name}/judge_accuracy" in last]
    return {
        name: {
            key: format_score(last[f"eval/{name}/{key}"])
            for key, _, _ in FIGURES
            if f"eval/{name}/{key}" in last
        }
        for name in names
    }


def _explain(run: RunRecord, is_tested: bool, is_trained: bool) -> list[str]:
    notes = []
    if is_tested:
        number = run.scores.get("round")
        when = "" if number is None else f" after round {number}"
        notes.append(f"From huscf test{when}: {_explain_tests(run.scores)}.")
    if is_trained:
        round_ = max(row["round"] for row in run.rows if any(k.startswith("eval/") for k in row))
        notes.append(f"From the training's own evaluation after round {round_:.0f}.")
    if not is_tested:
        notes.append("huscf test gives the spread over draws and clients.")
    notes.append("Scores are worth as much as the judge.")
    return notes


def _explain_tests(scores: Mapping[str, Any]) -> str:
    """What the figures of `huscf test` are of; earlier versions do not tell all of it."""
    domain = next(iter(scores["domains"].values()))
    text = "all clients of a domain together"
    if count := domain.get("num_per_class"):
        text += f", {count} samples of each class"
    if "evaluation_seeds" in scores:
        text += f" ({explain_draws(scores)})"
    if domain.get("over_clients"):
        text += "; in brackets mean ± standard deviation over single clients"
        if count := domain.get("client_num_per_class"):
            text += f", {count} samples of each class each"
        if "downstream_gain" in domain["over_clients"]:
            text += " (downstream: of some of them, as many as of all together)"
    return text


def _tested(domain: Mapping[str, Any], key: str) -> str:
    over_seeds = domain.get("over_seeds", {}).get(key)  # earlier versions measured one seed
    value = domain["together"].get(key)
    together = format_score(value) if over_seeds is None else format_spread(over_seeds)
    spread = domain.get("over_clients", {}).get(key)
    return together if spread is None else f"{together} ({format_spread(spread)})"
