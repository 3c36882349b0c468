"""The run's configuration at the server: that of `huscf fit`, without its data."""

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace

from ..callbacks import Replanning
from ..datamodules.attendance import Attendance
from ..engines import DifferentialPrivacy, OnNonFinite, ServerGradient
from ..engines.private import check_private
from ..engines.remote import MAX_PER_CLASS
from ..errors import HuscfError, check_count, check_number, find_refusal
from ..methods import HuscfGan, Method
from ..one_line_parser import OneLineParser
from ..split import PlanSource, UniformPlan
from ..training import Federation
from ..trust import Trust, parsing
from ..user_paths import expand_path
from ..wire import DefendedWire, Wire
from ..wire.frames import find_zstd

#: Sections that one process has and a server does without, or reads a key of.
_OTHERS = (
    *("trainer", "training", "run", "data", "samples", "evaluation", "report", "wandb"),
    *("federation_log", "best_round", "budget"),
)


class SitesOptions:
    """How the server deals with sites.

    Args:
        min_clients: With fewer than these the server waits; null is 2, or all where there are
            fewer.
        step_timeout_s: A phase of a step ends after so long, without the clients that are late.
        wait_timeout_s: With fewer than min_clients for so long, the server saves and stops.
        steps_per_epoch: Length of an epoch in steps; null is one pass of the largest client.
        progress_s: Seconds between two lines of progress.
        metrics_port: Where Prometheus finds figures of the run; null is nowhere.
        metrics_host: Own address for that; "" is all of them, for whoever can reach them.
        compression: zstd makes frames smaller and loses nothing; null leaves them as they are.
        evaluation_timeout_s: Sites have so long to measure their samples, or to draw them.
    """

    def __init__(
        self,
        min_clients: int | None = None,
        step_timeout_s: float = 60.0,
        wait_timeout_s: float = 600.0,
        steps_per_epoch: int | None = None,
        progress_s: float = 10.0,
        evaluation_timeout_s: float = 1800.0,
        compression: Literal["zstd"] | None = None,
        metrics_port: int | None = None,
        metrics_host: str = "127.0.0.1",
    ) -> None:
        for name, value in (("min_clients", min_clients), ("steps_per_epoch", steps_per_epoch)):
            if value is not None:
                check_number(f"sites.{name}", value, 1)
        check_number("sites.step_timeout_s", step_timeout_s, 0.1)
        check_number("sites.wait_timeout_s", wait_timeout_s)
        check_number("sites.progress_s", progress_s)
        check_number("sites.evaluation_timeout_s", evaluation_timeout_s, 0.1)
        if metrics_port is not None:
            check_count("sites.metrics_port", metrics_port, 0, 65535)
        self.metrics_port, self.metrics_host = metrics_port, metrics_host
        self.min_clients = min_clients
        self.step_timeout_s = step_timeout_s
        self.wait_timeout_s = wait_timeout_s
        self.steps_per_epoch = steps_per_epoch
        self.progress_s = progress_s
        self.evaluation_timeout_s = evaluation_timeout_s
        self.compression: Literal["zstd"] | None = compression
        if compression is not None:
            find_zstd()


#: Keys of the section `data` that say who takes part when, and all that a server reads of it.
ATTENDANCE = ("participation", "first_epochs", "last_epochs")
DATA = ("steps_per_epoch", *ATTENDANCE)


