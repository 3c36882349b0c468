"""Clients that choose their cluster: samples of every cluster's networks beside every client's."""

import copy
from collections.abc import Mapping
from functools import partial

from torch import Tensor, float64, tensor

from ..engines import LocalEngine, Mixture, Moments, block_topic, name_crossing
from ..federation import choose_clusters
from ..methods import mean_discrepancy
from ..models import Carry, Network, evaluating, run_blocks, to_float
from ..parties import PerCluster, read_block, write_block
from ..randomness import make_generator
from ..wire import SERVER, Message
from .rounds import FederatedRun


def let_clients_choose(
    module: FederatedRun,
    batch: Mapping[int, tuple[Tensor, Tensor]],
    per_cluster: PerCluster,
    moments: Moments,
) -> None:
    """Let every client of a step go on with the cluster whose samples are nearest to its batch.

    Whoever changes gets the blocks of its new cluster.

    Args:
        module: At a round's beginning, when the members of a cluster have equal blocks.
        batch: Samples (B, C, H, W) uint8 and labels by client.
        per_cluster: The server's blocks that every cluster has a copy of.
        moments: Of Adam, of blocks that are replaced.
    """
    engine, before = module.engine, dict(module.engine.clusters)
    models = {cluster: c for c, cluster in sorted(before.items(), reverse=True)}
    own = {
        client: tensor(
            [
                _measure_loss(module, client, model, *batch[client])
                for _, model in sorted(models.items())
            ],
            dtype=float64,
        )
        for client in batch
        if engine.processes.holds(client)
    }
    losses = {
        client: dict(zip(sorted(models), values.tolist(), strict=True))
        for client, values in engine.processes.add_up(own).items()
    }
    chosen = choose_clusters(losses, before)
    for client in losses:
        told = {"cluster": tensor([chosen[client]])}
        engine.wire.pass_on(Message(client, SERVER, "figures", "chosen cluster", told))
    if chosen == before:
        return
    # One who stays stands for each cluster: all of its members are equal.
    stays = {before[c]: c for c in sorted(before, reverse=True) if chosen[c] == before[c]}
    weights = {c: float(stays[cluster] == c) for c, cluster in chosen.items()}
    engine.mix(Mixture(chosen, weights, per_cluster, moments))


def _measure_loss(
    module: FederatedRun, client: int, model: int, samples: Tensor, labels: Tensor
) -> float:
    """Return how far a client's batch is from samples of its labels, of another's networks.

    The client gets the blocks of these that it would hold; what crosses the cuts crosses them.

    Args:
        module: The run.
        client: Who draws, with the same noise for every model.
        model: Whose networks.
        samples: (B, C, H, W) uint8.
        labels: (B,) int64.
    """
    stream = make_generator(module.seed, "choice of clusters", client, module.num_rounds)
    run = partial(_run_split, module.engine, client, model)
    drawn = module.method.sample(run, labels.cpu(), stream)
    return float(mean_discrepancy(to_float(samples).to(drawn.device), drawn.float()))


def _run_split(engine: LocalEngine, client: int, model: int, name: str, inputs: Carry) -> Carry:
    """Run another's network in evaluation mode, its middle at the server; changes nothing."""
    network = _send_network(engine, client, model, name)
    crossing = engine.client(client).crossings[name]
    middle = engine.plan.by_client[client].cuts.server_range(name, len(network))
    parts, device = dict(enumerate(network)), next(network.parameters()).device

    def run(indices: range, carry: Carry) -> Carry:
        return run_blocks({index: parts[index] for index in indices}, carry)

    with evaluating(network):
        carry = run(range(middle.start), {n: t.to(device) for n, t in inputs.items()})
        if not middle:
            return run(range(middle.start, len(network)), carry)
        topic, kind = name_crossing(engine, name, "activations", True, client)
        up = Message(client, SERVER, kind, topic, {n: carry[n] for n in crossing.up})
        made = run(middle, dict(engine.wire.pass_on(up)))
        topic, kind = name_crossing(engine, name, "activations", False, client)
        down = Message(SERVER, client, kind, topic, {n: made[n] for n in crossing.down})
        home = {n: carry[n] for n in crossing.home}
        return run(range(middle.stop, len(network)), {**home, **engine.wire.pass_on(down)})


def _send_network(engine: LocalEngine, client: int, model: int, name: str) -> Network:
    """Return another's network to draw through, the client's part as the server has sent it."""
    blocks = [copy.deepcopy(block) for block in engine.sampling_network(name, model)]
    if engine.clusters[client] != engine.clusters[model]:
        topic = block_topic(name, engine.sampling_holding(name))
        for index in engine.plan.by_client[client].cuts.held(name, len(blocks)):
            message = Message(SERVER, client, "blocks", topic, read_block(blocks[index]))
            write_block(blocks[index], engine.wire.pass_on(message))
    return Network(blocks)
