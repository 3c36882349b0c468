"""The command `huscf plan`: from a devices file to a plan, a table, JSON and a picture."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from ..errors import HuscfError, PlanError
from ..user_paths import expand_path
from .devices.calibration import calibrate_profile, save_profile
from .devices.profiles import read_figure
from .job import PlanJob
from .latency.events import simulate_step
from .planner import LatencyModelName, Precision
from .problem.plan_cuts import is_cut_name
from .results.result import check_output
from .results.tables import print_tables
from .search.strategies import STRATEGIES, search_plan

#: For so long the default strategy tries to prove what it has found.
PROOF_S = 2.0

_EXAMPLES = """examples:
  huscf plan --config paper/devices
  huscf plan --config paper/devices --strategy milp --output plan.yaml
  huscf plan --config paper/devices --latency_model paper --json
  huscf plan --config paper/devices --method MdGan --simulate
  huscf plan --config paper/devices --min_discriminator_head 2 --picture plan.png
  huscf plan --config paper/devices --leakage leakage.json --max_leakage 0.8
  huscf plan --calibrate here.yaml --uplink_mbit_per_s 40 --downlink_mbit_per_s 100

Cuts are numbers of blocks that a client holds: generator head, generator tail, discriminator
head, discriminator tail. A training run takes the plan that --output writes with
  model.plan: {class_path: huscf.split.SavedPlan, init_args: {path: plan.yaml}}
or searches its own with class_path: huscf.planning.SearchedPlan."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `huscf plan` with these arguments; return the exit code (0, or 2 for bad input)."""
    arguments = _make_parser().parse_args(argv)
    try:
        for name in ("config", "output", "picture", "calibrate"):
            if (path := getattr(arguments, name)) == "":
                raise PlanError(f"--{name} is empty: name a file")
            if path is not None:
                setattr(arguments, name, str(expand_path(path)))
        if arguments.calibrate:
            _calibrate(arguments)
        else:
            _plan(arguments)
    except BrokenPipeError:
        raise  # nobody reads the output, which is no error
    except (HuscfError, OSError) as error:
        print(f"huscf plan: {error}", file=sys.stderr)
        return 2
    return 0


def _plan(arguments: argparse.Namespace) -> None:
    if not arguments.config:
        raise PlanError("--config is missing: the YAML file of devices, server and assignment")
    paths = [path for path in (arguments.output, arguments.picture) if path]
    for path in paths:
        check_output(path, arguments.overwrite)
    if arguments.picture and not arguments.picture.lower().endswith(".png"):
        raise PlanError(f"--picture {arguments.picture}: it is a PNG: let its name end in .png")
    if len({Path(path).resolve() for path in (arguments.config, *paths)}) <= len(paths):
        raise PlanError(
            "--config, --output and --picture: two of them name the same file; give each its own"
        )
    given = vars(arguments)
    if arguments.forbid is not None:
        given = {**given, "forbidden_cuts": _parse_forbidden(arguments.forbid)}
    job = PlanJob.load(arguments.config, given)
    problem = job.build()
    settings = replace(job.options.search_settings, prove_within_s=PROOF_S)
    result = search_plan(problem, settings)
    if arguments.simulate:
        parts = job.subject.costs, problem.fleet, result.plan, job.options.steps_per_round
        result = replace(result, simulated_s=simulate_step(*parts))
    if arguments.picture:
        # Imported here: drawing takes a second that a table need not cost.
        from .results.pictures import draw_plan

        draw_plan(result, problem, arguments.picture)
    if arguments.output:
        result.save(arguments.output, arguments.overwrite)
    if arguments.json:
        print(json.dumps(result.to_dict(), allow_nan=False))
    else:
        print_tables(result, problem)


def _parse_forbidden(entries: Sequence[str]) -> dict[str, list[int]]:
    forbidden: dict[str, list[int]] = {}
    for entry in entries:
        name, _, count = entry.partition("=")
        if not is_cut_name(name) or not count.isdecimal():
            raise PlanError(f"--forbid {entry}: write NAME=BLOCKS, as generator_head=1")
        forbidden.setdefault(name, []).append(int(count))
    return forbidden


