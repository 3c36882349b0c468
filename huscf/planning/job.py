"""A planning task as it stands in a devices file and on the command line."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cached_property, partial
from reprlib import repr as shorten
from typing import Any, get_args

from .. import methods
from ..errors import PlanError
from ..methods import HuscfGan, request_plan
from ..models import ConditionalDiscriminator, ConditionalGenerator, SampleShape
from ..models.conditional_discriminator import Conditioning
from .devices.fleet import DevicesFile, load_mapping
from .devices.profiles import read_whole
from .planner import PlanOptions, PlanSubject, build_problem, read_file_keys
from .problem.plan_problem import PlanProblem

_SIZE_DEFAULTS = {
    "channels": 1,
    "image_size": 28,
    "num_classes": 10,
    "latent_dim": 100,
    "width": 64,
    "depth": 5,
}
#: Of the discriminator.
_FORM_DEFAULTS = {"conditioning": "plane", "minibatch_std": False}


@dataclass(frozen=True)
class PlanJob:
    """What is planned without a training run: devices, and networks by their sizes.

    Args:
        devices: Profiles, server and assignment.
        networks: Sizes of the built-in networks and form of the discriminator, by name.
        batch_size: Samples per step of every client.
        options: The choices.
        method: Class of the method, one of huscf.methods whose networks are a GAN's.
    """

    devices: DevicesFile
    networks: Mapping[str, Any]
    batch_size: int
    options: PlanOptions
    method: type[HuscfGan] = HuscfGan

    @classmethod
    def load(cls, path: str, given: Mapping[str, Any]) -> "PlanJob":
        """Read a devices file; options that are given replace the file's.

        Raises:
            PlanError: Naming the key at fault, and the file unless it is fine without the options.
        """
        values = load_mapping(path)
        try:
            return cls._read(values, given)
        except PlanError as error:
            owner = path
            with suppress(PlanError):
                cls._read(values, {})
                owner = "on the command line"
            raise PlanError(f"{owner}: {error}") from error

    @classmethod
    def _read(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> "PlanJob":
        merged = {"batch_size": 64, "networks": {}, **read_file_keys(values)}
        known = ("batch_size", *(entry.name for entry in fields(PlanOptions)))
        merged |= {key: given[key] for key in known if given.get(key) is not None}
        return cls(
            DevicesFile.from_dict(values),
            _read_networks(merged["networks"]),
            read_whole(merged, "batch_size", "plan", least=1),
            PlanOptions.from_dict(merged),
            find_method(given.get("method") or "HuscfGan"),
        )

    def build(self) -> PlanProblem:
        """Measure the networks and return the problem to search."""
        sizes = dict.fromkeys(self.devices.client_ids(), self.batch_size)
        fleet = self.devices.make_fleet(sizes, self.options.seed)
        return build_problem(self.subject, fleet, self.options)

    @cached_property
    def subject(self) -> PlanSubject:
        """Return the networks with their measured costs."""
        sizes = self.networks
        shape = SampleShape(sizes["channels"], sizes["image_size"], sizes["num_classes"])
        method = self.method(
            generator=partial(ConditionalGenerator, width=sizes["width"], depth=sizes["depth"]),
            discriminator=partial(
                ConditionalDiscriminator,
                width=sizes["width"],
                depth=sizes["depth"],
                **{key: sizes[key] for key in _FORM_DEFAULTS},
            ),
            latent_dim=sizes["latent_dim"],
        )
        batch_sizes = dict.fromkeys(self.devices.client_ids(), self.batch_size)
        try:
            networks = method.build_networks(shape)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "alloc" not in str(error):
                raise
            raise PlanError(
                "networks: of these sizes they need more memory than there is"
            ) from error
        request = request_plan(method, networks, shape, batch_sizes)
        return PlanSubject.measure(request, self.options.precision)


def find_method(name: str) -> type[HuscfGan]:
    """Return a method of huscf.methods by the name of its class.

    Raises:
        PlanError: Where there is none of that name, or it is no GAN.
    """
    every = {each: getattr(methods, each) for each in methods.__all__}
    known = {n: c for n, c in every.items() if isinstance(c, type) and issubclass(c, HuscfGan)}
    if name not in known:
        raise PlanError(f"method: {name} is none of {', '.join(sorted(known))}")
    return known[name]


def _read_networks(values: Any) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise PlanError("networks: must be a mapping of sizes")
    defaults = {**_SIZE_DEFAULTS, **_FORM_DEFAULTS}
    for key in values:
        if key not in defaults:
            raise PlanError(f"networks: unknown key {key}; known: {', '.join(defaults)}")
    merged = {**defaults, **values}
    for key in _SIZE_DEFAULTS:
        if read_whole(merged, key, "networks") < 1:
            raise PlanError(f"networks: {key} is {merged[key]}, must be >= 1")
    if merged["conditioning"] not in get_args(Conditioning):
        known = ", ".join(get_args(Conditioning))
        raise PlanError(
            f"networks: conditioning is {shorten(merged['conditioning'])}, must be one of {known}"
        )
    if not isinstance(merged["minibatch_std"], bool):
        raise PlanError(
            f"networks: minibatch_std is {shorten(merged['minibatch_std'])}, must be true or false"
        )
    return merged
