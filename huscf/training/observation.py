"""How clients show themselves to the server: under blocks that never train, or by their labels."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from ..engines import add_to_sums
from ..errors import HuscfError
from ..federation import ReferenceObserver
from ..models import Carry
from ..randomness import make_wide_rng
from ..wire import SERVER, Kind, Message
from .rounds import FederatedRun


def start_observer(module: FederatedRun, num_samples: int) -> ReferenceObserver:
    """Return an observer under the first blocks of the compared network, before training.

    The last two are left out: a tail has at least one and the server another, so that whatever
    the cuts, no client sends anything that comes before its head's output.

    Args:
        module: Whose method says which network that is.
        num_samples: See ReferenceObserver.

    Raises:
        HuscfError: Where the method observes no network.
    """
    network = module.method.observed
    if network is None:
        raise HuscfError(
            f"federation: {type(module.method).__name__} observes no pass, so clients cannot be "
            "compared: set federation.rule to huscf.federation.OneCluster or EachAlone"
        )
    module.server.statistics.boundary = None  # the blocks in training are not observed
    return ReferenceObserver(list(module.engine.networks[network])[:-2], num_samples)


def observe_batch(
    observer: ReferenceObserver, module: FederatedRun, batch: Mapping[int, tuple[Tensor, Tensor]]
) -> None:
    """Let the clients of a step send what the reference blocks of their head make of its samples.

    Args:
        observer: Who gets it.
        module: Whose wire carries and counts it.
        batch: Samples (B, C, H, W) uint8 and labels by client.
    """
    network = module.method.observed
    assert network is not None
    module.server.statistics.boundary = None  # new cuts begin new statistics
    cuts = {client: module.engine.plan.by_client[client].cuts.head(network) for client in batch}

    def send(client: int, tensors: Carry) -> Carry | None:
        # Without a head it would be the samples themselves, which the method has to allow.
        kind: Kind = "activations" if cuts[client] else "inputs"
        message = Message(client, SERVER, kind, f"{network}_head", tensors)
        arrived = dict(module.engine.wire.pass_on(message))
        # A client that sends NaN or Inf stops or is dropped in the step itself.
        return arrived if all(bool(t.isfinite().all()) for t in arrived.values()) else None

    inputs = {
        client: module.method.reference_inputs(samples) for client, (samples, _) in batch.items()
    }
    observer.observe(inputs, cuts, send)


def sum_batch(
    observer: ReferenceObserver,
    module: FederatedRun,
    batch: Mapping[int, tuple[Tensor, Tensor]],
    noise: float,
) -> None:
    """Let the clients of a step add their samples under all reference blocks to their own sums.

    Nothing is sent; `LocalEngine.gather_sums` does that once a round.

    Args:
        observer: Has the blocks, which every client has too, and the clients' sums.
        module: Whose method says what enters.
        batch: Samples (B, C, H, W) uint8 and labels by client.
        noise: On every sample; see Federation.
    """
    statistics = observer.statistics
    for client, (samples, _) in batch.items():
        if not observer.wants(client):
            continue
        place = (client, module.num_rounds, statistics.num_samples(client))
        rng = partial(make_wide_rng, module.seed, "noise of statistics", *place)
        inputs = module.method.reference_inputs(samples)
        add_to_sums(statistics, observer.blocks, client, inputs, noise, rng)


def count_labels(
    counts: dict[int, Tensor],
    module: FederatedRun,
    batch: Mapping[int, tuple[Tensor, Tensor]],
) -> None:
    """Let every client add the labels of its batch to what it has seen in the round.

    Args:
        counts: (C,) int64 by client; changed.
        module: Whose classes they are.
        batch: Samples and labels (B,) by client.
    """
    for client, (_, labels) in batch.items():
        own = torch.bincount(labels.cpu(), minlength=module.engine.shape.num_classes)
        counts[client] = counts[client] + own if client in counts else own


def send_label_counts(
    counts: Mapping[int, Tensor], module: FederatedRun
) -> dict[int, tuple[int, ...]]:
    """Let the clients send what they have counted; who has seen nothing counts 0 of each class."""
    if not counts:
        return {}
    found = dict.fromkeys(module.engine.clusters, (0,) * module.engine.shape.num_classes)
    for client, own in counts.items():
        if not module.engine.processes.holds(client):
            found[client] = tuple(own.tolist())  # it is sent where the client is
            continue
        message = Message(client, SERVER, "label_counts", "labels", {"counts": own})
        found[client] = tuple(module.engine.wire.pass_on(message)["counts"].tolist())
    return found


def send_figures(module: FederatedRun) -> dict[str, dict[int, float]]:
    """Let the clients tell what the method wants them to, of what steps have taught them.

    They forget it, so that who is away in the next round does not tell it again.

    Returns:
        By name and client.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in module.method.told}
    for client_id in module.engine.plan.client_ids if found else ():
        remembered = module.engine.client(client_id).remembered
        own = {n: torch.tensor([remembered.pop(n)]) for n in found if n in remembered}
        if not own:
            continue
        arrived = module.engine.wire.pass_on(Message(client_id, SERVER, "figures", "told", own))
        for name, value in arrived.items():
            found[name][client_id] = float(value)
    return found
