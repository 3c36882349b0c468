"""What a federation cannot do with a method, an engine or cuts: refused before the first step."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from typing import TYPE_CHECKING, get_args

from ..engines import Mixture, check_hides_clients, check_secure
from ..errors import HuscfError
from ..federation import check_server_copies
from ..methods import Method, Mixing
from .rounds import FederatedRun

if TYPE_CHECKING:
    from .federation import Federation

#: Of so many rounds it is looked at beforehand what a method does with its networks.
ROUNDS = range(100)


def check_federation(
    federation: "Federation", module: FederatedRun, clusters: Mapping[int, int] | None
) -> None:
    """Refuse what would fail at a round's end, or do something else than was asked for.

    Args:
        federation: What is asked for.
        module: The run.
        clusters: Those that clients begin in, or None where all are in one.

    Raises:
        HuscfError: Naming the option.
    """
    check_server_copies(federation.server, module.engine.plan)
    _check_method(federation, module)
    _check_privacy(federation, module)
    if federation.secure or federation.private is not None:
        _check_plain_means(federation, module)
    if federation.secure:
        _check_secure(federation, module, clusters)
    if federation.private is not None:
        _check_client_privacy(federation, module, clusters)
        federation.private.check_delta(len(module.engine.plan.client_ids))
    _check_compared(federation, module)
    _check_boundary(federation, module)


def read_mixing(method: Method, network: str, number: int) -> Mixing:
    """Return what a method does with a network at a round's end.

    Raises:
        HuscfError: Where it is no word that is known: to average, as others do, may send what is
            to stay at home.
    """
    mixing = method.mixing(network, number)
    if mixing not in get_args(Mixing):
        raise HuscfError(
            f"{type(method).__name__}.mixing says {mixing!r:.80} of the {network} in round "
            f"{number}, must be one of {', '.join(get_args(Mixing))}"
        )
    return mixing


def _check_method(federation: "Federation", module: FederatedRun) -> None:
    """Refuse what the method does not let cross, and moments that it cannot do with."""
    method = module.method
    for network, number in product(module.engine.plan.networks, ROUNDS):
        read_mixing(method, network, number)
    name, wanted = type(method).__name__, method.moments
    if wanted is not None and federation.moments != wanted:
        raise HuscfError(f"federation.moments is {federation.moments}, and {name} needs {wanted}")
    if federation.policy.lets_choose and "figures" not in method.kinds:
        raise HuscfError(
            f"federation.rule: clients tell which cluster they choose, and {name} lets no "
            "figures cross: set model.method to huscf.methods.IfcaGan"
        )
    if federation.policy.needs_labels and "label_counts" not in method.kinds:
        raise HuscfError(
            f"federation.weighting: weighs clients by their counts of labels, and {name} lets none "
            "cross: set model.method to huscf.methods.FeGan, or weighting to samples or kld"
        )


def _check_compared(federation: "Federation", module: FederatedRun) -> None:
    """Refuse to compare clients by what the method lets no client send."""
    method, observed = module.method, module.method.observed
    if not federation.policy.needs_features or observed is None:
        return
    cuts = [client.cuts for client in module.engine.plan.clients]
    needed = {"activations" if each.head(observed) else "inputs" for each in cuts}
    if federation.observe == "statistics":
        needed = {"statistics"}
    for kind in sorted(needed - method.kinds):
        raise HuscfError(
            f"federation.rule compares clients by {kind}, and {type(method).__name__} lets none "
            "cross: set federation.rule to huscf.federation.OneCluster"
        )


def _check_privacy(federation: "Federation", module: FederatedRun) -> None:
    """Refuse rounds that would follow from single records, where these are to be private."""
    policy = federation.policy
    reads_records = policy.needs_features or policy.needs_labels or policy.lets_choose
    if module.engine.is_private and (reads_records or module.method.num_shared):
        raise HuscfError(
            "federation: under model.privacy nothing but gradients may follow from records: "
            "set federation.rule to OneCluster, EachAlone or GivenClusters of "
            "huscf.federation, weighting to a rule that needs no labels, and use no method "
            "that shares samples"
        )


def _check_boundary(federation: "Federation", module: FederatedRun) -> None:
    """Refuse to compare clients in training where no boundary is at the server for all."""
    compares = federation.policy.needs_features and federation.observe == "training"
    if compares and module.server.statistics.boundary is None:
        name = module.method.observed or "networks"
        raise HuscfError(
            f"federation: no boundary of the {name} is at the server for all clients, so "
            f"they cannot be compared: shorten the longest {name} heads or tails, or set "
            "federation.observe to reference"
        )


def _check_plain_means(federation: "Federation", module: FederatedRun) -> None:
    """Refuse what gives single clients' blocks away beside their means over clusters."""
    option = "federation.secure" if federation.secure else "federation.privacy"
    if federation.moments == "average":
        raise HuscfError(
            f"{option}: moments are no sums over clients; set federation.moments to keep or reset"
        )
    method, networks = module.method, module.engine.plan.networks
    name = type(method).__name__
    mixings = {method.mixing(n, number) for n in networks for number in ROUNDS}
    if mixings & {"swap", "share"}:
        raise HuscfError(
            f"{option}: {name} shows or passes on single clients' blocks, which no sum hides"
        )
    if type(method).average is not Method.average:
        raise HuscfError(f"{option}: {name} averages in a way of its own")
    if federation.policy.needs_updates or federation.policy.lets_choose:
        raise HuscfError(
            f"{option}: this federation.rule needs single clients' blocks or averages of its own; "
            "take another"
        )


def _check_client_privacy(
    federation: "Federation", module: FederatedRun, clusters: Mapping[int, int] | None
) -> None:
    """Refuse averages that follow from clients otherwise than by what is clipped and noised."""
    if federation.secure:
        raise HuscfError(
            "federation.privacy: the server clips what single clients have changed, which secure "
            "sums do not show it; set federation.secure to false"
        )
    policy = federation.policy
    if policy.needs_features or policy.needs_labels:
        raise HuscfError(
            "federation.privacy: clusters or weights that are found in what clients send tell of "
            "them: set federation.rule to OneCluster or GivenClusters of huscf.federation, and "
            "weighting to uniform"
        )
    if policy.weighting != "uniform":
        raise HuscfError(
            "federation.privacy: one client's part in an average is bounded only where all count "
            "alike; set federation.weighting to uniform"
        )
    sizes = Counter((clusters or {}).values())
    if alone := [c for c, cluster in (clusters or {}).items() if sizes[cluster] == 1]:
        raise HuscfError(
            f"federation.privacy: client {alone[0]} is alone in its cluster, where no average "
            "hides it; put it together with others"
        )
    check_hides_clients(module.engine.plan, module.engine.networks)


def _check_secure(
    federation: "Federation", module: FederatedRun, clusters: Mapping[int, int] | None
) -> None:
    """Refuse what sums cannot hide."""
    if find_spec("cryptography") is None:
        raise HuscfError(
            "federation.secure needs cryptography, of the extra deploy: pip install 'huscf[deploy]'"
        )
    method, networks = module.method, module.engine.plan.networks
    known = clusters or dict.fromkeys(module.engine.plan.client_ids, 0)
    even = Mixture(known, dict.fromkeys(known, 1.0))
    kept: dict[str, dict[int, int]] = {n: {} for n in networks if method.mixing(n, 0) == "keep"}
    check_secure(module.engine.plan, replace(even, givers=kept))
