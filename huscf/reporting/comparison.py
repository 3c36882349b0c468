"""Several runs side by side: final figures, differing configuration, curves, spread over seeds."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import make_printable
from ..nested_values import flatten
from .charts import draw_panels
from .figure_table import BEST, Spread, choose_best, find_direction
from .run_record import Row, RunRecord

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

#: Keys that say where and how a run went, not what it was.
UNINTERESTING = ("trainer.default_root_dir", "trainer.logger", "trainer.callbacks", "ckpt_path")

#: Keys that follow seed_everything.
SEED_KEYS = ("seed_everything", "data.init_args.seed", "model.seed")

#: Keys in which runs may differ and yet be repetitions of each other.
SHOWN_ONLY = (
    *("run.name", "report.", "samples.", "wandb.", "federation_log.", "training."),
    "trainer.enable_progress_bar",
)


class Repetitions(NamedTuple):
    """Runs that differ in the seed alone.

    Args:
        runs: Those to take a mean over: one a seed, all of the same last round.
        left_out: The others, and why.
    """

    runs: list[RunRecord]
    left_out: list[tuple[RunRecord, str]]


def print_comparison(runs: Sequence[RunRecord]) -> None:
    """Print the last figures of every run, their spread over seeds, and the keys that differ."""
    from rich.console import Console

    console = Console(width=max(100, Console().width))
    figures = [final_figures(run) for run in runs]
    names = list(dict.fromkeys(name for row in figures for name in row))
    table = _make_table("Final figures", "figure", name_apart(runs))
    _add_figures(table, names, [[Spread.over([row.get(n)]) for n in names] for row in figures])
    console.print(table)
    repetitions = group_repetitions(runs)
    if groups := [group.runs for group in repetitions if len(group.runs) > 1]:
        console.print(_make_spread_table(groups, names))
    called = dict(zip((run.folder for run in runs), name_apart(runs), strict=True))
    for run, reason in (odd for group in repetitions for odd in group.left_out):
        line = as_text(f"not in the mean over seeds: {called[run.folder]}, {reason}")
        console.print(line, soft_wrap=True)
    if len(runs) > 1:
        settings = _make_table("Differing configuration", "key", name_apart(runs))
        configs = [{**run.config, **_describe_test(run)} for run in runs]
        for key, values in differing_keys(configs).items():
            settings.add_row(*map(as_text, [key, *values]))
        console.print(settings if settings.rows else "The configurations do not differ.")


def final_figures(run: RunRecord) -> Row:
    """Return the last value of every figure of training, and those of the newest `huscf test`.

    The latter are called test/<domain>/<figure>, of all clients of the domain together or else the
    mean over single ones, and test/round, the round after which they were measured.
    """
    tested = {
        f"test/{domain}/{name}": value
        for domain, scores in run.scores.get("domains", {}).items()
        for name, value in (_mean_over_clients(scores) | scores["together"]).items()
    }
    if tested and run.scores.get("round") is not None:
        tested = {"test/round": run.scores["round"], **tested}
    return {**run.last(), **tested}


def _mean_over_clients(scores: Mapping[str, Any]) -> Row:
    """Return what samples are worth to single clients, which all together cannot have."""
    return {
        name: spread["mean"]
        for name, spread in scores.get("over_clients", {}).items()
        if name.startswith("downstream_")
    }


def group_repetitions(runs: Sequence[RunRecord]) -> list[Repetitions]:
    """Return the groups of runs whose configurations differ in nothing but the seed."""
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        kept = {
            key: value
            for key, value in flatten(run.config).items()
            if key not in SEED_KEYS and not key.startswith((*UNINTERESTING, *SHOWN_ONLY))
        }
        groups.setdefault(repr(sorted(kept.items())), []).append(run)
    several = [group for group in groups.values() if len({seed_of(run) for run in group}) > 1]
    return [_choose_repetitions(group) for group in several]


def _choose_repetitions(group: Sequence[RunRecord]) -> Repetitions:
    last = max(map(_last_round, group))
    chosen: dict[Any, RunRecord] = {}
    left_out = []
    for run in group:
        number, seed = _last_round(run), seed_of(run)
        if number != last and not _stops_early(run):
            left_out.append((run, f"it ends after round {number:g}, others after {last:g}"))
        elif seed in chosen:
            left_out.append((run, f"seed {seed} a second time"))
        else:
            chosen[seed] = run
    return Repetitions(list(chosen.values()), left_out)


def _last_round(run: RunRecord) -> float:
    return run.last().get("round", 0.0)


def _stops_early(run: RunRecord) -> bool:
    """Return whether a figure decides when the run ends, so that repetitions differ in length."""
    return "EarlyStopping" in str((run.config.get("trainer") or {}).get("callbacks"))


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


def _make_spread_table(groups: Sequence[Sequence[RunRecord]], names: Sequence[str]) -> "Table":
    headings = []
    for group in groups:
        seeds = ", ".join(map(str, map(seed_of, group)))
        headings.append(f"{', '.join(name_apart(group))}\nseeds {seeds}")
    table = _make_table("Mean ± standard deviation over seeds", "figure", headings)
    figures = [repeated_figures(group) for group in groups]
    columns = [[Spread.over([row.get(n) for row in each]) for n in names] for each in figures]
    _add_figures(table, names, columns)
    return table


def _add_figures(
    table: "Table", names: Sequence[str], columns: Sequence[Sequence[Spread | None]]
) -> None:
    """Add a line a figure that any column has, and mark the best of each."""
    is_marked = False
    for name, *cells in zip(names, *columns, strict=True):
        if not any(cells):
            continue
        is_more = find_direction(name)
        means = [None if cell is None else cell.mean for cell in cells]
        best = [] if is_more is None else choose_best(means, is_more)
        texts = ["-" if cell is None else str(cell) for cell in cells]
        table.add_row(as_text(name), *(t + BEST * (n in best) for n, t in enumerate(texts)))
        is_marked |= bool(best)
    if is_marked:
        table.caption, table.caption_justify = f"{BEST.strip()} the best of its line", "left"


def repeated_figures(group: Sequence[RunRecord]) -> list[Row]:
    """Return the runs' figures, without those of `huscf test` where it measured differently."""
    rows = [final_figures(run) for run in group]
    ways = [_describe_test(run) for run in group if run.scores]
    if all(way == ways[0] for way in ways):
        return rows
    return [{k: v for k, v in row.items() if not k.startswith("test/")} for row in rows]


def _describe_test(run: RunRecord) -> dict[str, Any]:
    """Return how the newest `huscf test` measured, as keys beside those of the configuration."""
    known = {key: run.scores.get(key) for key in ("plain_judge", "inception", "round")}
    known["protocol"] = run.scores.get("protocol", "huscf")  # earlier versions have one
    known["data_changed"] = run.scores.get("data_changed", False)  # earlier versions do not tell
    known["num_per_class"] = sorted(
        {domain.get("num_per_class", 0) for domain in run.scores.get("domains", {}).values()}
    )
    return {f"huscf test: {key}": value for key, value in known.items()}


def _make_table(title: str, heading: str, names: Sequence[str]) -> "Table":
    from rich.table import Table

    table = Table(heading, title=title, title_justify="left")
    for name in names:
        table.add_column(as_text(name), justify="right", overflow="fold")
    return table


def as_text(text: str) -> "Text":
    """Return text for the terminal that is shown as it is: neither markup nor signs that steer."""
    from rich.text import Text

    return Text(make_printable(text))


def seed_of(run: RunRecord) -> Any:
    """Return the seed of a run's configuration."""
    return run.config.get("seed_everything", "-")
