"""Samples back out of the activations that a client's head has sent."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, mse_loss, pad
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from ..models import Carry

#: Runs a head on samples (B, C, H, W) and mixtures of labels (B, classes).
SoftHead = Callable[[Tensor, Tensor], Carry]

#: What an exact reconstruction counts as, in dB; its ratio is infinite.
BEST_PSNR_DB = 100.0

#: Width of the decoder's layers.
_WIDTH = 32


@dataclass(frozen=True)
class Inverted:
    """What the server makes of the activations of a batch.

    Args:
        samples: (B, C, H, W) in [-1, 1].
        labels: (B,) int64, its guess of the classes.
    """

    samples: Tensor
    labels: Tensor


def invert_head(
    run_head: SoftHead,
    sent: Mapping[str, Tensor],
    shape: tuple[int, ...],
    num_classes: int,
    num_steps: int,
    stream: torch.Generator,
) -> Inverted:
    """Look for the samples and labels whose activations are nearest to what was sent.

    White-box: the server knows the head. Gradient descent from noise, for the whole batch at once,
    since a head that normalises by batch statistics mixes its samples.

    Args:
        run_head: The head.
        sent: (B, ...) each, as they arrived.
        shape: Of the samples, (B, C, H, W).
        num_classes: Labels that there are.
        num_steps: Of Adam.
        stream: CPU stream of the noise.
    """
    samples = (0.1 * torch.randn(shape, generator=stream)).requires_grad_()
    logits = torch.zeros(shape[0], num_classes).requires_grad_()
    optimizer = torch.optim.Adam([samples, logits], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, num_steps))
    wanted = {name: tensor for name, tensor in sent.items() if tensor.is_floating_point()}
    scales = {name: tensor.square().mean().clamp(min=1e-12) for name, tensor in wanted.items()}
    for _ in range(num_steps):
        made = run_head(samples, logits.softmax(1))
        errors = [mse_loss(made[name], wanted[name]) / scales[name] for name in wanted]
        optimizer.zero_grad()
        torch.stack(errors).sum().backward()
        optimizer.step()
        schedule.step()
    return Inverted(samples.detach().clamp(-1, 1), logits.detach().argmax(1))


@contextmanager
def mixing_labels(head: nn.Module, mixture: Tensor) -> Iterator[None]:
    """Let every embedding of a head give the mean of its rows, weighted by a mixture of labels.

    Args:
        head: Whatever labels the embeddings are given do not matter meanwhile.
        mixture: (B, classes), of sum 1; rows that an embedding has beyond the classes count 0.
    """

    def mix(embedding: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        rows = embedding.weight
        assert isinstance(rows, Tensor)
        return pad(mixture, (0, len(rows) - mixture.shape[1])) @ rows

    hooks = [
        module.register_forward_hook(mix)
        for module in head.modules()
        if isinstance(module, nn.Embedding)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def reads_labels(head: nn.Module) -> bool:
    """Return whether a head has an embedding, through which labels can be looked for."""
    return any(isinstance(module, nn.Embedding) for module in head.modules())


class Decoder(nn.Module):
    """From activations to samples, trained on pairs that the server has made itself.

    Args:
        given: Shape of one sample's activations: (C, h, w), or anything else, taken flat.
        wanted: Shape of one sample, (C, H, W).
        scale: Usual size of an activation, > 0.
    """

    def __init__(self, given: tuple[int, ...], wanted: tuple[int, ...], scale: float) -> None:
        super().__init__()
        self.wanted, self.scale = wanted, scale
        channels, side, _ = wanted
        if len(given) != 3:
            size = channels * side * side
            flat = torch.Size(given).numel()
            self.stem: nn.Module = nn.Sequential(
                nn.Flatten(),
                nn.Linear(flat, 16 * _WIDTH),
                nn.ReLU(),
                nn.Linear(16 * _WIDTH, size),
                nn.Unflatten(1, wanted),
            )
            given = wanted
        else:
            self.stem = nn.Identity()
        self.before = nn.Sequential(nn.Conv2d(given[0], _WIDTH, 3, 1, 1), nn.ReLU())
        self.after = nn.Sequential(
            nn.Conv2d(_WIDTH, _WIDTH, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(_WIDTH, channels, 3, 1, 1),
            nn.Tanh(),
        )

    def forward(self, activations: Tensor) -> Tensor:
        """Return (B, C, H, W) in [-1, 1]."""
        features = self.before(self.stem(activations / self.scale))
        return self.after(interpolate(features, self.wanted[1:], mode="bilinear"))


def train_decoder(
    activations: Tensor, samples: Tensor, num_steps: int, stream: torch.Generator
) -> Decoder:
    """Return a decoder of activations, by the squared error of its samples.

    Args:
        activations: (N, ...) of the server's own samples, as they would have arrived.
        samples: (N, C, H, W) in [-1, 1], these samples.
        num_steps: Of Adam, with batches of 64.
        stream: CPU stream of initial weights and batches.
    """
    scale = activations.square().mean().sqrt().clamp(min=1e-12).item()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.set_state(stream.get_state())
        decoder = Decoder(tuple(activations.shape[1:]), tuple(samples.shape[1:]), scale)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, num_steps))
    for _ in range(num_steps):
        chosen = torch.randint(len(samples), (64,), generator=stream)
        loss = mse_loss(decoder(activations[chosen]), samples[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return decoder.eval()


def measure_reconstruction(made: Tensor, originals: Tensor) -> dict[str, float]:
    """Return mse, ssim and psnr_db of pixels between 0 and 1; higher ssim and psnr leak more.

    Args:
        made: (N, C, H, W) in [-1, 1].
        originals: Likewise, H >= 8.
    """
    given, wanted = (samples.float().add(1).div(2) for samples in (made, originals))
    # The usual window of 11 pixels would leave nothing of a small picture.
    sigma = 1.5 if given.shape[-1] >= 16 else 0.5
    ssim = structural_similarity_index_measure(given, wanted, sigma=sigma, data_range=1.0)
    psnr = peak_signal_noise_ratio(given, wanted, data_range=1.0)
    assert isinstance(ssim, Tensor)
    return {
        "mse": mse_loss(given, wanted).item(),
        "ssim": ssim.item(),
        "psnr_db": min(psnr.item(), BEST_PSNR_DB),
    }