@dataclass
class RunConfig:
    """What a server trains, and for how long.

    Args:
        method: What is trained.
        method_values: The same as plain values, for the sites.
        plan: Where the cuts come from.
        federation: What happens at a round's end.
        sites: How the server deals with sites.
        wire: What changes messages on their way; None changes nothing.
        privacy: Of every client's single records; None is none.
        seed: Of the run.
        server_gradient: How clients count in the server's gradient.
        on_nonfinite: What happens where a client sends NaN or Inf.
        max_epochs: So many are trained.
        max_steps: At most so many steps; -1 is no limit.
        replanning: When the cuts are reconsidered.
        attendance: Which clients take part in which epoch.
        evaluate_every_n_rounds: How often sites measure their samples; 0 at the end, -1 never.
        num_per_class: So many samples of each class are drawn for that.
        writes_page: Whether the run ends with report.html.
        root: Folder of runs.
        name: Of the run.
        shares_generator: Whether sites get a whole generator at the run's end.
        num_threads: Inside torch's operators; 0 leaves torch's choice.
        unused: Keys of the configuration that mean nothing here, for people to read.
        values: The whole configuration as plain values.
    """

    method: Method
    method_values: dict[str, Any]
    plan: PlanSource
    federation: Federation
    sites: SitesOptions
    wire: DefendedWire | None = None
    privacy: DifferentialPrivacy | None = None
    seed: int = 0
    server_gradient: ServerGradient = "uniform"
    on_nonfinite: OnNonFinite = "stop"
    max_epochs: int = 100
    max_steps: int = -1
    replanning: Replanning = field(default_factory=Replanning)
    attendance: Attendance = field(default_factory=Attendance)
    evaluate_every_n_rounds: int = 0
    num_per_class: int = 500
    writes_page: bool = True
    root: Path = Path("runs")
    name: str = "run"
    shares_generator: bool = False
    num_threads: int = 0
    unused: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)


def read_run_config(arguments: Sequence[str], trust: Trust | None = None) -> RunConfig:
    """Read the server's configuration, from files and keys as `huscf fit` takes them.

    Args:
        arguments: As on the command line.
        trust: What it may be made of; None is anything.

    Raises:
        HuscfError: For what a run of sites cannot do.
    """
    parser = _make_parser()
    with warnings.catch_warnings(), parsing(trust):
        warnings.filterwarnings("ignore", "(?s).*deprecated")  # as for huscf fit
        config = parser.parse_args(list(arguments))
        values = parser.dump(config, format="json", skip_none=False)
        try:
            made = parser.instantiate_classes(config)
        except (ValueError, ImportError) as error:
            raise find_refusal(error) from None
    check_method(made.model.method)
    if made.federation.policy.needs_labels:
        raise HuscfError("federation.weighting: sites do not tell their label counts; take another")
    if made.federation.policy.needs_updates or made.federation.policy.lets_choose:
        raise HuscfError(
            "federation.rule: sites neither tell what a round changes nor choose clusters; take "
            "another"
        )
    if made.model.wire is not None and type(made.model.wire) is not DefendedWire:
        other = type(made.model.wire).__name__
        raise HuscfError(f"model.wire: sites know huscf.wire.DefendedWire and no {other}")
    if made.model.wire is not None and made.federation.secure:
        raise HuscfError(
            "model.wire: sites mask their blocks as they are; leave it out, or federation.secure"
        )
    if made.model.privacy is not None:
        check_private(made.model.method, made.model.privacy, made.model.on_nonfinite)
    made.federation.check_replanning(made.replanning.every_n_rounds)
    plain = json.loads(values)
    sections = {name: plain.get(name) or {} for name in _OTHERS}
    _check(plain, sections)
    trainer, data = sections["trainer"], read_data(sections["data"])
    sites = made.sites
    if sites.steps_per_epoch is None:
        sites.steps_per_epoch = _read_steps(data)
    return RunConfig(
        method=made.model.method,
        method_values=plain["model"]["method"],
        plan=made.model.plan or UniformPlan(),
        wire=made.model.wire,
        privacy=made.model.privacy,
        federation=made.federation,
        sites=sites,
        seed=int(made.seed_everything),
        server_gradient=made.model.server_gradient,
        on_nonfinite=made.model.on_nonfinite,
        max_epochs=_read_count(trainer, "max_epochs", 100),
        max_steps=_read_count(trainer, "max_steps", -1),
        replanning=made.replanning,
        attendance=_read_attendance(data),
        evaluate_every_n_rounds=_read_count(sections["evaluation"], "every_n_rounds", 0),
        num_per_class=_read_num_per_class(sections["evaluation"]),
        writes_page=_read_flag(sections["report"], "enabled", True),
        root=_read_root(trainer),
        name=str(sections["run"].get("name") or "run"),
        shares_generator=_read_flag(sections["run"], "share_generator", False),
        num_threads=_read_count(sections["training"], "num_threads", 0),
        unused=tuple(_list_unused(sections)),
        values=plain,
    )


