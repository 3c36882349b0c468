"""A round's averages, over the wire: every party sends its blocks, and gets back the mean."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..federation import mixing_matrix
from ..models import find_spectral_norms
from ..parties import (
    Party,
    ServerBlocks,
    copy_moments,
    forget_moments,
    read_block,
    renew_norms,
    split_moments,
    write_block,
)
from ..split import CutPlan
from ..wire import SERVER, Message, PartyId
from .base import Mixture, block_topic
from .processes import Processes, State
from .secure_mixing import SumRef, plan_sums, stand_in

if TYPE_CHECKING:
    from .local import LocalEngine


class Copy(NamedTuple):
    """One copy of a block, and who holds it."""

    party: PartyId
    block: nn.Module


def mix_over_wire(
    engine: "LocalEngine", mixture: Mixture, sums: Mapping[SumRef, State] | None = None
) -> None:
    """Take over an assignment and average every block within every cluster.

    Every member is represented by the copy of the block that it has trained: its own, or the
    server's that served it so far, in whichever cluster it was. The result goes to all members
    that hold the block and to the cluster's copy at the server. A copy that several clusters share
    takes the mean over all its users. A client sends a block only if somebody else weighs it, and
    gets one back only if it changes. Running statistics of normalisation are pooled; counters are
    left alone. A client that has diverged loses its moments.

    Args:
        engine: Whose parties.
        mixture: What is averaged.
        sums: Where sums are secure or averages private, the means over clients. They stand for
            the clients' copies, which then send nothing here; blocks that too few hold stay as
            they are.
    """
    server = engine.server
    diverged = [
        c
        for c, w in mixture.weights.items()
        if w == 0 and engine.processes.holds(c) and not engine.client(c).is_finite()
    ]
    names = server.holding_names
    before = {name: list_holders(engine, name) for name in names}
    apart = {} if sums is None else _replace_holders(engine, mixture, sums, before)
    cloned_from = server.set_clusters(mixture.clusters, mixture.per_cluster)
    for optimizer in server.optimizers.values():
        copy_moments(optimizer, cloned_from)
    for name in names:
        now = list_holders(engine, name)
        for (network, index), holders in before[name].items():
            topic = block_topic(network, name)
            moments = mixture.moments if name == "trained" else "keep"
            if network in mixture.givers:
                _pass_blocks(engine, network, topic, holders, mixture.givers[network], moments)
                continue
            average = mixture.average_of(network)
            users = list_users(getattr(server, name), network, index, now[network, index])
            users |= {copy: [] for copy in holders.values() if copy not in users}
            kept = apart.get((name, network, index), frozenset())
            users = {
                copy: [c for c in users[copy] if c not in average.keepers | kept]
                for copy in sort_copies(engine.plan, users)
            }
            matrix = mixing_matrix(holders, users, average.clusters, average.weights)
            _mix_block(engine, network, topic, list(users), matrix, moments)
    if mixture.moments == "keep":
        engine.forget_moments_of(diverged)
    server.refresh_optimizers(engine.method)


def _replace_holders(
    engine: "LocalEngine",
    mixture: Mixture,
    sums: Mapping[SumRef, State],
    before: Mapping[str, dict[tuple[str, int], dict[int, Copy]]],
) -> dict[tuple[str, str, int], frozenset[int]]:
    """Put what members have added up in the place of their copies.

    Returns:
        By holding, network and block the clients that leave it as it is.
    """
    plan = plan_sums(engine.plan, mixture, engine.method.averaged)
    for ref, owners in plan.parts.items():
        holders = before[ref.holding][ref.network, ref.block]
        copy = Copy(SERVER, stand_in(holders[owners[0]].block, sums[ref]))
        holders.update(dict.fromkeys(owners, copy))
    apart: dict[tuple[str, str, int], frozenset[int]] = {}
    for ref in plan.apart:
        key = ref.holding, ref.network, ref.block
        members = {c for c, cluster in mixture.clusters.items() if cluster == ref.cluster}
        apart[key] = apart.get(key, frozenset()) | members
    for (holding, network, block), clients in apart.items():
        holders = before[holding][network, block]
        before[holding][network, block] = {c: o for c, o in holders.items() if c not in clients}
    return apart


def list_holders(engine: "LocalEngine", holding: str) -> dict[tuple[str, int], dict[int, Copy]]:
    """Return, for every network and block, the copy that each client uses."""
    found: dict[tuple[str, int], dict[int, Copy]] = {}
    server = getattr(engine.server, holding)
    for network in server.network_names:
        for client_id in engine.plan.client_ids:
            own = getattr(engine.client(client_id), holding).blocks(network)
            served = server.segment(network, client_id)
            for index in range(engine.plan.num_blocks(network)):
                copy = (
                    Copy(client_id, own[index])
                    if index in own
                    else Copy(SERVER, served.block(index))
                )
                found.setdefault((network, index), {})[client_id] = copy
    return found


def list_users(
    server: ServerBlocks, network: str, index: int, holders: Mapping[int, Copy]
) -> dict[Copy, list[int]]:
    """Return every copy of a block, in a fixed order, and the clients it stands for.

    A server copy stands for the clients that use it, or for all that are routed to it where
    each of them holds the block itself: so it stays fit for use after a change of cuts.
    """
    users: dict[Copy, list[int]] = {}
    for client_id, copy in holders.items():
        users.setdefault(copy, []).append(client_id)
    idle: dict[Copy, list[int]] = {}
    for which, segment in enumerate(server.copies(network)):
        if index in segment.indices:
            copy, routed = Copy(SERVER, segment.block(index)), server.routed_to(which)
            if copy not in users and routed:
                idle.setdefault(copy, []).extend(routed)
    return users | idle


def sort_copies(plan: CutPlan, copies: Iterable[Copy]) -> list[Copy]:
    """Return the clients' copies by cuts and client, then the server's in their order.

    A mean is a tree over them. Alike clients are mostly trained by one process, which then has
    whole branches of it.
    """

    def place(copy: Copy) -> tuple[bool, list[int], int]:
        if copy.party == SERVER:
            return True, [], 0
        return False, plan.by_client[copy.party].cuts.as_list(), copy.party

    return sorted(copies, key=place)


def _mix_block(
    engine: "LocalEngine",
    network: str,
    topic: str,
    copies: Sequence[Copy],
    matrix: Tensor,
    moments: str,
) -> None:
    """Average the copies of one block: up, mean, down."""
    others = matrix.clone().fill_diagonal_(0.0)
    is_weighed = (others.sum(0) > 0).tolist()
    changes = (matrix.diagonal() != 1.0).tolist()
    processes, parties = engine.processes, [copy.party for copy in copies]
    arrived: list[State] = []
    for copy, sends in zip(copies, is_weighed, strict=True):
        state = _read(engine, copy, network, moments)
        if copy.party != SERVER and sends and processes.holds(copy.party):
            state = engine.wire.pass_on(Message(copy.party, SERVER, "blocks", topic, state))
        arrived.append(state)
    own, momenta = zip(*map(split_moments, arrived), strict=True)
    mixed: list[State | None] = [*processes.mix(parties, own, matrix)]
    if moments == "average":
        mixed = _add_moments(processes, parties, mixed, momenta, matrix)
    for copy, new, is_new in zip(copies, mixed, changes, strict=True):
        if not processes.holds(copy.party):
            if is_new and new is not None:
                _lend(copy, new)
            continue
        optimizer = _optimizer(engine, copy, network)
        if moments == "reset" and optimizer is not None:
            forget_moments(optimizer, copy.block.parameters())
        if not is_new or new is None:
            continue
        if copy.party != SERVER:
            new = engine.wire.pass_on(Message(SERVER, copy.party, "blocks", topic, new))
        _take_over(engine, copy, network, new, moments)


def _pass_blocks(
    engine: "LocalEngine",
    network: str,
    topic: str,
    holders: Mapping[int, Copy],
    givers: Mapping[int, int],
    moments: str,
) -> None:
    """Let every client that holds a block go on with its giver's; moments go along or stay."""
    arrived: dict[Copy, State] = {}
    processes = engine.processes
    for client_id, copy in holders.items():
        source = holders[givers[client_id]]
        if copy.party == SERVER or source == copy:
            continue
        sent: State = {n: t.clone() for n, t in _read(engine, source, network, moments).items()}
        sent = processes.carry(source.party, copy.party, sent)
        if processes.holds(source.party) or processes.holds(copy.party):
            message = Message(source.party, copy.party, "blocks", topic, sent)
            sent = engine.wire.pass_on(message)
        arrived[copy] = sent
    for copy, state in arrived.items():
        if not processes.holds(copy.party):
            continue
        optimizer = _optimizer(engine, copy, network)
        if moments == "reset" and optimizer is not None:
            forget_moments(optimizer, copy.block.parameters())
        _take_over(engine, copy, network, state, moments)


