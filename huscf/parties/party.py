"""What client and server have in common: blocks, optimisers, and a part of every pass."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import CheckpointError
from ..methods import Method
from ..models import Carry
from .block_state import forget_moments, free_memory, is_freed
from .holdings import ClientBlocks, ServerBlocks, named_parameters, tensors_of
from .sample_gradients import LayerCall, note_layers


@dataclass(frozen=True)
class PartKey:
    """One party's part in one client's pass.

    Args:
        client_id: Whose pass.
        name: Of the pass.
        network: Through which network.
        part: Which blocks.
    """

    client_id: int
    name: str
    network: str
    part: Literal["head", "server", "tail"]


@dataclass
class PartRun:
    """What a party keeps of its part until it has gone back through it.

    Args:
        inputs: Leaves of the party's own graph, by name.
        outputs: Ends of it, by name.
        calls: Of layers whose gradients are wanted by sample (`Party.noted`).
    """

    inputs: Carry
    outputs: Carry
    calls: list[LayerCall] = field(default_factory=list)


class Party(nn.Module):
    """Holds blocks, their moving averages, and the optimisers of the blocks.

    Parties share nothing that changes: no parameter, graph or optimiser of one is reachable from
    another. Equal copies of a block may lie in the same memory until their holder writes to its
    own (`own_memory`), so that a client that is known but absent costs next to nothing.

    Args:
        trained: The blocks that are trained.
        average: Moving averages of those of some networks, or None.

    Attributes:
        noted: Networks of whose parameters the party keeps, instead of gradients, what gives
            those of single samples.
    """

    noted: frozenset[str] = frozenset()

    def __init__(
        self, trained: ClientBlocks | ServerBlocks, average: ClientBlocks | ServerBlocks | None
    ) -> None:
        super().__init__()
        self.trained = trained
        self.average = None if average is None else average.requires_grad_(False)
        self.optimizers: dict[str, Optimizer] = {}
        self.has_optimizers = False
        self.shares_memory = False
        self._runs: dict[PartKey, PartRun] = {}

    @property
    def holding_names(self) -> tuple[str, ...]:
        """Return "trained", and "average" where there are moving averages."""
        return ("trained",) if self.average is None else ("trained", "average")

    @property
    def holdings(self) -> list[Any]:
        """Return the trained blocks, and the averages where there are any."""
        return [getattr(self, name) for name in self.holding_names]

    @torch.no_grad()
    def own_memory(self) -> None:
        """Move into memory of its own whatever is shared; to be called before anything is written.

        Parameters stay the same objects.
        """
        if not self.shares_memory:
            return
        self.shares_memory = False
        tensors = [t for each in self.holdings for t in tensors_of(each)]
        for tensor in {id(tensor): tensor for tensor in tensors}.values():
            tensor.data = tensor.data.clone()
        for optimizer in self.optimizers.values():
            for state in optimizer.state.values():
                state.update({k: v.clone() for k, v in state.items() if isinstance(v, Tensor)})

    def free_memory(self) -> None:
        """Let go of the memory of all blocks, and of what there is to train them.

        They keep their shapes, and must be given new tensors before they are used.
        """
        self.zero_grad(set_to_none=True)
        for optimizer in self.optimizers.values():
            optimizer.state.clear()
        free_memory(t for each in self.holdings for t in tensors_of(each))
        self.shares_memory = False

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Party":
        """Move to a device, say; what has no memory gets none by that."""
        freed = [t for each in self.holdings for t in tensors_of(each) if is_freed(t)]
        super()._apply(fn, recurse)
        free_memory(freed)
        return self

    def parameters_of(self, network: str) -> list[nn.Parameter]:
        """Return the trained parameters of one network, in fixed order."""
        return [parameter for _, parameter in named_parameters(self.trained, network)]

    def make_optimizers(self, method: Method) -> None:
        """Begin with fresh optimisers, once the parameters are on their device."""
        self.optimizers, self.has_optimizers = {}, True
        for network in self.trained.network_names:
            if parameters := self.parameters_of(network):
                self.optimizers[network] = method.make_optimizer(network, parameters)

    def refresh_optimizers(
        self, method: Method, moments: Mapping[nn.Parameter, dict[str, Any]] | None = None
    ) -> None:
        """Make optimisers for the present parameters, keeping the state of those that had one.

        Args:
            method: Makes them.
            moments: State of parameters that are new to this party.
        """
        if not self.has_optimizers:
            return
        known: dict[nn.Parameter, dict[str, Any]] = dict(moments or {})
        for optimizer in self.optimizers.values():
            known.update(optimizer.state)  # type: ignore[arg-type]
        self.make_optimizers(method)
        for network, optimizer in self.optimizers.items():
            for parameter in self.parameters_of(network):
                if known.get(parameter):
                    optimizer.state[parameter] = known[parameter]

    def forget_moments(self) -> None:
        """Drop all optimiser state, so that the next step is like a first one."""
        for network, optimizer in self.optimizers.items():
            forget_moments(optimizer, self.parameters_of(network))

    def begin_step(self, rate_factor: float) -> None:
        """Get ready to be trained: own what will be written to, and set the step's learning rates.

        Args:
            rate_factor: What the optimisers' own learning rates are multiplied by.
        """
        self.own_memory()
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate_factor * group.setdefault("initial_lr", group["lr"])

    def step(self, network: str) -> None:
        """Step the blocks of one network, and free their gradients."""
        if network in self.optimizers:
            for parameter in self.parameters_of(network):
                match_layout(parameter)
            self.optimizers[network].step()
            self.optimizers[network].zero_grad(set_to_none=True)

    def run_part(self, key: PartKey, blocks: Any, carry: Carry, indices: Iterable[int]) -> Carry:
        """Run blocks on what has come in, in a graph of the party's own.

        Args:
            key: Whose pass, and which part.
            blocks: The segment.
            carry: What enters, by name; it becomes the graph's leaves.
            indices: Blocks of the segment to run.

        Returns:
            What entered and what the blocks wrote, in the party's graph.
        """
        leaves = {name: as_leaf(tensor) for name, tensor in carry.items()}
        noted = self.trained.segments(key.network) if key.network in self.noted else []
        with note_layers(noted) as calls:
            outputs = blocks(leaves, indices)
        self._runs[key] = PartRun(leaves, outputs, calls)
        return outputs

    def go_back(
        self,
        key: PartKey,
        gradients: Mapping[str, Tensor],
        losses: Sequence[Tensor] = (),
        parameters: Sequence[nn.Parameter] = (),
    ) -> tuple[dict[str, Tensor], dict[nn.Parameter, Tensor]]:
        """Go back through a part that has been run.

        Args:
            key: As in `run_part`; the part is kept, for another phase may come back to it.
            gradients: At its outputs, by name.
            losses: Further ends of the graph.
            parameters: Whose gradients are wanted; in a noted network those of its layers' outputs
                are kept in their place, see `list_calls`.

        Returns:
            Gradients at the inputs by name, and those of the parameters that the graph has.
        """
        run = self._runs[key]
        ends, given = [*losses], [torch.ones_like(loss) for loss in losses]
        for name, gradient in gradients.items():
            if run.outputs[name].requires_grad:
                ends.append(run.outputs[name])
                given.append(gradient)
        names = [name for name, leaf in run.inputs.items() if leaf.requires_grad]
        wanted = [p for p in parameters if p.requires_grad]
        calls = [call for call in run.calls if wanted and call.output.requires_grad]
        if key.network in self.noted:
            wanted = []
        if not ends or not (names or wanted or calls):
            return {}, {}
        leaves = [run.inputs[name] for name in names] + [call.output for call in calls]
        found = torch.autograd.grad(
            ends, [*leaves, *wanted], given, allow_unused=True, retain_graph=True
        )
        at_inputs = zip(names, found[: len(names)], strict=True)
        for call, gradient in zip(calls, found[len(names) : len(leaves)], strict=True):
            call.gradient = gradient
        at_parameters = zip(wanted, found[len(leaves) :], strict=True)
        return (
            {name: g for name, g in at_inputs if g is not None},
            {p: g for p, g in at_parameters if g is not None},
        )

    def list_calls(self, client_id: int, passes: Collection[str]) -> list[LayerCall]:
        """Return the calls of noted layers in a client's passes that were gone back through."""
        return [
            call
            for key, run in self._runs.items()
            if key.client_id == client_id and key.name in passes
            for call in run.calls
            if call.gradient is not None
        ]

    def forget_runs(self) -> None:
        """Drop what is kept of passes."""
        self._runs.clear()

    def get_optimizer_state(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the optimisers' state: network -> name of the parameter -> its state."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for network, optimizer in self.optimizers.items():
            found[network] = {
                name: dict(optimizer.state[parameter])
                for name, parameter in named_parameters(self.trained, network)
                if optimizer.state.get(parameter)
            }
        return found

    def set_optimizer_state(self, state: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Go on from a saved state.

        Raises:
            CheckpointError: Where it names parameters that this party does not hold.
        """
        # In a checkpoint, too, equal moments lie in one memory.
        self.shares_memory = True
        for network, by_name in state.items():
            own = dict(named_parameters(self.trained, network))
            for name, values in by_name.items():
                if name not in own or network not in self.optimizers:
                    raise CheckpointError(
                        f"the checkpoint has optimiser state of {network} {name}, "
                        "which is not held here"
                    )
                self.optimizers[network].state[own[name]] = {
                    key: value.to(own[name].device) if isinstance(value, Tensor) else value
                    for key, value in values.items()
                }

    def segment_tensors(self) -> Iterator[Tensor]:
        """Yield all trained parameters and buffers, in fixed order."""
        yield from tensors_of(self.trained)


def match_layout(parameter: nn.Parameter) -> None:
    """Give a parameter's gradient the parameter's memory layout.

    PyTorch's fused optimisers walk both as flat arrays, whatever their strides: a channels-last
    gradient would move the wrong weights.
    """
    gradient = parameter.grad
    if gradient is not None and gradient.stride() != parameter.stride():
        parameter.grad = torch.empty_like(parameter).copy_(gradient)


def as_leaf(arrived: Tensor) -> Tensor:
    """Return a tensor as a leaf of the receiver's graph; it has a gradient if it can."""
    wants = arrived.is_floating_point() and torch.is_grad_enabled()
    return arrived.detach().requires_grad_(wants)
