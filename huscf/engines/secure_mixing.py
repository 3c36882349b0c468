"""A round's averages of which the server learns the sum over a cluster's members alone."""

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import HuscfError
from ..parties import read_block, write_block
from ..split import CutPlan
from ..wire import SERVER, Message
from .base import Mixture, block_topic
from .processes import State

if TYPE_CHECKING:
    from ..secure import SecureMember
    from .local import LocalEngine

#: What a message of keys, sealed shares or revealed ones is about.
KEYS_TOPIC = "keys of secure sums"


class SumRef(NamedTuple):
    """A block that the members of a cluster who hold it add up.

    Args:
        cluster: Of whom.
        holding: "trained", or "average" for moving averages.
        network: Of which network.
        block: Index of the block.
    """

    cluster: int
    holding: str
    network: str
    block: int

    @property
    def part(self) -> str:
        """Return its name in a sum of one cluster."""
        return f"{self.holding} {self.network} {self.block}"


@dataclass(frozen=True)
class SumPlan:
    """Who adds which blocks.

    Args:
        parts: Clients that add up a block, ascending, by block.
        apart: Likewise, where fewer than three would: these keep their own for the round, and the
            server keeps its copy.
        alone: Clusters of one client, which has nobody to average with.
    """

    parts: Mapping[SumRef, tuple[int, ...]]
    apart: Mapping[SumRef, tuple[int, ...]]
    alone: frozenset[int] = frozenset()

    def members(self) -> dict[int, list[int]]:
        """Return the clients that add anything, by cluster."""
        found: dict[int, set[int]] = {}
        for ref, holders in self.parts.items():
            found.setdefault(ref.cluster, set()).update(holders)
        return {cluster: sorted(found[cluster]) for cluster in sorted(found)}

    def explain(self) -> list[str]:
        """Return a line on every block that is left as it is, for people to read."""
        return [
            f"block {ref.block} of the {ref.network} in cluster {ref.cluster} is held by clients "
            f"{', '.join(map(str, holders))} alone"
            for ref, holders in self.apart.items()
            if ref.holding == "trained" and ref.cluster not in self.alone
        ]


def plan_sums(plan: CutPlan, mixture: Mixture, averaged: Collection[str] = ()) -> SumPlan:
    """Return who has to add up which blocks where sums are secure, or averages private.

    Those who leave a block to the server have nothing to send, nor do those who do not count;
    in private averages all count.

    Args:
        plan: Cuts of all clients that are there.
        mixture: Clusters and weights.
        averaged: Networks of which there are moving averages too.
    """
    all_count = mixture.private is not None
    least = 1 if all_count else _least_members()
    members: dict[int, list[int]] = {}
    for client_id in plan.client_ids:
        members.setdefault(mixture.clusters[client_id], []).append(client_id)
    parts: dict[SumRef, tuple[int, ...]] = {}
    apart: dict[SumRef, tuple[int, ...]] = {}
    for cluster, every in sorted(members.items()):
        own = [c for c in every if all_count or mixture.weights.get(c, 0) > 0]
        for network, count in plan.blocks:
            for block in range(count) if network not in mixture.givers else ():
                holds = [block in plan.by_client[c].cuts.held(network, count) for c in own]
                holders = tuple(c for c, h in zip(own, holds, strict=True) if h)
                found = parts if len(holders) >= least else apart
                holdings = ("trained", "average") if network in averaged else ("trained",)
                for holding in holdings if holders else ():
                    found[SumRef(cluster, holding, network, block)] = holders
    alone = frozenset(cluster for cluster, every in members.items() if len(every) == 1)
    return SumPlan(parts, apart, alone)


def _least_members() -> int:
    from ..secure import LEAST_MEMBERS

    return LEAST_MEMBERS


def check_secure(plan: CutPlan, mixture: Mixture) -> None:
    """Refuse cuts under which some block could not be added up even by all clients together.

    Raises:
        HuscfError: Naming block and clients.
    """
    if reasons := plan_sums(plan, mixture).explain():
        raise HuscfError(
            f"federation.secure: {reasons[0].replace(' in cluster 0', '')}, and a sum of fewer "
            "than three gives single ones away: let three clients or more have the same cuts"
        )


def sum_in_process(engine: "LocalEngine", mixture: Mixture) -> dict[SumRef, State]:
    """Let clients add up their blocks, and return the weighted means, in every process."""
    sums = plan_sums(engine.plan, mixture, engine.method.averaged)
    found: dict[SumRef, State] = {}
    for cluster, members in sums.members().items():
        parts = {ref: holders for ref, holders in sums.parts.items() if ref.cluster == cluster}
        found |= _sum_cluster(engine, mixture, members, parts)
    return found


