"""One step of the ranked engine: own microbatches, then one sum over all, the same everywhere."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ...federation import Node, TreeSum
from ...methods import Phase
from ..stacked.gradient_sum import GradientSum
from ..stacked.norm_stats import NormStats
from ..stacked.phase_run import Sums
from ..stacked.step import StackedStep

if TYPE_CHECKING:
    from .engine import RankedEngine


class RankedStep(StackedStep):
    """Runs this process's microbatches of a step, and completes every sum with the others'."""

    engine: "RankedEngine"

    def update_norms(self) -> None:
        """Let running statistics follow: clients' own here, the server's in every process."""
        engine = self.engine
        layers = [m for m in engine.server.modules() if isinstance(m, _BatchNorm)]
        numbers = {layer: number for number, layer in enumerate(layers)}
        sent: list[list[Any]] = []
        tensors: list[Tensor] = []
        for key, found in self.list_norm_stats(self.own).items():
            for statistics in found:
                number = numbers.get(statistics.norms[0])
                if number is None:
                    statistics.update_running_stats()
                else:
                    sent.append([*key, number])
                    tensors += [statistics.means, statistics.variances]
        seen = {key: list(sizes.items()) for key, sizes in engine.server.guard.seen.items()}
        arrived = []
        for value, given in engine.ranks.gather([sent, seen], tensors):
            engine.server.guard.add_seen(value[1])
            arrived += [(key, given[2 * i : 2 * i + 2]) for i, key in enumerate(value[0])]
        # Python sorts stably: of one pass, layers stay in order.
        for (_, _, number), (means, variances) in sorted(arrived, key=lambda each: each[0][:2]):
            layer = layers[number]
            moved = means.to(_device_of(layer)), variances.to(_device_of(layer))
            NormStats([layer] * len(means), *moved).update_running_stats()

    def _choose_own(self) -> list[int]:
        return self.engine.share_out(self.sizes)

    def _sum_over_all(self, phase: Phase, shares: dict[int, float]) -> Sums | None:
        """Run a phase here, and complete the tree with what the other processes computed."""
        total, error = TreeSum(len(self.microbatches), Sums.join), None
        before = self.own_clients
        try:
            total = self._run_own(phase, shares)
        except Exception as caught:
            error = caught
        dropped = sorted(set(before) - set(self.own_clients))
        nodes, tensors = self._pack(total) if error is None else ([], [])
        whole = TreeSum(len(self.microbatches), Sums.join)
        parcels = self.engine.ranks.gather([dropped, nodes], tensors, error)
        for rank, ((gone, nodes), given) in enumerate(parcels):
            if rank == self.engine.ranks.rank:
                for node, sums in total.nodes.items():
                    whole.put(node, sums)
                continue
            self._take_leave(gone)
            for node, arrived in self._unpack(nodes, given, shares):
                whole.put(node, arrived)
        return whole.result()

    def _pack(self, total: TreeSum[Sums]) -> tuple[list[list[Any]], list[Tensor]]:
        """Return the nodes that this process has completed."""
        numbers = {p: number for number, p in enumerate(self.engine.server.parameters())}
        nodes: list[list[Any]] = []
        tensors: list[Tensor] = []
        for node, sums in total.nodes.items():
            if sums is None:
                nodes.append([*node, None, None])
                continue
            gradients = sums.gradients.sums
            nodes.append([*node, list(sums.losses.items()), [numbers[p] for p in gradients]])
            tensors += gradients.values()
        return nodes, tensors

    def _unpack(
        self, nodes: Sequence[Sequence[Any]], tensors: Sequence[Tensor], shares: dict[int, float]
    ) -> list[tuple[Node, Sums | None]]:
        parameters = list(self.engine.server.parameters())
        rest = iter(tensors)
        found: list[tuple[Node, Sums | None]] = []
        for level, index, losses, numbers in nodes:
            sums = None
            if losses is not None:
                own = [parameters[number] for number in numbers]
                gradients = GradientSum({p: next(rest).to(p.device) for p in own})
                sums = Sums(shares, gradients=gradients)
                sums.losses.update(dict(losses))
            found.append(((level, index), sums))
        return found

    def _take_leave(self, client_ids: Sequence[int]) -> None:
        """Go on without clients that other processes have dropped."""
        for client_id in client_ids:
            self.engine.num_dropped[client_id] += 1
            for microbatch in self.microbatches:
                if client_id in microbatch.client_ids:
                    microbatch.remove(client_id)


def _device_of(layer: _BatchNorm) -> Any:
    assert layer.running_mean is not None
    return layer.running_mean.device
