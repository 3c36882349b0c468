"""Which classes a client has, seen by whoever averages its blocks: embedding rows that moved."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..datamodules import ClientData, FederatedDataModule
from ..randomness import make_rng
from ..wire import SERVER, Message
from .attacked_run import AttackedRun
from .membership import measure_separation

#: So many clients are attacked, and each trains for so many steps between two averages.
_NUM_CLIENTS, _NUM_STEPS = 4, 10


def attack_presence(
    run: AttackedRun, data: FederatedDataModule, seed: int
) -> dict[str, dict[str, float]]:
    """Let clients train on a random half of their classes, and tell these from their blocks.

    The server knows what every client began a round with, and is sent what it ends with.

    Args:
        run: The run.
        data: Of its clients.
        seed: Of the choice of classes.

    Returns:
        By network, the AUROC over the rows of all clients; networks without embedding are left out.
    """
    moves: dict[str, list[Tensor]] = {}
    present: dict[str, list[Tensor]] = {}
    for client in data.clients[:_NUM_CLIENTS]:
        batches, classes, is_present = _halve_classes(client, data.batch_size, seed)
        if not batches:
            continue
        for network, distances in _train(run, client.client_id, batches).items():
            moves.setdefault(network, []).append(distances[classes])
            present.setdefault(network, []).append(is_present)
    return {
        network: measure_presence(torch.cat(found), torch.cat(present[network]))
        for network, found in moves.items()
    }


def _halve_classes(
    client: ClientData, batch_size: int, seed: int
) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
    """Return batches of half of a client's classes; its classes, and which of them these are.

    There are no batches where that leaves fewer than two samples.
    """
    rng = make_rng(seed, "audit classes", client.client_id)
    index = torch.from_numpy(client.indices)
    labels = client.domain.train_labels[index]
    classes = labels.unique()
    kept = classes[torch.from_numpy(rng.permutation(len(classes))[: len(classes) // 2])]
    mine = index[torch.isin(labels, kept)]
    size = min(batch_size, len(mine))
    batches = []
    for _ in range(_NUM_STEPS if size >= 2 else 0):
        chosen = mine[torch.from_numpy(rng.permutation(len(mine))[:size])]
        batches.append((client.domain.train_samples[chosen], client.domain.train_labels[chosen]))
    return batches, classes, torch.isin(classes, kept)


def _train(
    run: AttackedRun, client_id: int, batches: list[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Return by network how far the rows of a client's embeddings move, as the server sees it."""
    run.restart()
    engine, client = run.engine, run.engine.client(client_id)
    before = {
        network: {n: t.detach().clone() for n, t in find_embeddings(client.blocks(network)).items()}
        for network in engine.networks
    }
    for step, batch in enumerate(batches):
        engine.run_step({client_id: batch}, step)
    found: dict[str, Tensor] = {}
    for network, weights in before.items():
        after = find_embeddings(client.blocks(network))
        for name, weight in weights.items():
            sent = Message(client_id, SERVER, "blocks", network, {name: after[name].detach()})
            arrived = run.tap.pass_on(sent)[name]
            distances = measure_moves(weight, arrived, run.module.sample_shape.num_classes)
            found[network] = found[network] + distances if network in found else distances
    return found


def find_embeddings(blocks: Mapping[int, nn.Module]) -> dict[str, Tensor]:
    """Return the weights of the embeddings in blocks, by "<block>.<name>", (classes, dim) each."""
    return {
        f"{index}.{name}.weight": module.weight
        for index, block in blocks.items()
        for name, module in block.named_modules()
        if isinstance(module, nn.Embedding)
    }


def measure_moves(before: Tensor, after: Tensor, num_classes: int) -> Tensor:
    """Return how far every class's row has moved, (classes,); rows beyond stand for no class."""
    return torch.linalg.vector_norm(after.double() - before.double(), dim=1)[:num_classes]


def measure_presence(moves: Tensor, is_present: Tensor) -> dict[str, float]:
    """Return the AUROC of telling the classes that a client has from those that it lacks.

    Args:
        moves: (N,) of rows, of several clients one after the other.
        is_present: (N,) bool; both values need to occur.
    """
    return {"auroc": measure_separation(moves[is_present], moves[~is_present])["auroc"]}
