"""Several runs side by side: final figures, differing configuration, curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..nested_values import flatten
from .charts import draw_panels
from .run_record import RunRecord

#: Keys that say where and how a run went, not what it was.
UNINTERESTING = ("trainer.default_root_dir", "trainer.logger", "trainer.callbacks", "ckpt_path")


def print_comparison(runs: Sequence[RunRecord]) -> None:
    """Print the last figures of every run, then the configuration keys in which they differ."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(100, Console().width))
    figures = Table(title="Final figures", title_justify="left")
    settings = Table(title="Differing configuration", title_justify="left")
    for table, heading in ((figures, "figure"), (settings, "key")):
        table.add_column(heading)
        for name in name_apart(runs):
            table.add_column(name, justify="right", overflow="fold")
    last = [run.last() for run in runs]
    for name in dict.fromkeys(name for row in last for name in row):
        figures.add_row(name, *(f"{row[name]:.4g}" if name in row else "-" for row in last))
    for key, values in differing_keys([run.config for run in runs]).items():
        settings.add_row(key, *values)
    console.print(figures)
    if len(runs) > 1:
        console.print(settings if settings.rows else "The configurations do not differ.")


def name_apart(runs: Sequence[RunRecord]) -> list[str]:
    """Return the runs' names, or their folders as given where names repeat."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the keys that differ with the value of each configuration, "-" where missing."""
    flat = [flatten(config) for config in configs]
    keys = sorted({key for one in flat for key in one if not key.startswith(UNINTERESTING)})
    values = {key: [str(one.get(key, "-")) for one in flat] for key in keys}
    return {key: row for key, row in values.items() if len(set(row)) > 1}


def draw_comparison(runs: Sequence[RunRecord]) -> bytes:
    """Return a PNG of the runs' curves, one colour per run."""
    return draw_panels(runs, name_apart(runs))
