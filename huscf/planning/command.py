"""The command `huscf plan`: from a devices file to a plan, a table, JSON and pictures."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from ..errors import HuscfError, PlanError
from ..models import ConditionalDiscriminator, ConditionalGenerator, SampleShape
from ..split import ClientPlan, PlanRequest
from .calibration import calibrate_profile, save_profile
from .constraints import CUT_NAMES
from .fleet import DevicesFile, load_mapping
from .planner import (
    LatencyModelName,
    PlanOptions,
    PlanSubject,
    Precision,
    build_problem,
    read_file_keys,
)
from .problem import PlanProblem
from .profiles import read_figure, read_whole
from .result import PlanResult, check_output
from .search import STRATEGIES, search_plan
from .trade_off import sweep_trade_off

_NETWORK_DEFAULTS = {
    "channels": 1,
    "image_size": 28,
    "num_classes": 10,
    "latent_dim": 100,
    "width": 64,
    "depth": 5,
}
_OPTION_KEYS = ("batch_size", *(entry.name for entry in fields(PlanOptions)))

_EXAMPLES = """examples:
  huscf plan --config configs/paper/devices.yaml
  huscf plan --config configs/paper/devices.yaml --strategy milp --output plan.yaml
  huscf plan --config configs/paper/devices.yaml --latency_model paper --json
  huscf plan --config configs/paper/devices.yaml --min_discriminator_head 2 --picture plan.png
  huscf plan --calibrate here.yaml --uplink_mbit_per_s 40 --downlink_mbit_per_s 100

Cuts are numbers of blocks that a client holds: generator head, generator tail, discriminator
head, discriminator tail. A training run takes the plan that --output writes with
  model.plan: {class_path: huscf.split.SavedPlan, init_args: {path: plan.yaml}}
