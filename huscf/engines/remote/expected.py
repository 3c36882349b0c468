"""What has to cross for a client: names, types and shapes, from its cuts and the networks."""

from collections.abc import Mapping

from torch import Tensor

from ...errors import HuscfError
from ...methods import Method
from ...models import Carry, Network, run_first
from ...parties import find_crossings, read_block
from ...split import ClientPlan
from ...wire import Kind, MemoryWire
from ...wire.frames import Frame, FrameError, TensorSpec
from ..crossing import name_cut

Specs = dict[str, TensorSpec]

#: State of an optimiser that is one number for a parameter; all else has the parameter's shape.
_COUNTERS = ("step",)


class Crossings:
    """What crosses the cuts of one client.

    Args:
        entry: The client's line in the plan.
        networks: The full networks.
        examples: What enters every network, a batch of any size.
        method: Whose inputs may be public.
    """

    def __init__(
        self,
        entry: ClientPlan,
        networks: Mapping[str, Network],
        examples: Mapping[str, Carry],
        method: Method,
    ) -> None:
        self.cuts = entry.cuts
        self.crossings = find_crossings(entry.cuts, networks)
        self._raw = {n: bool(set(c.raw) - method.public) for n, c in self.crossings.items()}
        self._up: dict[str, Specs] = {}
        self._down: dict[str, Specs] = {}
        for name, network in networks.items():
            crossing = self.crossings[name]
            at_head = run_first(network, entry.cuts.head(name), examples[name])
            at_tail = run_first(network, len(network) - entry.cuts.tail(name), examples[name])
            self._up[name] = _describe(at_head, crossing.up)
            self._down[name] = _describe(at_tail, crossing.down)

    def up(self, network: str, batch_size: int) -> Specs:
        """Return what a client sends of a network's activations."""
        return _resize(self._up[network], batch_size)

    def down(self, network: str, batch_size: int) -> Specs:
        """Return what a client gets of a network's activations."""
        return _resize(self._down[network], batch_size)

    def gradients_up(self, network: str, batch_size: int) -> Specs:
        """Return what a client may send of gradients: at what it got, if that has gradients."""
        return _only_floats(self.down(network, batch_size))

    def gradients_down(self, network: str, batch_size: int) -> Specs:
        """Return what a client may get of gradients."""
        return _only_floats(self.up(network, batch_size))

    def name(self, network: str, kind: Kind, is_up: bool) -> tuple[str, Kind]:
        """Return the cut that a message crosses, and its kind."""
        has_tail = bool(self.cuts.tail(network))
        return name_cut(network, kind, is_up, self._raw[network], has_tail)


def describe_block(network: Network, index: int, with_moments: bool) -> Specs:
    """Return the tensors of a block, and those of its optimiser if they come along."""
    state = read_block(network[index])
    specs = {name: TensorSpec(t.dtype, tuple(t.shape)) for name, t in state.items()}
    if with_moments:
        for name, parameter in network[index].named_parameters():
            for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg"):
                spec = TensorSpec(parameter.dtype, tuple(parameter.shape))
                specs[f"moment.{key}.{name}"] = spec
            for key in _COUNTERS:
                specs[f"moment.{key}.{name}"] = TensorSpec(Tensor([0]).dtype, ())
    return specs


def open_frame(
    frame: Frame,
    wire: MemoryWire,
    kind: Kind,
    specs: Mapping[str, TensorSpec],
    optional: bool = False,
) -> dict[str, Tensor]:
    """Return the tensors of a frame as they arrive over a wire.

    Args:
        frame: What a network has carried.
        wire: Like the sender's.
        kind: Of the message.
        specs: What may arrive.
        optional: Whether some of it may be missing.

    Raises:
        FrameError: Where the frame has something else.
    """
    carried = frame.take_tensors(wire.describe_carried(kind, specs), optional)
    return decode(wire, kind, carried, specs)


def decode(
    wire: MemoryWire, kind: Kind, carried: Mapping[str, Tensor], specs: Mapping[str, TensorSpec]
) -> dict[str, Tensor]:
    """Return the tensors that arrive, of what a network has carried; see `MemoryWire.decode`.

    Raises:
        FrameError: Where what was carried does not make them.
    """
    try:
        return wire.decode(kind, carried, specs)
    except HuscfError as error:
        raise FrameError(str(error)) from error


def _describe(carry: Carry, names: tuple[str, ...]) -> Specs:
    return {name: TensorSpec(carry[name].dtype, tuple(carry[name].shape)) for name in names}


def _resize(specs: Specs, batch_size: int) -> Specs:
    return {n: TensorSpec(s.dtype, (batch_size, *s.shape[1:])) for n, s in specs.items()}


def _only_floats(specs: Specs) -> Specs:
    return {name: spec for name, spec in specs.items() if spec.dtype.is_floating_point}
