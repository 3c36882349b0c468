"""How far the average spectra of synthetic sounds are from those of real ones."""

import torch
from torch import Tensor
from torchmetrics import Metric

from ..errors import HuscfError


class SpectralDistance(Metric):
    """Log-spectral distance in dB between the mean spectra of a class, averaged over classes.

    At least 0; it needs no classifier and tells a wrong timbre from a right one, but not whether
    the sounds vary. Classes that either side lacks are left out.

    Source: Gray and Markel, IEEE ASSP 24(5), 1976, on spectra averaged over time and samples.

    Args:
        num_classes: Number of classes.
        num_bands: Height of the spectrograms: mel bands.
        range_db: How many dB the step from -1 to 1 stands for, above 0.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    real_sums: Tensor
    real_counts: Tensor
    synthetic_sums: Tensor
    synthetic_counts: Tensor

    def __init__(self, num_classes: int, num_bands: int, range_db: float = 80.0) -> None:
        super().__init__(sync_on_compute=False)
        self.range_db = range_db
        for origin in ("real", "synthetic"):
            zeros = torch.zeros(num_classes, num_bands, dtype=torch.float64)
            self.add_state(f"{origin}_sums", zeros, dist_reduce_fx="sum")
            self.add_state(f"{origin}_counts", zeros[:, 0].clone(), dist_reduce_fx="sum")

    def update(self, samples: Tensor, labels: Tensor, real: bool) -> None:
        """Add log-mel spectrograms.

        Args:
            samples: (N, C, bands, frames) in [-1, 1].
            labels: (N,) int64.
            real: Whether they are real or synthetic.
        """
        origin = "real" if real else "synthetic"
        spectra = samples.double().mean(dim=(1, 3))
        sums, counts = getattr(self, f"{origin}_sums"), getattr(self, f"{origin}_counts")
        sums.index_add_(0, labels, spectra)
        counts.index_add_(0, labels, torch.ones_like(labels, dtype=torch.float64))

    def compute(self) -> Tensor:
        """Return the distance in dB over all samples so far.

        Raises:
            HuscfError: Where no class has both real and synthetic samples.
        """
        shared = (self.real_counts > 0) & (self.synthetic_counts > 0)
        if not shared.any():
            raise HuscfError("spectral distance: no class has both real and synthetic samples")
        real = self.real_sums[shared] / self.real_counts[shared, None]
        synthetic = self.synthetic_sums[shared] / self.synthetic_counts[shared, None]
        difference_db = (real - synthetic) * self.range_db / 2
        return difference_db.square().mean(1).sqrt().mean()
