"""Averages that hide whole clients: what each has changed is clipped, and the mean is noised.

A round's average of a cluster of n clients is, over all blocks together,

    the last average + (1 / n) * sum of clip(what each has changed since) + noise

where clip scales down to a norm of max_update_norm, and the noise is normal with a standard
deviation of noise_multiplier * max_update_norm / n in every number. n counts every client of the
cluster, also those that were away; these have changed nothing. So one client, there or not, moves
the average by max_update_norm / n at most, which the noise is measured by. Moving averages are not
sent: noise of their own would be most of what a next step changes in them. They begin anew from
the average.

Source: McMahan et al., ICLR 2018, arXiv:1710.06963, algorithm 1 with q = 1 and w_k = 1.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ...errors import CheckpointError, HuscfError, check_complete
from ...models import Network
from ...parties import read_block
from ...randomness import draw_hiding, make_wide_rng
from ...split import CutPlan
from ...wire import SERVER, Message
from ..base import Mixture, block_topic
from ..processes import State
from ..secure_mixing import SumPlan, SumRef, plan_sums
from .accounting import Accountant, Exposure
from .options import ClientPrivacy

if TYPE_CHECKING:
    from ..local import LocalEngine

#: What clients have sent, by client and block.
Given = Mapping[tuple[int, SumRef], State]


class PrivateAverages:
    """Clips, averages and noises what clients have changed, and counts what that costs.

    The server does it, which is trusted and sees every client's blocks.

    Args:
        options: What is guaranteed.

    Attributes:
        num_rounds: Averages that were handed out, or were about to be.
        keep: Is called once a round is counted, and shall keep the count before it returns; None
            leaves that to checkpoints.
        received: What every client last got, or is to get once it is back, by client and block; who
            is not in it has the weights that all began with.
        median_norm: Of what clients had changed in the last round, before it was clipped.
    """

    def __init__(self, options: ClientPrivacy) -> None:
        self.options = options
        self.accountant = Accountant(options)
        self.num_rounds = 0
        self.keep: Callable[[], None] | None = None
        self.received: dict[int, dict[str, State]] = {}
        self.median_norm = 0.0

    # What it costs

    def check_delta(self, count: int) -> None:
        """Refuse a guarantee that says nothing of so many clients.

        Raises:
            HuscfError: Naming the option.
        """
        delta = self.options.delta
        assert delta is not None
        if delta >= 1 / count:
            raise HuscfError(
                f"federation.privacy.delta is {delta:g}, and must be far below "
                f"{1 / count:.2g}, 1 / the {count} clients, one of which it would allow to publish"
            )

    def check_budget(self) -> None:
        """Refuse a budget that has no room for another round.

        Raises:
            HuscfError: Naming the option.
        """
        if self.options.noise_multiplier:
            now, then = self._expose(0), self._expose(1)
            remedy = "federation.privacy.noise_multiplier"
            self.accountant.check_next(now, then, "federation.privacy", "round", remedy)

    def epsilon(self, more: int) -> float:
        """Return the epsilon of any client after so many more rounds."""
        return self.accountant.epsilon(self._expose(more))

    def allows(self, more: int) -> bool:
        """Return whether the budget has room for so many more rounds."""
        return self.accountant.allows(self._expose(more))

    def _expose(self, more: int) -> list[Exposure]:
        return [Exposure(1.0, self.num_rounds + more)]

    def figures(self) -> dict[str, float]:
        """Return norms, and what any client has been exposed to, by column of metrics.csv."""
        found = {"privacy/median_update_norm": self.median_norm}
        if not self.options.noise_multiplier:
            return found
        assert self.options.delta is not None
        return found | {
            "privacy/client_epsilon": self.epsilon(0),
            "privacy/client_delta": self.options.delta,
        }

    # A round

    def average_in_process(self, engine: "LocalEngine", mixture: Mixture) -> dict[SumRef, State]:
        """Let clients send their blocks; return their clusters' averages, in every process."""
        plan, processes = plan_sums(engine.plan, mixture, engine.method.averaged), engine.processes
        given: dict[tuple[int, SumRef], State] = {}
        for ref, owners in list_trained(plan):
            topic = block_topic(ref.network, ref.holding)
            for client_id in owners:
                sent: State = {}
                if processes.holds(client_id):
                    block = engine.client(client_id).blocks(ref.network)[ref.block]
                    message = Message(client_id, SERVER, "blocks", topic, read_block(block))
                    sent = engine.wire.pass_on(message)
                given[client_id, ref] = processes.carry(client_id, SERVER, sent)
        return self.average(mixture, plan, given, engine.networks, engine.seed)

    def average(
        self,
        mixture: Mixture,
        plan: SumPlan,
        given: Given,
        start: Mapping[str, Network],
        seed: int,
    ) -> dict[SumRef, State]:
        """Return the clusters' averages, and remember that all their members get them.

        Args:
            mixture: Clusters of all clients, also of those that are away; the same in every round.
            plan: Who holds which blocks; trained ones are sent.
            given: What they have sent.
            start: The weights that all began with.
            seed: Of the noise.

        Raises:
            HuscfError: Where another round would exceed the budget.
        """
        self.accountant.check_room(self._expose(1), "federation.privacy", "round")
        before = {ref: self._read_last(mixture, ref, start) for _, ref in given}
        factors = self._find_factors(given, before)
        counts = Counter(mixture.clusters.values())
        found: dict[SumRef, State] = {}
        for ref, owners in list_trained(plan):
            purpose = f"noise of averages, {ref.part}"
            rng = make_wide_rng(seed, purpose, self.num_rounds, ref.cluster)
            found[ref] = self._mix(
                {c: given[c, ref] for c in owners},
                before[ref],
                factors,
                counts[ref.cluster],
                rng,
            )
            for client_id in _list_mates(mixture, ref):
                self.received.setdefault(client_id, {})[ref.part] = found[ref]
        self.num_rounds += 1
        if self.keep is not None:
            self.keep()
        return {ref: found[ref._replace(holding="trained")] for ref in plan.parts}

    def _read_last(self, mixture: Mixture, ref: SumRef, start: Mapping[str, Network]) -> State:
        """Return a block of a cluster as its members last got it, or as all began with it."""
        known = self.find_last(_list_mates(mixture, ref)).get(ref.part)
        return read_block(start[ref.network][ref.block]) if known is None else known

    def find_last(self, members: Iterable[int]) -> Mapping[str, State]:
        """Return what members of a cluster last got, by block; those that are new have nothing."""
        return next((own for c in members if (own := self.received.get(c))), {})

    def _find_factors(self, given: Given, before: Mapping[SumRef, State]) -> dict[int, float]:
        """Return by what each client's change is to be multiplied; 0 where it is not finite."""
        squares: dict[int, float] = {}
        for (client_id, ref), state in given.items():
            own = before[ref]
            each = (_change(state, own, name).square().sum().item() for name in own)
            squares[client_id] = squares.get(client_id, 0.0) + sum(each)
        most = self.options.max_update_norm
        norms = {client_id: math.sqrt(square) for client_id, square in squares.items()}
        self.median_norm = median(norms.values())
        return {
            client_id: most / max(norm, most) if math.isfinite(norm) else 0.0
            for client_id, norm in norms.items()
        }

    def _mix(
        self,
        given: Mapping[int, State],
        before: State,
        factors: Mapping[int, float],
        count: int,
        rng: np.random.Generator,
    ) -> State:
        """Return one block's average over a cluster of so many clients."""
        scale = self.options.noise_multiplier * self.options.max_update_norm / count
        found = {}
        for name, like in before.items():
            total = _wide(like).clone()
            for client_id, state in given.items():
                if factor := factors[client_id]:
                    total += _change(state, before, name) * (factor / count)
            found[name] = (total + scale * draw_hiding(rng, total)).to(like)
        return found

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return how many rounds were counted, by which noise, and what every client last got."""
        return {
            "num_rounds": self.num_rounds,
            "noise_multiplier": self.options.noise_multiplier,
            "received": dict(self.received),
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a saved state.

        Raises:
            CheckpointError: Where it has rounds without this noise, which would be counted as if
                they had it.
        """
        if state is None or state.get("noise_multiplier") != self.options.noise_multiplier:
            had = "none" if state is None else state.get("noise_multiplier")
            raise CheckpointError(
                f"federation.privacy.noise_multiplier is {self.options.noise_multiplier:g}, and "
                f"the checkpoint's rounds had {had}: keep that, or train anew"
            )
        check_complete(state, self.state_dict())
        self.num_rounds = max(self.num_rounds, int(state["num_rounds"]))
        self.received = {int(c): dict(own) for c, own in state["received"].items()}