or searches its own with class_path: huscf.planning.SearchedPlan."""


@dataclass(frozen=True)
class _Job:
    """A planning task as read from the file and the command line."""

    devices: DevicesFile
    networks: Mapping[str, int]
    batch_size: int
    options: PlanOptions


def main(argv: Sequence[str] | None = None) -> int:
    """Run `huscf plan` with these arguments; return the exit code (0, or 2 for bad input)."""
    arguments = _make_parser().parse_args(argv)
    try:
        if arguments.calibrate:
            _calibrate(arguments)
        else:
            _plan(arguments)
    except (HuscfError, OSError) as error:
        print(f"huscf plan: {error}", file=sys.stderr)
        return 2
    return 0


def _plan(arguments: argparse.Namespace) -> None:
    if not arguments.config:
        raise PlanError("--config is missing: the YAML file of devices, server and assignment")
    paths = [path for path in (arguments.output, arguments.picture, arguments.pareto) if path]
    for path in paths:
        check_output(path, arguments.overwrite)
    if len({Path(path).resolve() for path in (arguments.config, *paths)}) <= len(paths):
        raise PlanError(
            "--config, --output, --picture and --pareto: two of them name the same file; give each "
            "its own"
        )
    job = _read_job(arguments)
    fleet = job.devices.make_fleet(
        {client: job.batch_size for client in job.devices.client_ids()}, job.options.seed
    )
    subject = _measure(job)
    problem = build_problem(subject, fleet, job.options)
    result = search_plan(problem, job.options.search_settings)
    _write_files(arguments, job, problem, result)
    if arguments.json:
        print(json.dumps(result.to_dict(), allow_nan=False))
    else:
        _print_tables(result, problem)


def _write_files(
    arguments: argparse.Namespace, job: _Job, problem: PlanProblem, result: PlanResult
) -> None:
    if arguments.picture or arguments.pareto:
        # Imported here: drawing takes a second that a table need not cost.
        from .pictures import draw_pareto, draw_plan

        if arguments.pareto:
            rival = arguments.pareto_against
            points = sweep_trade_off(problem, rival, job.options.search_settings)
            draw_pareto(points, rival, arguments.pareto)
        if arguments.picture:
            draw_plan(result, problem, arguments.picture)
    if arguments.output:
        result.save(arguments.output, arguments.overwrite)


def _measure(job: _Job) -> PlanSubject:
    sizes = job.networks
    shape = SampleShape(sizes["channels"], sizes["image_size"], sizes["num_classes"])
    width, depth = sizes["width"], sizes["depth"]
    request = PlanRequest(
        ConditionalGenerator(shape, sizes["latent_dim"], width, depth),
        ConditionalDiscriminator(shape, width, depth),
        shape,
        sizes["latent_dim"],
        {0: job.batch_size},
    )
    return PlanSubject.measure(request, job.options.precision)


def _read_job(arguments: argparse.Namespace) -> _Job:
    path = arguments.config
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    if "forbid" in given:
        given["forbidden_cuts"] = _parse_forbidden(given["forbid"])
    values = load_mapping(path)
    try:
        merged = {"batch_size": 64, "networks": {}, **read_file_keys(values)}
        merged |= {key: value for key, value in given.items() if key in _OPTION_KEYS}
        return _Job(
            DevicesFile.from_dict(values),
            _read_networks(merged["networks"]),
            read_whole(merged, "batch_size", "plan"),
            PlanOptions.from_dict(merged),
        )
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def _read_networks(values: Any) -> dict[str, int]:
    if not isinstance(values, Mapping):
        raise PlanError("networks: must be a mapping of sizes")
    for key in values:
        if key not in _NETWORK_DEFAULTS:
            raise PlanError(f"networks: unknown key {key}; known: {', '.join(_NETWORK_DEFAULTS)}")
    merged = {**_NETWORK_DEFAULTS, **values}
    for key in merged:
        if read_whole(merged, key, "networks") < 1:
            raise PlanError(f"networks: {key} is {merged[key]}, must be >= 1")
    return merged


def _parse_forbidden(entries: Sequence[str]) -> dict[str, list[int]]:
    forbidden: dict[str, list[int]] = {}
    for entry in entries:
        name, _, count = entry.partition("=")
        if name not in CUT_NAMES or not count.isdecimal():
            raise PlanError(
                f"--forbid {entry}: write NAME=BLOCKS with a name of {', '.join(CUT_NAMES)}"
            )
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


def _print_tables(result: PlanResult, problem: PlanProblem) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    clients = Table(title=f"plan ({result.strategy}, latency_model {result.latency_model})")
    clients.add_column("profile")
    for name in ("clients", "gen head/tail", "disc head/tail", "memory MiB"):
        clients.add_column(name, justify="right")
    for profile, entries in _group_entries(result).items():
        cuts, size = entries[0].cuts, result.memory_bytes[entries[0].client_id]
        clients.add_row(
            profile[0],
            str(len(entries)),
            f"{cuts.generator_head} / {cuts.generator_tail}",
            f"{cuts.discriminator_head} / {cuts.discriminator_tail}",
            f"{size / 2**20:.1f}",
        )
    stages = Table(title="time by stage")
    stages.add_column("stage")
    for name in ("seconds", "share"):
        stages.add_column(name, justify="right")
    for name, seconds in result.stages.items():
        stages.add_row(name, f"{seconds:.4f}", f"{seconds / result.latency_s:.1%}")
    console.print(clients, stages)
    console.print(
        f"{_describe_goal(result, problem.objective.is_latency)}   gap {result.gap:.4%}   "
        f"search {result.seconds:.3f} s   {len(problem.fleet.clients)} clients   "
        f"seed {result.seed}",
        highlight=False,
        soft_wrap=True,
    )


def _describe_goal(result: PlanResult, is_latency: bool) -> str:
    latency = f"latency {result.latency_s:.6f} s   bound {result.lower_bound_s:.6f}"
    if is_latency:
        return f"{latency} ({result.bound})"
    return (
        f"{latency} ({result.latency_bound})   objective {result.objective_value:.6g}   "
        f"bound {result.objective_bound:.6g} ({result.bound})"
    )


def _group_entries(result: PlanResult) -> dict[tuple[str, Any, int], list[ClientPlan]]:
    groups: dict[tuple[str, Any, int], list[ClientPlan]] = {}
    for entry in result.plan.clients:
        key = (entry.profile, entry.cuts, result.memory_bytes[entry.client_id])
        groups.setdefault(key, []).append(entry)
    return dict(sorted(groups.items(), key=lambda item: item[0][0]))


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
    add("--picture", help="write a PNG: who holds what, and the timeline of one step")
    add("--pareto", help="write a PNG: latency against traffic (or energy) of the best plans")
    add("--pareto_against", choices=("bytes", "energy"), default="bytes", help="its other axis")
    add("--overwrite", action="store_true", help="replace files that exist")
    _add_search_options(parser.add_argument_group("search").add_argument)
    _add_goal_options(parser.add_argument_group("goal and limits").add_argument)
    add = parser.add_argument_group("calibration").add_argument
    add("--calibrate", metavar="FILE", help="measure this machine and write its profile instead")
    add("--uplink_mbit_per_s", type=float, help="link of this machine, for --calibrate")
    add("--downlink_mbit_per_s", type=float, help="link of this machine, for --calibrate")
    return parser


def _add_search_options(add: Any) -> None:
    add("--strategy", choices=STRATEGIES, help="default genetic; milp proves, exact is for paper")
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
    add("--max_latency_s", type=float, help="upper limit of a step's seconds")
    add("--max_bytes_per_step", type=float, help="upper limit of a step's traffic")
    add("--max_energy_j", type=float, help="upper limit of a step's energy")
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
