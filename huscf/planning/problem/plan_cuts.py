"""How a plan spells its cuts; the rest of planning goes by network, head and tail."""

from collections.abc import Iterable, Mapping

from ...split import ClientCuts, ClientPlan, CutPlan, cut_names


def list_cut_names(networks: Iterable[str]) -> tuple[str, ...]:
    """Return the names of all cuts of these networks."""
    return tuple(name for network in networks for name in cut_names(network))


def is_cut_name(name: object) -> bool:
    """Return whether this may be the name of a network's cut."""
    return isinstance(name, str) and name.endswith(("_head", "_tail"))


def smallest_cuts(networks: Iterable[str]) -> ClientCuts:
    """Return the cuts that leave a client one block at each end."""
    return make_cuts(dict.fromkeys(networks, (1, 1)))


def make_cuts(ends: Mapping[str, tuple[int, int]]) -> ClientCuts:
    """Return the cuts with these head and tail blocks of each network."""
    return ClientCuts(tuple((network, head, tail) for network, (head, tail) in ends.items()))


def make_plan(num_blocks: Mapping[str, int], clients: tuple[ClientPlan, ...]) -> CutPlan:
    """Return the plan of clients ascending by id, for networks of so many blocks."""
    return CutPlan(tuple(num_blocks.items()), clients)