def check_hides_clients(plan: CutPlan, networks: Mapping[str, Network]) -> None:
    """Refuse networks of which more gets out than averages of parameters.

    Raises:
        HuscfError: Naming the network and its blocks.
    """
    for name in plan.networks:
        if at_server := plan.server_blocks(name):
            raise HuscfError(
                f"federation.privacy: block {at_server[0]} of the {name} lies at the server and "
                "learns from every client in every step, which no noise on averages hides: use "
                "huscf.methods.FedGan (configs/private_clients.yaml), or a plan that leaves all "
                "blocks to clients"
            )
        for index, block in enumerate(networks[name]):
            for buffer_name, buffer in block.named_buffers():
                if buffer.is_floating_point():
                    raise HuscfError(
                        f"federation.privacy: block {index} of the {name} keeps "
                        f"{buffer_name.rsplit('.', 1)[-1]} of its batches, which is no weight to "
                        "be clipped and noised: set norm of the network to group, and "
                        "spectral_norm to false"
                    )


def list_trained(plan: SumPlan) -> list[tuple[SumRef, tuple[int, ...]]]:
    """Return the blocks that are sent, and who sends each; moving averages are not."""
    return [(ref, owners) for ref, owners in plan.parts.items() if ref.holding == "trained"]


def _list_mates(mixture: Mixture, ref: SumRef) -> list[int]:
    """Return the members of a block's cluster, also those that are away."""
    return [c for c, cluster in mixture.clusters.items() if cluster == ref.cluster]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().double().cpu()


def _change(state: State, before: State, name: str) -> Tensor:
    """Return what was changed in a tensor, float64 on the CPU."""
    return _wide(state[name]) - _wide(before[name])