def _read(engine: "LocalEngine", copy: Copy, network: str, moments: str) -> State:
    """Return a copy's tensors, with its moments where these are averaged; nothing elsewhere."""
    if not engine.processes.holds(copy.party):
        return {}
    return read_block(
        copy.block, _optimizer(engine, copy, network) if moments == "average" else None
    )


def _lend(copy: Copy, state: State) -> None:
    """Let a client's block that is trained in another process show its new state, to draw from.

    It lies in the memory of the mean, as those of the cluster's other members do.
    """
    for name, tensor in (*copy.block.named_parameters(), *copy.block.named_buffers()):
        if name in state:
            tensor.data = state[name]


def _take_over(engine: "LocalEngine", copy: Copy, network: str, state: State, moments: str) -> None:
    """Let a party go on with a block's new state, in the state's own memory where that can be."""
    party = _party(engine, copy)
    # Norms are estimated in place, by every holder for itself.
    shares = not find_spectral_norms(copy.block)
    if shares:
        party.shares_memory = True
    else:
        party.own_memory()
    write_block(
        copy.block, state, party.optimizers.get(network) if moments == "average" else None, shares
    )
    renew_norms(copy.block)


def _add_moments(
    processes: Processes,
    parties: Sequence[PartyId],
    mixed: Sequence[State | None],
    momenta: Sequence[State],
    matrix: Tensor,
) -> list[State | None]:
    """Average moments by the same matrix, among the copies that have any."""
    # Copies that were never trained, such as a server's that all clients hold, have no moments.
    has_any = processes.agree(parties, [bool(state) for state in momenta])
    known = [row for row, is_known in enumerate(has_any) if is_known]
    shares = matrix[known][:, known]
    totals = shares.sum(1, keepdim=True)
    shares = torch.where(totals > 0, shares / totals, torch.eye(len(known)).double())
    counted = [{n: t for n, t in momenta[row].items() if ".step." not in n} for row in known]
    found = list(mixed)
    means = processes.mix([parties[row] for row in known], counted, shares)
    for row, state in zip(known, means, strict=True):
        own = mixed[row]
        if own is not None and state is not None:
            found[row] = {**own, **state}
    return found


def _optimizer(engine: "LocalEngine", copy: Copy, network: str) -> Optimizer | None:
    return _party(engine, copy).optimizers.get(network)


def _party(engine: "LocalEngine", copy: Copy) -> Party:
    return engine.server if copy.party == SERVER else engine.client(copy.party)