def _calibrate(arguments: argparse.Namespace) -> None:
    check_output(arguments.calibrate, arguments.overwrite)
    links = {}
    for name in ("uplink_mbit_per_s", "downlink_mbit_per_s"):
        if getattr(arguments, name) is None:
            raise PlanError(
                f"--calibrate: --{name} is missing; a link cannot be measured from here"
            )
        links[name] = read_figure(vars(arguments), name, "--calibrate")
    profile = calibrate_profile(links["uplink_mbit_per_s"], links["downlink_mbit_per_s"])
    save_profile(profile, arguments.calibrate)
    if arguments.json:
        print(json.dumps(profile))
    else:
        print(f"{arguments.calibrate}: {profile['speed_gflops']} GFLOP/s")


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="huscf plan",
        description="Search where to cut both networks on every client, and prove how good it is.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", help="YAML file: profiles, server, assignment, and any option below by name")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add("--output", help="write the plan as YAML, ready for a training run")
    add(
        "--simulate",
        action="store_true",
        help="give the seconds of the plan in an event simulation too, where clients do not wait "
        "for each other between passes",
    )
    add("--picture", help="write a PNG: who holds what, and the timeline of one step")
    add("--overwrite", action="store_true", help="replace files that exist")
    _add_search_options(parser.add_argument_group("search").add_argument)
    _add_goal_options(parser.add_argument_group("goal and limits").add_argument)
    add = parser.add_argument_group("calibration").add_argument
    add("--calibrate", metavar="FILE", help="measure this machine and write its profile instead")
    add("--uplink_mbit_per_s", type=float, help="link of this machine, for --calibrate")
    add("--downlink_mbit_per_s", type=float, help="link of this machine, for --calibrate")
    return parser


def _add_search_options(add: Any) -> None:
    add(
        "--strategy",
        choices=STRATEGIES,
        help="default genetic, proven by the solver of milp where that takes under two seconds; "
        "milp takes its time, exact is for paper",
    )
    add("--method", help="class of huscf.methods whose step is planned (default HuscfGan)")
    add("--latency_model", choices=get_args(LatencyModelName), help="paper: the published figures")
    add("--seed", type=int, help="of the search and of which client has which device")
    add("--batch_size", type=int, help="samples per step of every client (default 64)")
    add("--steps_per_round", type=int, help="spread the federation's traffic; 0 leaves it out")
    add("--precision", choices=get_args(Precision), help="of the run (default 32-true)")
    add("--time_limit_s", type=float, help="limit of the solver in strategy milp (default 60)")


def _add_goal_options(add: Any) -> None:
    add("--latency_weight", type=float, help="of a second of a step (default 1)")
    add("--bytes_weight", type=float, help="of a byte of a step's traffic (default 0)")
    add("--energy_weight", type=float, help="of a joule of a step (default 0); needs power_w")
    add("--leakage_weight", type=float, help="of what cuts give away, mean of clients (default 0)")
    add("--max_latency_s", type=float, help="upper limit of a step's seconds")
    add("--max_bytes_per_step", type=float, help="upper limit of a step's traffic")
    add("--max_energy_j", type=float, help="upper limit of a step's energy")
    add(
        "--max_leakage", type=float, help="of a sample's variance, 0 to 1, that a cut may give away"
    )
    add("--leakage", help="file that says what cuts do: of huscf leakage or huscf audit")
    add("--min_generator_head", type=int, help="blocks every client keeps at the input, >= 1")
    add("--min_discriminator_head", type=int, help="the same: a floor for privacy, >= 1")
    add("--forbid", action="append", metavar="NAME=BLOCKS", help="forbid a cut; may be repeated")
    add(
        "--common_boundary",
        type=_true_or_false,
        metavar="true|false",
        help="leave one boundary of the discriminator to the server for all clients, as cluster "
        "rules that compare clients need (default true)",
    )


def _true_or_false(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"is {text!r}, must be true or false")
    return text == "true"
