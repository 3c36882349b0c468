"""The Frechet distance between Gaussian fits of real and synthetic features."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from ..errors import HuscfError


class Moments(NamedTuple):
    """Mean (D,) and unbiased covariance (D, D) of features, float64."""

    mean: Tensor
    covariance: Tensor


class FrechetDistance(Metric):
    """|m_r - m_s|^2 + tr(C_r + C_s - 2 (C_r C_s)^(1/2)); streams, holding sums only.

    At least 0, in squared units of the features. Its estimate is too high by an amount that
    grows with D / N, so compare figures of equal sample sizes only.

    Source: Heusel et al., arXiv:1706.08500.

    Args:
        num_features: D, the width of the features.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    def __init__(self, num_features: int) -> None:
        super().__init__(sync_on_compute=False)
        zeros = torch.zeros(num_features, dtype=torch.float64)
        for origin in ("real", "synthetic"):
            self.add_state(f"{origin}_sum", zeros.clone(), dist_reduce_fx="sum")
            self.add_state(f"{origin}_products", torch.outer(zeros, zeros), dist_reduce_fx="sum")
            self.add_state(f"{origin}_count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, features: Tensor, real: bool) -> None:
        """Add features, (N, D), of real or of synthetic samples."""
        origin = "real" if real else "synthetic"
        features = features.double()
        self._add(f"{origin}_sum", features.sum(0))
        self._add(f"{origin}_products", features.T @ features)
        self._add(f"{origin}_count", torch.tensor(len(features), device=features.device))

    def compute(self) -> Tensor:
        """Return the distance between all features so far.

        Raises:
            HuscfError: Where either side has fewer than two samples.
        """
        return measure_frechet_distance(self._moments("real"), self._moments("synthetic"))

    def _add(self, state: str, increment: Tensor) -> None:
        setattr(self, state, getattr(self, state) + increment)

    def _moments(self, origin: str) -> Moments:
        count = getattr(self, f"{origin}_count")
        if count < 2:
            raise HuscfError(f"Frechet distance: needs two {origin} samples, got {int(count)}")
        mean = getattr(self, f"{origin}_sum") / count
        centred = getattr(self, f"{origin}_products") - count * torch.outer(mean, mean)
        return Moments(mean, centred / (count - 1))


def compare_features(real: Tensor, synthetic: Tensor) -> float:
    """Return the FrechetDistance of (N, D) and (M, D) features."""
    metric = FrechetDistance(real.shape[1]).to(real.device)
    metric.update(real, real=True)
    metric.update(synthetic, real=False)
    return metric.compute().item()


def measure_frechet_distance(real: Moments, synthetic: Moments) -> Tensor:
    """Return the Frechet distance between two Gaussians, a float64 scalar >= 0."""
    # tr (AB)^(1/2) by the symmetric root of A: real arithmetic even where a fit is singular.
    root = _symmetric_root(real.covariance)
    cross = torch.linalg.eigvalsh(root @ synthetic.covariance @ root).clamp(min=0).sqrt().sum()
    shift = (real.mean - synthetic.mean).square().sum()
    spread = real.covariance.trace() + synthetic.covariance.trace()
    return (shift + spread - 2 * cross).clamp(min=0)


def _symmetric_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