def _sum_cluster(
    engine: "LocalEngine",
    mixture: Mixture,
    members: list[int],
    parts: Mapping[SumRef, tuple[int, ...]],
) -> dict[SumRef, State]:
    """Run the protocol among one cluster's members; all that is said passes the wire.

    Each of several processes runs it for all members, and counts what its own clients say.
    """
    from ..secure import SecureMember, SecureSum

    each = {client_id: SecureMember(client_id) for client_id in members}
    total = SecureSum({ref.part: holders for ref, holders in parts.items()})

    def tell(texts: Mapping[int, bytes], is_up: bool) -> None:
        for client_id, text in texts.items():
            if not engine.processes.holds(client_id):
                continue
            sender, receiver = (client_id, SERVER) if is_up else (SERVER, client_id)
            content = {"text": torch.from_numpy(np.frombuffer(text, np.uint8).copy())}
            engine.wire.pass_on(Message(sender, receiver, "blocks", KEYS_TOPIC, content))

    own = {c: member.public for c, member in each.items()}
    tell(own, is_up=True)
    public = total.publish(own)
    tell(dict.fromkeys(members, b"".join(public.values())), is_up=False)
    sealed = {c: member.share_out(public) for c, member in each.items()}
    tell({c: b"".join(texts.values()) for c, texts in sealed.items()}, is_up=True)
    routed = total.route(sealed)
    tell({c: b"".join(texts.values()) for c, texts in routed.items()}, is_up=False)
    words = _write_all_words(engine, mixture, members, parts)
    for client_id, member in each.items():
        member.take_shares(routed[client_id])
        total.add(client_id, _send_masked(engine, member, words, parts))
    revealed = {c: member.reveal(total.survivors) for c, member in each.items()}
    tell({c: b"".join(shares.values()) for c, shares in revealed.items()}, is_up=True)
    sums = total.finish(revealed)
    return {
        ref: read_sum(*sums[ref.part], mixture.weights, read_block(_block(engine, ref, holders[0])))
        for ref, holders in parts.items()
    }


def _write_all_words(
    engine: "LocalEngine",
    mixture: Mixture,
    members: Iterable[int],
    parts: Mapping[SumRef, tuple[int, ...]],
) -> dict[tuple[int, SumRef], np.ndarray]:
    """Return the words of this process's clients, by client and block.

    Raises:
        HuscfError: As of `write_words`, in every process.
    """
    found, error = {}, None
    own = (client_id for client_id in members if engine.processes.holds(client_id))
    try:
        for owner, (ref, holders) in product(own, parts.items()):
            if owner in holders:
                topic, block = block_topic(ref.network, ref.holding), _block(engine, ref, owner)
                message = Message(owner, SERVER, "blocks", topic, read_block(block))
                state = engine.wire.prepare(message)
                found[owner, ref] = write_words(owner, state, mixture.weights[owner])
    except HuscfError as failure:
        error = failure
    engine.processes.raise_together(error)
    return found


def _send_masked(
    engine: "LocalEngine",
    member: "SecureMember",
    words: Mapping[tuple[int, SumRef], np.ndarray],
    parts: Mapping[SumRef, tuple[int, ...]],
) -> dict[str, np.ndarray]:
    found, owner = {}, member.member
    for ref, holders in parts.items():
        if owner not in holders:
            continue
        own = words.get((owner, ref))
        plain: State = {} if own is None else {"words": torch.from_numpy(own.view(np.int64))}
        carried = engine.processes.carry(owner, SERVER, plain)["words"].cpu().numpy()
        masked = member.mask(ref.part, carried.view(np.uint64), holders)
        sent: State = {"masked": torch.from_numpy(masked.view(np.int64))}
        if own is not None:
            topic = block_topic(ref.network, ref.holding)
            sent = engine.wire.pass_on(Message(owner, SERVER, "blocks", topic, sent))
        found[ref.part] = sent["masked"].numpy().view(np.uint64)
    return found


def _block(engine: "LocalEngine", ref: SumRef, client_id: int) -> nn.Module:
    return getattr(engine.client(client_id), ref.holding).blocks(ref.network)[ref.block]


def write_words(client_id: int, state: State, weight: float) -> np.ndarray:
    """Return a block's weighted numbers as words, (n,) uint64; what is counted is left out.

    Of running variances the mean square is added up, since the variance of a mixture is no mean.

    Args:
        client_id: Whose block.
        state: Of the block.
        weight: Of its owner among those of its cluster.

    Raises:
        HuscfError: Naming the client, where a number is not finite or too large.
    """
    from ..secure import encode

    values = []
    for name, tensor in _floats(state).items():
        own = tensor.detach().double().cpu()
        if (mean := _mean_of(name)) is not None:
            own = own + state[mean].detach().double().cpu().square()
        values.append(own.reshape(-1))
    try:
        return encode(torch.cat(values).numpy() if values else np.zeros(0), weight)
    except HuscfError as error:
        raise HuscfError(f"client {client_id}: {error}") from error


def read_sum(
    words: np.ndarray, owners: Iterable[int], weights: Mapping[int, float], like: State
) -> dict[str, Tensor]:
    """Return the weighted mean of the owners' blocks, from the sum of their words.

    Args:
        words: (n,) uint64, modulo 2^64.
        owners: Whose words these are.
        weights: By client.
        like: A state of the same names, shapes and types.
    """
    from ..secure import decode

    values = torch.from_numpy(decode(words) / sum(weights[c] for c in owners))
    shapes = _floats(like)
    parts = values.split([tensor.numel() for tensor in shapes.values()])
    each = zip(shapes.items(), parts, strict=True)
    exact = {name: part.reshape(tensor.shape) for (name, tensor), part in each}
    for name in exact:
        if (mean := _mean_of(name)) is not None:
            exact[name] = (exact[name] - exact[mean].square()).clamp(min=0)
    return {name: tensor.to(shapes[name]) for name, tensor in exact.items()}


def stand_in(block: nn.Module, state: State) -> nn.Module:
    """Return a copy of a block with a mean's state, the owners' copy at the server.

    Args:
        block: Of an owner, which may be in another process.
        state: Stays in its own memory.
    """
    found = copy.deepcopy(block)
    write_block(found, state, shares=True)
    return found


def _floats(state: State) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def _mean_of(name: str) -> str | None:
    """Return the name of the running mean that belongs to a running variance."""
    start = name.removesuffix("running_var")
    return None if start == name else f"{start}running_mean"
