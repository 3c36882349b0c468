"""What a checkpoint holds of an engine, by party, and how an engine goes on from it."""

from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, check_complete
from ..parties import Client
from ..split import CutPlan
from .moving import move_over_wire

if TYPE_CHECKING:
    from .local import LocalEngine


def get_state(engine: "LocalEngine") -> dict[str, Any]:
    """Return what is not in the parties' parameters, by party."""
    parties = engine.all_parties()
    clients = {p.client_id: p for p in parties.values() if isinstance(p, Client)}
    return {
        "plan": engine.plan.to_dict(),
        "clusters": engine.clusters,
        "route": engine.server.trained.route,
        "per_cluster": engine.server.trained.per_cluster,
        "statistics": engine.server.statistics.state_dict(),
        "guard": engine.server.guard.state_dict(),
        "traffic": engine.wire.traffic.state_dict(),
        "num_dropped": engine.num_dropped,
        "remembered": {c: dict(client.remembered) for c, client in clients.items()},
        "shared": {c: list(own.shared) for c, own in clients.items() if own.shared is not None},
        "optimizers": {n: p.get_optimizer_state() for n, p in parties.items()},
    }


def set_structure(
    engine: "LocalEngine", state: Mapping[str, Any], may_join: bool = False
) -> tuple[str, ...]:
    """Take over plan, clusters and counters, before parameters are loaded.

    Clients that the checkpoint does not know join with the cuts and weights that they have
    here, in a cluster of their own until a round has placed them.

    Args:
        engine: Who goes on.
        state: From `get_state`, of any engine.
        may_join: Whether there may be such clients.

    Returns:
        How the names of those tensors begin that stay as they are here.

    Raises:
        CheckpointError: Where it is of other networks, or of other clients.
    """
    check_complete(state, get_state(engine).keys() - {"remembered", "shared"})  # older
    parties = engine.all_parties()
    for party in engine.held_parties().values():
        party.own_memory()  # what is loaded is written in place
    saved = CutPlan.from_dict(state["plan"])
    new = [client for client in engine.plan.client_ids if client not in saved.client_ids]
    plan = CutPlan(
        saved.blocks,
        tuple(saved.by_client.get(entry.client_id, entry) for entry in engine.plan.clients),
    )
    is_gone = len(saved.clients) + len(new) > len(plan.clients)
    if saved.blocks != engine.plan.blocks or is_gone or (new and not may_join):
        raise CheckpointError(
            "the checkpoint is of other networks or clients (blocks, client ids): "
            f"{dict(saved.blocks)}, {saved.client_ids}, here {dict(engine.plan.blocks)}, "
            f"{engine.plan.client_ids}"
        )
    named = [name for name in parties if name not in map(str, new)]
    check_complete(state["optimizers"], named)
    if plan != engine.plan:
        move_over_wire(engine, plan)
        engine.plan = plan
    _take_clusters(engine, state, new)
    if not new:  # with other clients another boundary may be the one to observe
        engine.server.statistics.load_state_dict(state["statistics"])
    engine.server.guard.load_state_dict(state["guard"])
    engine.wire.traffic.load_state_dict(state["traffic"])
    engine.num_dropped = dict.fromkeys(new, 0) | dict(state["num_dropped"])
    for client_id, values in state.get("remembered", {}).items():
        engine.client(client_id).remembered = dict(values)
    for client_id, (samples, labels) in state.get("shared", {}).items():
        engine.client(client_id).shared = (samples, labels)
    engine.on_new_structure()
    return _list_fresh(engine, saved, new, max(state["route"].values()) + 1) if new else ()


def _take_clusters(engine: "LocalEngine", state: Mapping[str, Any], new: list[int]) -> None:
    """Take over clusters and copies; those who join get a cluster, and copies, of their own."""
    server, per_cluster = engine.server, state["per_cluster"]
    apart = max(state["clusters"].values()) + 1
    server.clusters = dict(state["clusters"]) | dict.fromkeys(new, apart)
    count = max(state["route"].values()) + 1
    route = dict(state["route"]) | dict.fromkeys(new, 0 if per_cluster is False else count)
    for holding in server.holdings:
        holding.set_copies(max(route.values()) + 1, route, per_cluster)


def _list_fresh(
    engine: "LocalEngine", saved: CutPlan, new: list[int], num_copies: int
) -> tuple[str, ...]:
    """Return how the names of tensors begin that a checkpoint lacks, as it lacks clients."""
    fresh = [f"clients.{client}." for client in new]
    for name, holding in product(engine.plan.networks, ("trained", "average")):
        at_server = f"server.{holding}.{name}"
        fresh.append(f"{at_server}.{num_copies}.")
        fresh += [
            f"{at_server}.{copy}.blocks.{index}."
            for index in {*engine.plan.server_blocks(name)} - {*saved.server_blocks(name)}
            for copy in range(num_copies)
        ]
    return tuple(fresh)
