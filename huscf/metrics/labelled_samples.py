"""Samples with their labels, checked once, so that no metric has to check them again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import HuscfError
from ..models import to_float, to_uint8

# Rounding of a tanh or of a resize may step over the bounds by this much.
RANGE_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class LabelledSamples:
    """Real or synthetic samples of one domain and the class of each.

    Args:
        samples: (N, C, H, W), float in [-1, 1] or uint8 (x = u8 / 127.5 - 1), N >= 1.
        labels: (N,) integers in [0, num_classes).
        num_classes: Classes of the domain, whether or not each of them occurs here.

    Raises:
        HuscfError: Where sizes, types or ranges are not those, or a sample is NaN or Inf.
    """

    samples: Tensor
    labels: Tensor
    num_classes: int

    def __post_init__(self) -> None:
        check_samples(self.samples)
        check_labels(self.labels, len(self.samples), self.num_classes)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (C, H, W)."""
        channels, height, width = self.samples.shape[1:]
        return channels, height, width

    def to(self, device: torch.device) -> "LabelledSamples":
        """Return the samples on a device."""
        return LabelledSamples(self.samples.to(device), self.labels.to(device), self.num_classes)

    def select(self, indices: Tensor) -> "LabelledSamples":
        """Return the samples at these indices, (M,) int64, M >= 1."""
        return LabelledSamples(self.samples[indices], self.labels[indices], self.num_classes)

    def at_most(self, count: int, seed: int) -> "LabelledSamples":
        """Return everything, or `count` samples drawn without replacement where there are more."""
        if len(self) <= count:
            return self
        generator = torch.Generator().manual_seed(seed)
        return self.select(torch.randperm(len(self), generator=generator)[:count])

    def at_least(self, count: int) -> "LabelledSamples":
        """Return everything, over and over again until there are `count` samples."""
        if len(self) >= count:
            return self
        return self.select(torch.arange(count) % len(self))

    def joined(self, other: "LabelledSamples") -> "LabelledSamples":
        """Return the samples of both as uint8, this one's first."""
        samples = torch.cat([to_uint8(self.samples), to_uint8(other.samples)])
        return LabelledSamples(samples, torch.cat([self.labels, other.labels]), self.num_classes)

    def balanced(self, max_count: int, seed: int) -> "LabelledSamples":
        """Return equally many samples of every class, as many as there are, at most `max_count`.

        Raises:
            HuscfError: Naming the classes of which there is no sample.
        """
        counts = torch.bincount(self.labels.long(), minlength=self.num_classes)
        missing = (counts == 0).nonzero().flatten().tolist()
        if missing:
            raise HuscfError(f"no sample of classes {missing}: a balanced set needs every class")
        per_class = max(1, min(int(counts.min()), max_count // self.num_classes))
        return self.select(self._choose([per_class] * self.num_classes, seed))

    def rows_like(self, labels: Tensor, max_count: int, seed: int) -> Tensor:
        """Return which samples to take so that classes are as frequent as among other labels.

        Args:
            labels: (M,) of the other set. Classes that either side lacks are left out.
            max_count: At most so many, and as many as there are otherwise.
            seed: Of the choice.

        Returns:
            (N,) int64, N >= 1, ascending.

        Raises:
            HuscfError: Where the two have no class in common.
        """
        own, other = (
            torch.bincount(each.long().cpu(), minlength=self.num_classes).double()
            for each in (self.labels, labels)
        )
        shares = torch.where(own > 0, other, 0.0)
        if not shares.any():
            raise HuscfError("samples and real data have no class in common")
        shares = shares / shares.sum()
        total = min(float((own / shares)[shares > 0].min()), max_count)
        # Rounding may ask for one more than there is, and for none of a rare class.
        wanted = (total * shares).round().clamp(min=1).minimum(own) * (shares > 0)
        return self._choose(wanted.int().tolist(), seed).sort().values

    def batches(self, batch_size: int = 200) -> Iterator[Tensor]:
        """Yield the samples in order as (B, C, H, W) float32 in [-1, 1]."""
        return map(to_float, self.samples.split(batch_size))

    def _choose(self, counts: Sequence[int], seed: int) -> Tensor:
        """Return the indices of so many samples of each class, at random, class by class."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        labels = self.labels.cpu()[order]
        return torch.cat([order[labels == label][:n] for label, n in enumerate(counts)])


@dataclass(frozen=True)
class RealData:
    """One domain's real data, which samples are measured against.

    Args:
        train: What the generators were trained on.
        test: Held out from all training.

    Raises:
        HuscfError: Where the two differ in sample shape or in classes.
    """

    train: LabelledSamples
    test: LabelledSamples

    def __post_init__(self) -> None:
        check_alike(self.train, self.test, "training", "test")


def check_samples(samples: Tensor) -> None:
    """Refuse what is not (N, C, H, W) samples in [-1, 1].

    Raises:
        HuscfError: Saying what is wrong with them.
    """
    if samples.ndim != 4 or samples.numel() == 0:
        raise HuscfError(
            f"samples have shape {tuple(samples.shape)}: need (N, C, H, W) with at least one sample"
        )
    if samples.dtype == torch.uint8:
        return
    if not samples.is_floating_point():
        raise HuscfError(f"samples are {samples.dtype}: need uint8, or float in [-1, 1]")
    low, high = (bound.item() for bound in samples.aminmax())
    if not (low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise HuscfError(f"samples lie in [{low:g}, {high:g}]: need finite values in [-1, 1]")


def check_labels(labels: Tensor, count: int, num_classes: int) -> None:
    """Refuse what is not `count` class indices.

    Raises:
        HuscfError: Saying what is wrong with them.
    """
    if labels.shape != (count,):
        raise HuscfError(f"labels have shape {tuple(labels.shape)} for {count} samples")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise HuscfError(f"labels are {labels.dtype}: need integers")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise HuscfError(f"labels lie in [{low}, {high}]: need [0, {num_classes - 1}]")


def check_alike(one: LabelledSamples, other: LabelledSamples, name: str, other_name: str) -> None:
    """Refuse sets of samples that cannot be of one domain.

    Raises:
        HuscfError: Where shapes or numbers of classes differ.
    """
    if one.shape != other.shape:
        raise HuscfError(
            f"{name} samples have shape {one.shape}, {other_name} samples {other.shape}"
        )
    if one.num_classes != other.num_classes:
        raise HuscfError(
            f"{name} samples are of {one.num_classes} classes, {other_name} of {other.num_classes}"
        )
