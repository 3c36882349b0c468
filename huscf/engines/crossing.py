"""What crosses a client's cuts, what it is called, and which plans let a method's inputs cross."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import PlanError
from ..methods import Method
from ..models import Network
from ..parties import find_crossings
from ..split import CutPlan
from ..wire import Kind, PartyId

if TYPE_CHECKING:
    from .local import LocalEngine


def check_plan(method: Method, plan: CutPlan, networks: Mapping[str, Network]) -> None:
    """Refuse a plan that a method does not allow, or under which its inputs would cross.

    Raises:
        PlanError: Naming the client and the network.
    """
    method.check_plan(plan)
    if "inputs" in method.kinds:
        return
    for client in plan.clients:
        for network, crossing in find_crossings(client.cuts, networks).items():
            if secret := [name for name in crossing.raw if name not in method.public]:
                raise PlanError(
                    f"client {client.client_id}: {network}_head {client.cuts.head(network)} leaves "
                    f"the server blocks that read {', '.join(secret)}, which this method "
                    "keeps at the client: let the head reach beyond them"
                )


def name_crossing(
    engine: "LocalEngine", network: str, kind: Kind, is_up: bool, client_id: PartyId
) -> tuple[str, Kind]:
    """Return the cut that a message of a client crosses, and of which kind that makes it."""
    assert isinstance(client_id, int)
    client = engine.client(client_id)
    raw = set(client.crossings[network].raw) - engine.method.public
    return name_cut(network, kind, is_up, bool(raw), bool(client.cuts.tail(network)))


def name_cut(
    network: str, kind: Kind, is_up: bool, is_raw: bool, has_tail: bool
) -> tuple[str, Kind]:
    """Return the cut that a message crosses, and of which kind that makes it.

    Where no block of a client's head has changed something, what enters the network crosses;
    where it holds no tail, what leaves it does.

    Args:
        network: Which.
        kind: "activations" or "gradients".
        is_up: Whether it goes to the server.
        is_raw: Whether something crosses that the head has not changed and that is a secret.
        has_tail: Whether the client holds a tail.
    """
    is_head_cut = is_up if kind == "activations" else not is_up
    if kind == "activations" and is_up and is_raw:
        kind = "inputs"
    elif kind == "activations" and not is_up and not has_tail:
        kind = "outputs"
    return f"{network}_{'head' if is_head_cut else 'tail'}", kind
