"""Prints what it costs that labels stay with a client: python benchmarks/conditioning.py.

A U-Net of flow matching is trained uncut, on the samples of all clients, three times: labels
shift channels in the first and the last block alone; in every block, for which a server would
need them; and as huscf has it, with maps of each label beside the sample as well. HUSCF_DATA names
the folder with the data sets; "digits" comes with scikit-learn.
"""

import argparse
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from huscf.datamodules import DigitsDataModule, ImageDataModule
from huscf.methods import FlowMatching
from huscf.metrics import EvaluationSettings
from huscf.metrics.evaluation import DomainEvaluator, Draws
from huscf.models import (
    LABELS,
    MAIN,
    Carry,
    Network,
    SampleShape,
    UNet,
    names_read,
    names_written,
    run_blocks,
    run_to_draw,
)
from huscf.randomness import make_generator

WAYS = ("both ends", "every block", "maps")
SCORES = ("generation_score", "label_accuracy", "frechet_distance", "recall", "downstream_accuracy")


class Labelled(nn.Module):
    """A block of the U-Net's middle that is told the label as the first and last are.

    Args:
        index: Of the block.
        block: The block.
        num_labels: Classes, and one for none.
    """

    def __init__(self, index: int, block: nn.Module, num_labels: int) -> None:
        super().__init__()
        self.reads = (*names_read(index, block), LABELS)
        self.writes = names_written(block)
        self.block = block
        self.embedding = nn.Embedding(num_labels, block.residual.condition_dim)
        block.residual.register_forward_pre_hook(self._add_label)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return what the block does."""
        self._label = self.embedding(inputs[-1])
        return self.block(*inputs[:-1])

    def _add_label(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (*inputs, self._label)


class Sampler:
    """Draws from a network as a client would.

    Args:
        method: Flow matching.
        network: The denoiser.
        seed: Of the noise.
    """

    def __init__(self, method: FlowMatching, network: nn.ModuleList, seed: int) -> None:
        self.method, self.network, self.seed = method, Network(network), seed

    def sample(self, client_id: int, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return samples, (N, C, H, W)."""

        def run(network: str, inputs: Carry) -> Carry:
            return run_to_draw(self.network, inputs, torch.device("cpu"))

        return self.method.sample(run, labels, generator)

    def draws_alike(self, one: int, other: int) -> bool:
        """Return that they do: there is one network."""
        return True


def change(way: str, network: Network, shape: SampleShape) -> nn.ModuleList:
    """Return a network's blocks with labels entering in one of WAYS."""
    blocks = list(network)
    if way != "maps":
        nn.init.zeros_(blocks[0].maps.weight).requires_grad_(False)
    if way == "every block":
        middle = range(1, len(blocks) - 1)
        count = shape.num_classes + 1
        blocks[1:-1] = [Labelled(index, blocks[index], count) for index in middle]
    return nn.ModuleList(blocks)


def train(
    method: FlowMatching,
    network: nn.ModuleList,
    batches: Iterator[tuple[Tensor, Tensor]],
    num_steps: int,
    seed: int,
) -> nn.ModuleList:
    """Train a network, uncut; return its moving average."""
    average, blocks = copy.deepcopy(network), dict(enumerate(network))
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = method.make_optimizer("denoiser", trained)
    for step in range(num_steps):
        private = method.prepare(
            *next(batches), lambda purpose, step=step: make_generator(seed, purpose, step), step
        )
        inputs = {MAIN: private["noised"], LABELS: private["condition"], "time": private["time"]}
        error = run_blocks(blocks, inputs)[MAIN] - private["velocity"]
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            for mean, now in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(now, 1 - method.average_decay(step))
    return average


def main() -> None:
    """Train all ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="mnist", help="one of ImageDataModule's, or digits")
    parser.add_argument("--samples", type=int, default=2400)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--num_per_class", type=int, default=100, help="samples that are measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    common = {"clients_per_domain": 1, "batch_size": options.batch_size, "seed": options.seed}
    if options.dataset == "digits":
        data = DigitsDataModule(**common)
    else:
        named = [options.dataset]
        data = ImageDataModule(named, samples_per_client=options.samples, **common)
    evaluator = DomainEvaluator(next(iter(data.domains.values())))
    settings = EvaluationSettings(max_samples=10 * options.num_per_class)
    print(f"| labels enter | {' | '.join(name.replace('_', ' ') for name in SCORES)} |")
    print("|---" * (len(SCORES) + 1) + "|")
    for way in WAYS:
        torch.manual_seed(options.seed)
        method = FlowMatching(lambda shape: UNet(shape, width=options.width), ema_decay=0.99)
        network = change(
            way, method.build_networks(data.sample_shape)["denoiser"], data.sample_shape
        )
        batches = (batch[0] for _ in iter(int, 1) for batch in data.train_dataloader())
        average = train(method, network, batches, options.steps, options.seed)
        sampler = Sampler(method, average, options.seed)
        draws = Draws(sampler, data.sample_shape.num_classes)
        drawn = draws.together([0], options.num_per_class)
        figures = evaluator.measure(drawn, settings, draws.derive_seed())
        print(f"| {way} | {' | '.join(f'{figures[name]:.3f}' for name in SCORES)} |", flush=True)


if __name__ == "__main__":
    main()
