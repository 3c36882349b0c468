"""The command `huscf bench`: a grid of runs, its tables and its page."""

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..commands import CommandParser
from ..errors import HuscfError, check_number
from ..planning import DevicesFile
from ..reporting import RunRecord
from ..signals import sigterm_as_interrupt
from .grid import Cell, Grid
from .latency import simulate_step
from .page import write_page
from .records import digest_config, find_folder, find_reason, is_done
from .running import check_cells, count_jobs, run_cells
from .tables import Measured, make_rows, measure, write_tables

_EXAMPLES = """examples:
  huscf bench --config quickstart --seeds 0 1 2 --trainer.max_epochs 20
  huscf bench --config bench/digits
  huscf bench --config bench/digits --seeds 0 1 2 --methods huscf fedgan --scenarios iid
  huscf bench --config bench/digits \\
    --grid model.method.init_args.generator_lr=1e-3,5e-4 --output runs/rates

--config takes bench files and configurations of runs; options of `huscf fit` hold for every run.
Values of --grid are what stands in a YAML list: 1,2 or [1, 2],[2, 2] or null,{class_path: A}.
The same command goes on where it stopped, and tries again what failed. A run whose configuration
has changed since begins anew, in a new folder. Tables and page are of what was chosen; give fewer
choices with --only_table for more of what has been run."""


def main(argv: Sequence[str]) -> int:
    """Run `huscf bench`; return 0, or 1 where a run of the grid failed.

    Raises:
        HuscfError: For input that the user can mend.
    """
    parser = CommandParser(
        prog="huscf bench",
        description="Run methods, scenarios, keys and seeds as a grid, and put them side by side.",
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    files = "a bench file or a run's configuration; later ones win"
    add("--config", required=True, action="append", type=Path, help=files)
    add("--grid", action="append", default=[], metavar="KEY=V,V", help="try these values of a key")
    add("--seeds", type=int, nargs="+", help="in place of the file's")
    add("--methods", nargs="+", metavar="NAME", help="these of the file alone")
    add("--scenarios", nargs="+", metavar="NAME", help="likewise")
    add("--output", type=Path, help="folder of runs, tables and page")
    add("--jobs", type=int, default=0, help="runs side by side (default: as the cores allow)")
    add("--only_table", action="store_true", help="run nothing; write tables and page anew")
    options, others = parser.parse_known_args(list(argv))
    check_number("--jobs", options.jobs)
    given = options.config, options.grid, options.seeds, options.output
    grid = Grid.load(*given, parse_options(others)).choose(options.methods, options.scenarios)
    cells, failed = grid.list_cells(), 0
    if grid.devices is not None:
        DevicesFile.load(grid.devices)  # before anything runs
    if not options.only_table:
        configs = check_cells(cells, grid.output)
        digests = {variant: digest_config(config) for variant, config in configs.items()}
        cells = [replace(cell, digest=digests.get(cell.variant)) for cell in cells]
        jobs = options.jobs or count_jobs(list(configs.values()))
        for variant, config in configs.items():
            if (config.get("evaluation") or {}).get("every_n_rounds", 0) < 0:
                print(f"{variant} will have no scores: evaluation.every_n_rounds is below 0")
        try:
            with sigterm_as_interrupt():
                failed = run_cells(cells, grid.output, lambda line: print(line, flush=True), jobs)
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on", flush=True)
            failed = 1
    _write(grid, cells)
    return int(failed > 0)


def parse_options(words: Sequence[str]) -> dict[str, str]:
    """Return options as `huscf fit` takes them, --key=value or --key value, by key.

    Raises:
        HuscfError: Naming what is none.
    """
    found, waiting = {}, ""
    for word in words:
        if waiting:
            found[waiting], waiting = word, ""
        elif word.startswith("--"):
            key, mark, value = word[2:].partition("=")
            found |= {key: value} if mark else {}
            waiting = "" if mark else key
        else:
            raise HuscfError(f"{word}: an option begins with --; see huscf bench --help")
    if waiting:
        raise HuscfError(f"--{waiting}: its value is missing")
    return found


def _write(grid: Grid, cells: Sequence[Cell]) -> None:
    output = grid.output
    devices = None if grid.devices is None else DevicesFile.load(grid.devices)
    measured: list[Measured] = []
    for cell in cells:
        folder = find_folder(cell, output)
        if folder is not None and is_done(cell, output):
            run = RunRecord.read(folder)
            seconds = None if devices is None else simulate_step(run, devices)
            measured.append(measure(cell, run, seconds))
    if not output.is_dir():
        raise HuscfError(f"{output}: nothing has run yet")
    rows = make_rows(cells, measured, lambda cell: find_reason(cell, output))
    write_tables(rows, measured, output)
    names = ", ".join(str(output / f"table.{ending}") for ending in ("md", "tex", "csv"))
    print(f"tables: {names}")
    print(f"page: {write_page(rows, measured, output)}")
