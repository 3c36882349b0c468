"""What a curious server reads out of what it is sent: python benchmarks/leakage.py.

The server knows the weights of the discriminator's heads: all clients begin with the same ones, and
every federation passes through it. Given the activations of one batch of real samples it looks for
the pixels and labels that would give them, by gradient descent from noise. The data are
scikit-learn's digits; the discriminator is the quickstart's.
"""

import argparse
import json

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from huscf.datamodules import DigitsDataModule, scale_samples
from huscf.models import ConditionalDiscriminator


def main() -> None:
    """Print one row for every depth of the head and strength of noise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", nargs="+", type=int, default=[1, 2, 3], help="blocks held")
    parser.add_argument(
        "--noise", nargs="+", type=float, default=[0.0, 0.3], help="added, times the RMS"
    )
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the figures as one object")
    arguments = parser.parse_args()
    data = DigitsDataModule(clients_per_domain=1, batch_size=arguments.batch_size)
    samples, labels = next(iter(data.train_dataloader()))[0]
    samples = scale_samples(samples)
    torch.manual_seed(arguments.seed)
    network = ConditionalDiscriminator(data.sample_shape, width=arguments.width)
    found = {}
    for head in arguments.heads:
        for noise in arguments.noise:
            torch.manual_seed(arguments.seed)
            sent = run_head(network, head, network[0].join(samples, labels)).detach()
            sent = sent + noise * sent.square().mean().sqrt() * torch.randn_like(sent)
            pixels, guessed = invert(network, head, sent, samples.shape, arguments.steps)
            found[f"{head} blocks, noise {noise:g}"] = {
                "labels": float((guessed == labels).float().mean()),
                "pixels": float((pixels - samples).abs().mean()),
                "blind_guess": float((samples.mean(0) - samples).abs().mean()),
            }
    if arguments.json:
        print(json.dumps(found))
        return
    print("| head | labels right | error of pixels | error of the mean picture |")
    print("|---|---|---|---|")
    for name, row in found.items():
        print(f"| {name} | {row['labels']:.2f} | {row['pixels']:.4f} | {row['blind_guess']:.2f} |")


def run_head(network: ConditionalDiscriminator, head: int, joined: Tensor) -> Tensor:
    """Return a head's activations for samples to which the plane of labels is joined."""
    return nn.Sequential(network[0].layers, *list(network)[1:head])(joined)


def invert(
    network: ConditionalDiscriminator, head: int, sent: Tensor, shape: torch.Size, steps: int
) -> tuple[Tensor, Tensor]:
    """Return the samples and labels whose activations are nearest to what was sent."""
    planes = network[0].embedding.weight.detach()
    pixels = torch.zeros(shape).normal_(std=0.1).requires_grad_()
    logits = torch.zeros(shape[0], len(planes)).requires_grad_()
    optimizer = torch.optim.Adam([pixels, logits], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        mixed = (logits.softmax(1) @ planes).view(-1, 1, *shape[2:])
        loss = mse_loss(run_head(network, head, torch.cat([pixels, mixed], 1)), sent)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return pixels.detach().clamp(-1, 1), logits.argmax(1)


if __name__ == "__main__":
    main()
