"""Figures of several runs as a table in Markdown or LaTeX; the best of every column is marked."""

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import make_printable
from .scores import FIGURES

#: Stands behind a best figure where text is plain.
BEST = " *"

#: What real data reach, which no run has earned.
_REFERENCES = frozenset(
    {
        *("judge_accuracy", "generation_score_real", "frechet_distance_real"),
        *("downstream_accuracy_pooled", "downstream_accuracy_own"),
        *("downstream_f1_pooled", "downstream_f1_own"),
    }
)

#: Whether more is better, by the last part of a figure's name; others have no direction.
_DIRECTIONS = {name: more for name, _, more in FIGURES if name not in _REFERENCES} | {
    "downstream_f1_generated": True,
    "downstream_f1_mixed": True,
    "ari": True,
    "mbytes": False,
    "seconds": False,
    "dropped_steps": False,
    "latency_s": False,
    "distance": False,
}

_HEADINGS = {name: heading for name, heading, _ in FIGURES if not heading.startswith("...")}

_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "±": "$\\pm$",
    "↑": "$\\uparrow$",
    "↓": "$\\downarrow$",
}


@dataclass(frozen=True)
class Spread:
    """A figure over repetitions of a run.

    Args:
        mean: Over those that have it.
        std: Standard deviation of a sample; 0 of a single one.
        num_known: How many have it, at least 1.
        num_asked: Of how many.
    """

    mean: float
    std: float
    num_known: int
    num_asked: int

    @classmethod
    def over(cls, values: Sequence[float | None]) -> "Spread | None":
        """Return the spread of values, None where there are none."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        std = statistics.stdev(known) if len(known) > 1 else 0.0
        return cls(statistics.fmean(known), std, len(known), len(values))

    def __str__(self) -> str:
        """Return "mean ± std", and of how many where some lack the figure."""
        text = f"{self.mean:.4g}" + (f" ± {self.std:.2g}" if self.std else "")
        lacks = self.num_known < self.num_asked
        return f"{text} ({self.num_known} of {self.num_asked})" if lacks else text


@dataclass(frozen=True)
class FigureRow:
    """One line.

    Args:
        labels: What it is of, one by heading of the table.
        figures: By column.
        group: Only lines of one group compete for the best figure.
    """

    labels: tuple[str, ...]
    figures: Mapping[str, Spread]
    group: str = ""


@dataclass(frozen=True)
class FigureTable:
    """Lines of figures; columns that no line has are left out.

    Args:
        headings: Of the labels.
        rows: The lines.
        directions: Whether more is better, by column; columns without are not compared.
        order: Columns that come first, if any line has them.
    """

    headings: tuple[str, ...]
    rows: tuple[FigureRow, ...]
    directions: Mapping[str, bool]
    order: Sequence[str] = ()

    @property
    def columns(self) -> list[str]:
        """The figures that any line has."""
        found = dict.fromkeys(name for row in self.rows for name in row.figures)
        return list(dict.fromkeys([*(name for name in self.order if name in found), *found]))

    def best(self) -> set[tuple[int, str]]:
        """Return line and column of the best figures of each group; see `choose_best`."""
        found = set()
        for name, is_more in self.directions.items():
            for group in {row.group for row in self.rows}:
                means = [
                    row.figures[name].mean if row.group == group and name in row.figures else None
                    for row in self.rows
                ]
                found |= {(line, name) for line in choose_best(means, is_more)}
        return found

    def to_markdown(self) -> str:
        """Return a Markdown table, the best figures in bold."""
        alignment = ["---"] * len(self.headings) + ["---:"] * len(self.columns)
        lines = [self._heads(), alignment]
        lines += self._texts(lambda text: f"**{text}**", _escape_markdown)
        return "".join("| " + " | ".join(line) + " |\n" for line in lines)

    def to_latex(self) -> str:
        """Return a LaTeX tabular, which needs the package booktabs, the best figures in bold."""
        columns = "l" * len(self.headings) + "r" * len(self.columns)
        body = self._texts(lambda text: f"\\textbf{{{text}}}", _escape_latex)
        lines = [
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            " & ".join(map(_escape_latex, self._heads())) + " \\\\",
            "\\midrule",
            *(" & ".join(line) + " \\\\" for line in body),
            "\\bottomrule",
            "\\end{tabular}",
        ]
        return "\n".join(lines) + "\n"

    def to_texts(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and lines as plain text, BEST behind the best figures."""
        return self._heads(), self._texts(lambda text: text + BEST, str)

    def _heads(self) -> list[str]:
        arrows = {True: " ↑", False: " ↓", None: ""}
        heads = [name_column(n) + arrows[self.directions.get(n)] for n in self.columns]
        return [*self.headings, *heads]

    def _texts(self, mark: Callable[[str], str], escape: Callable[[str], str]) -> list[list[str]]:
        best, lines = self.best(), []
        for number, row in enumerate(self.rows):
            cells = [escape(make_printable(label)) for label in row.labels]
            for name in self.columns:
                text = escape(str(row.figures[name])) if name in row.figures else "-"
                cells.append(mark(text) if (number, name) in best else text)
            lines.append(cells)
        return lines


def choose_best(values: Sequence[float | None], is_more: bool) -> list[int]:
    """Return the places of the best values, all that are printed like it.

    Where there are not two values that are printed differently, none is the best.

    Args:
        values: None where there is none.
        is_more: Whether more is better.
    """
    known = {place: value for place, value in enumerate(values) if value is not None}
    printed = {place: f"{value:.4g}" for place, value in known.items()}
    if len(set(printed.values())) < 2:
        return []
    top = (max if is_more else min)(known, key=lambda place: known[place])
    return [place for place in known if printed[place] == printed[top]]


def find_direction(name: str) -> bool | None:
    """Return whether more of a figure is better, None where neither is or it says nothing of a run.

    Args:
        name: As in metrics.csv, or test/<domain>/<figure>.
    """
    if name.startswith(("train/", "val/")) and name.endswith("_loss"):
        return None
    return _DIRECTIONS.get(name.rpartition("/")[2])


def name_column(name: str) -> str:
    """Return how a table calls a figure: "eval/digits/recall" is "digits: recall"."""
    parts = name.split("/")
    if len(parts) == 3 and parts[0] in ("eval", "test", "val"):
        return f"{parts[1]}: {_HEADINGS.get(parts[2], parts[2].replace('_', ' '))}"
    return name


def _escape_markdown(text: str) -> str:
    return text.replace("|", "/")


def _escape_latex(text: str) -> str:
    return re.sub(r"[&%$#_{}\\~^±↑↓]", lambda found: _LATEX[found[0]], text)
