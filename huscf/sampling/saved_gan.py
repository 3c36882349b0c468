"""A trained GAN out of its checkpoint alone: no data, no trainer, no configuration file."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser

from ..checkpoint_io import check_trained, read_checkpoint
from ..datamodules import FederatedDataModule
from ..datamodules.log_mel import LogMel
from ..errors import CheckpointError, HuscfError
from ..methods import Method
from ..models import SampleShape
from ..parser_messages import shorten
from ..split import CutPlan, PlanRequest, PlanSource, check_plan_fits
from ..training import EngineName, SplitModule
from ..trust import Trust, find_denied, parsing, refuse
from ..wire import Wire

#: What building a network raises where a checkpoint's values do not fit together.
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArgumentError)


@dataclass(frozen=True)
class SavedGAN:
    """A trained GAN and what is needed to show its samples.

    Args:
        module: The root module in the checkpoint's state.
        config: The run's configuration.
        class_names: One name per label, or () where domains disagree or have none.
        spectrogram: How samples become sound, or None where they are pictures.
        num_classes: By client, the classes that its data may have; of those beyond it never saw
            any.
        channels: By client, the channels of its own data: grey stays grey in a run in colour.
        domains: By client, the name of its domain, or {} where that is not known.
        domain_class_names: By domain, its own names of labels; () where it has none.
        are_compared: Whether clients send activations of blocks that never train, to be compared.
    """

    module: SplitModule
    config: dict[str, Any]
    class_names: tuple[str, ...]
    spectrogram: LogMel | None
    num_classes: dict[int, int]
    channels: dict[int, int] = field(default_factory=dict)
    domains: dict[int, str] = field(default_factory=dict)
    domain_class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    are_compared: bool = False

    @classmethod
    def from_training(cls, module: SplitModule, data: FederatedDataModule) -> "SavedGAN":
        """Return a GAN that has just been trained, without the way through a checkpoint."""
        return cls(
            module,
            {},
            data.common_class_names,
            data.spectrogram,
            data.client_num_classes,
            data.client_channels,
            data.client_domains,
            {name: domain.class_names for name, domain in data.domains.items()},
        )

    def name_class(self, client: int, label: int) -> str:
        """Return what a client's domain calls a label, else the run, else the label's number."""
        own = self.domain_class_names.get(self.domains.get(client, ""), ())
        names = own if label < len(own) else self.class_names
        return names[label] if label < len(names) else str(label)

    def make_untrained(self) -> SplitModule:
        """Return a serial module of the same configuration, with the weights that it began with."""
        module = self.module
        ones = dict.fromkeys(module.plan.client_ids, 1)
        plan, wire = _CheckpointPlan(module.plan), copy.deepcopy(module.wire)
        shape, method = module.sample_shape, module.method
        return SplitModule(shape, ones, ones, method, plan, wire, "serial", seed=module.seed).eval()

    def select_clients(
        self, clients: Sequence[int] | None = None, clusters: Sequence[int] | None = None
    ) -> list[int]:
        """Return the named clients or the members of the named clusters, else all.

        Raises:
            HuscfError: Naming those that do not exist, and what there is.
        """
        assignment = self.module.clusters
        if clusters is not None:
            check_known(clusters, sorted(set(assignment.values())), "cluster")
            return [c for c, cluster in assignment.items() if cluster in clusters]
        if clients is not None:
            check_known(clients, list(assignment), "client")
            return sorted(set(clients))
        return list(assignment)


def load_gan(
    path: str | Path,
    trusted: Sequence[str] = (),
    engine: EngineName | None = None,
    drawing: Mapping[str, str] = MappingProxyType({}),
) -> SavedGAN:
    """Load a trained GAN.

    Args:
        path: The checkpoint.
        trusted: Packages, beside huscf, whose networks the checkpoint may name.
        engine: Runs steps, over the run's own wire; None is for drawing alone, where nothing
            crosses.
        drawing: Other values, as text, for those arguments of the method that change how samples
            are drawn.

    Raises:
        CheckpointError: Naming the file, where it is damaged, untrained or not of a run, or names
            code that is not trusted.
        HuscfError: Where the method has no such argument, or refuses its value.
    """
    checkpoint = read_checkpoint(path)
    config, data = checkpoint.get("huscf_config"), checkpoint.get("huscf_data")
    if config is None or data is None:
        raise CheckpointError(f"checkpoint {path}: {_tell_half(checkpoint['huscf'])}")
    check_trained(checkpoint, path)
    trust = Trust(tuple(trusted))
    # Nothing else of the configuration is made.
    model = config["model"]
    named = {"method": model["method"], "wire": engine and model.get("wire")}
    trust.check({"model": named}, f"checkpoint {path}")
    try:
        with parsing(trust):
            shape = SampleShape(**data["sample_shape"])
            module = _build_module({**model, **named}, shape, checkpoint, engine)
        spectrogram = data["spectrogram"] and LogMel(**data["spectrogram"])
        names = tuple(data["class_names"])
    except _MALFORMED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if denied := find_denied(" ".join(str(error).split())):
            reason = refuse(denied)
        raise CheckpointError(f"checkpoint {path}: cannot be rebuilt: {reason}") from error
    with parsing(trust):
        _draw_otherwise(module.method, model["method"], drawing)
    # Checkpoints of earlier versions do not tell.
    every = dict.fromkeys(module.clusters, module.sample_shape.num_classes)
    num_classes = data.get("num_classes", every)
    federation = checkpoint.get("callbacks", {}).get("ClusteredFederation", {})
    sends_sums = (config.get("federation") or {}).get("observe") == "statistics"
    return SavedGAN(
        module,
        config,
        names,
        spectrogram,
        num_classes,
        data.get("channels", {}),
        data.get("domains", {}),
        {name: tuple(own) for name, own in data.get("domain_class_names", {}).items()},
        federation.get("observer") is not None and not sends_sums,
    )


def check_known(wanted: Sequence[int], known: Sequence[int], kind: str) -> None:
    """Raise a HuscfError that names the first unknown number and what there is."""
    for number in wanted:
        if number not in known:
            raise HuscfError(f"there is no {kind} {number}; there are {_join(known)}")


def _tell_half(saved: Mapping[str, Any]) -> str:
    """Return what somebody can do who has half of a run, or none."""
    if "site" in saved:
        return (
            "is a site's half, the server has the other blocks: draw with huscf join --samples "
            "100, or let the server's run.yaml say run.share_generator: true, by which sites get "
            "a generator.ckpt at the run's end"
        )
    if "server" in saved:
        return (
            "is the server's half, the sites have heads and tails: they draw, with huscf join "
            "--samples 100"
        )
    return "was not made by huscf fit"


class _CheckpointPlan(PlanSource):
    """The plan that a checkpoint holds."""

    def __init__(self, plan: CutPlan) -> None:
        self.plan = plan

    def make_plan(self, request: PlanRequest) -> CutPlan:
        check_plan_fits(self.plan, request, owner="checkpoint")
        return self.plan


def _build_module(
    model: dict[str, Any],
    shape: SampleShape,
    checkpoint: dict[str, Any],
    engine: EngineName | None,
) -> SplitModule:
    plan = CutPlan.from_dict(checkpoint["huscf"]["engine"]["plan"])
    # Batches and sizes matter in training only.
    ones = dict.fromkeys(plan.client_ids, 1)
    with torch.random.fork_rng(devices=[]):
        module = SplitModule(
            shape,
            ones,
            ones,
            _build(Method, model["method"]),
            plan=_CheckpointPlan(plan),
            wire=model["wire"] and _build(Wire, model["wire"]),
            engine=engine or "stacked",
            seed=model["seed"],
        )
        module.only_draws = engine is None
        module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    return module.eval()


def _draw_otherwise(method: Method, section: dict[str, Any], drawing: Mapping[str, str]) -> None:
    """Give a method other values for how samples are drawn, checked by its class."""
    for name in drawing:
        if name not in method.drawing:
            known = ", ".join(method.drawing) or "nothing that can be chosen"
            raise HuscfError(f"--draw {name}: {type(method).__name__} draws by {known}")
    arguments = {**(section.get("init_args") or {}), **drawing}
    try:
        other = _build(Method, {**section, "init_args": arguments})
    except (*_MALFORMED, HuscfError) as error:
        given = " ".join(f"{name}={value}" for name, value in drawing.items())
        line = shorten(" ".join(str(error).split())).removeprefix("built.init_args.")
        raise HuscfError(f"--draw {given}: {line:.200}") from error
    for name in drawing:
        setattr(method, name, getattr(other, name))


def _build(kind: Any, section: Any) -> Any:
    """Return the object that a section of the configuration describes."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--built", type=kind)
    return parser.instantiate_classes(parser.parse_object({"built": section})).built


def _join(numbers: Sequence[int]) -> str:
    consecutive = list(numbers) == list(range(numbers[0], numbers[-1] + 1))
    if consecutive and len(numbers) > 2:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