def read_data(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a server reads of the section `data`, which may be that of `huscf fit`.

    Raises:
        HuscfError: Where its arguments are none.
    """
    given = _join_arguments(section)
    return {name: given[name] for name in DATA if given.get(name) is not None}


def build_method(values: Mapping[str, Any], trust: Trust) -> Method:
    """Make the method that the server names, out of huscf's own classes and what a user trusts.

    Raises:
        HuscfError: Where it names other code.
    """
    trust.check({"model": {"method": values}}, "the server")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--method", type=Method)
    try:
        with parsing(trust):
            made: Namespace = parser.instantiate_classes(
                parser.parse_object({"method": dict(values)})
            )
    except HuscfError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise HuscfError(f"the server's method cannot be made here: {reason:.300}") from error
    return made.method


def check_method(method: Method) -> None:
    """Refuse what clients at sites do not do, or not yet; sites ask too, before they begin.

    Raises:
        HuscfError: Naming the method and what it needs.
    """
    passes = [item for phase in method.phases(0) for item in phase.passes]
    networks = {item.network for item in passes}
    needs = {
        "the server to draw what enters a network": any(item.drawn for item in passes),
        "clients to tell what steps have taught them": bool(method.told),
        "blocks that are swapped or kept at a round's end": any(
            method.mixing(network, 1) != "average" for network in networks
        ),
        "clients to send samples, labels or noise": "inputs" in method.kinds,
    }
    for need, is_needed in needs.items():
        if is_needed:
            raise HuscfError(
                f"{type(method).__name__} needs {need}, which sites do not do: use huscf fit"
            )


def _make_parser() -> OneLineParser:
    parser = OneLineParser(prog="huscf serve")
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_argument("--seed_everything", type=int, default=0)
    parser.add_argument("--model.method", type=Method, default={"class_path": _name(HuscfGan)})
    parser.add_argument(
        "--model.plan", type=PlanSource | None, default={"class_path": _name(UniformPlan)}
    )
    parser.add_argument("--model.server_gradient", type=ServerGradient, default="uniform")
    parser.add_argument("--model.on_nonfinite", type=OnNonFinite, default="stop")
    parser.add_argument("--model.wire", type=Wire | None, default=None)
    parser.add_argument("--model.privacy", type=DifferentialPrivacy | None, default=None)
    for name in _ONE_PROCESS:
        parser.add_argument(f"--model.{name}", type=Any, default=None)
    parser.add_class_arguments(Federation, "federation")
    parser.add_class_arguments(Replanning, "replanning")
    parser.add_class_arguments(SitesOptions, "sites")
    for name in _OTHERS:
        parser.add_argument(f"--{name}", type=dict | None, default=None)
    return parser


#: Keys of the model that matter in one process only.
_ONE_PROCESS = (
    *("engine", "num_evaluated_per_class", "num_evaluated_clients", "num_evaluated_seeds"),
    *("num_yardstick_clients", "protocol", "plain_judge", "inception"),
)


def _name(cls: type) -> str:
    return f"{cls.__module__.rpartition('.')[0]}.{cls.__name__}"


def _check(plain: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse what a run of sites cannot do, instead of doing something else."""
    if not 0 <= plain["seed_everything"] < 2**32:
        raise HuscfError("seed_everything: must be a whole number from 0 to 4294967295")
    if str(sections["trainer"].get("precision") or "32-true") not in ("32", "32-true"):
        raise HuscfError("trainer.precision: sites train in 32-true; leave it out")
    for name in ("max_mbytes", "max_simulated_s"):
        if sections["budget"].get(name) not in (None, "null"):
            raise HuscfError(
                f"budget.{name}: sites train until trainer.max_epochs or max_steps; leave it out"
            )
    if plain["replanning"].get("drift"):
        raise HuscfError("replanning.drift: sites measure how their devices change; leave it out")
    is_searched = str((plain["model"]["plan"] or {}).get("class_path")).endswith("SearchedPlan")
    if plain["replanning"].get("every_n_rounds") and not is_searched:
        raise HuscfError(
            "replanning.every_n_rounds: only a searched plan knows devices: set model.plan to "
            "huscf.planning.SearchedPlan"
        )


#: By section, the keys that a run of sites reads, or whose present value changes nothing.
_READ: dict[str, frozenset[str]] = {
    "trainer": frozenset(
        {"max_epochs", "max_steps", "default_root_dir", "precision", "enable_progress_bar"}
    ),
    "training": frozenset({"num_threads"}),
    "run": frozenset({"name", "share_generator"}),
    "evaluation": frozenset({"every_n_rounds", "num_per_class"}),
    "report": frozenset({"enabled"}),
    "data": frozenset(DATA),
}


def _list_unused(sections: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the keys that are given and not read; those of a class of data are the sites'."""
    data = sections["data"]
    given = {**sections, "data": {} if "class_path" in data else _join_arguments(data)}
    for name, section in given.items():
        for key, value in section.items():
            if value is not None and key not in _READ.get(name, ()):
                yield f"{name}.{key}"


def _join_arguments(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the section `data` beside those of its class; the former win."""
    of_class = data.get("init_args") or {}
    if not isinstance(of_class, Mapping):
        raise HuscfError(f"data.init_args is {of_class!r:.40}, must be keys and values")
    return {**of_class, **{key: value for key, value in data.items() if key != "init_args"}}


def _read_root(trainer: Mapping[str, Any]) -> Path:
    root = trainer.get("default_root_dir") or "runs"
    if not isinstance(root, str):
        raise HuscfError(f"trainer.default_root_dir is {root!r:.40}, must be a folder")
    return expand_path(root)


def _read_steps(data: Mapping[str, Any]) -> int | None:
    steps = _read_plain(data.get("steps_per_epoch"))
    if steps is not None:
        check_count("data.steps_per_epoch", steps, 1)
    return steps


def _read_attendance(data: Mapping[str, Any]) -> Attendance:
    """Return who takes part when, as the section `data` of one process says it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Attendance, "data")
    given = {name: data[name] for name in ATTENDANCE if data.get(name) is not None}
    try:
        return parser.instantiate_classes(parser.parse_object({"data": given})).data
    except ArgumentError as error:
        raise HuscfError(" ".join(str(error).split())) from error


def _read_flag(section: Mapping[str, Any], key: str, default: bool) -> bool:
    value = str(default if section.get(key) is None else section[key]).lower()
    if value not in ("true", "false"):
        raise HuscfError(f"{key} is {value:.40}, must be true or false")
    return value == "true"


def _read_num_per_class(evaluation: Mapping[str, Any]) -> int:
    count = _read_count(evaluation, "num_per_class", 500)
    if not 1 <= count <= MAX_PER_CLASS:
        raise HuscfError(
            f"evaluation.num_per_class is {count}, must be from 1 to {MAX_PER_CLASS} at sites"
        )
    return count


def _read_count(section: Mapping[str, Any], key: str, default: int) -> int:
    value = _read_plain(section.get(key))
    if value is None:
        return default
    if type(value) is not int or value < -1:
        raise HuscfError(f"{key} is {value!r}, must be a whole number")
    return value


def _read_plain(value: Any) -> Any:
    """Return a value that may be of the command line, and so text."""
    if isinstance(value, str):
        with contextlib.suppress(yaml.YAMLError):
            return yaml.safe_load(value)
    return value
