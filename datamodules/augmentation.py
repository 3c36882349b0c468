"""Random flips and shifts of a whole batch at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import check_count


@dataclass(frozen=True)
class Augmentation:
    """Changes real training batches at random; the stored samples stay as they are.

    Args:
        horizontal_flip: Mirror every second sample, left to right. Not for digits, letters,
            spectrograms or anything with a left and a right side.
        shift_px: Move every sample by up to this many pixels each way; the edge's pixels are
            repeated. 0 is no shift.
    """

    horizontal_flip: bool = False
    shift_px: int = 0

    def __post_init__(self) -> None:
        check_count("augmentation.shift_px", self.shift_px, 0)

    def __call__(self, samples: Tensor, generator: torch.Generator) -> Tensor:
        """Return changed copies.

        Args:
            samples: (B, C, H, W), any type.
            generator: Only source of randomness.
        """
        if self.horizontal_flip:
            flipped = torch.rand(len(samples), generator=generator) < 0.5
            samples = torch.where(flipped.view(-1, 1, 1, 1), samples.flip(3), samples)
        return _shift(samples, self.shift_px, generator) if self.shift_px else samples


def _shift(samples: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    count, _, height, width = samples.shape
    moves = torch.randint(-limit, limit + 1, (2, count, 1), generator=generator)
    rows = (torch.arange(height) + moves[0]).clamp_(0, height - 1).view(count, height, 1)
    columns = (torch.arange(width) + moves[1]).clamp_(0, width - 1).view(count, 1, width)
    moved = samples[torch.arange(count).view(-1, 1, 1), :, rows, columns]  # (B, H, W, C)
    return moved.permute(0, 3, 1, 2).contiguous()
