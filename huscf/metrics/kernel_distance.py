"""The kernel distance (KID): squared maximum mean discrepancy of features."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ..errors import HuscfError

CHUNK_ROWS = 1000


class KernelDistance(Metric):
    """Unbiased squared MMD under the kernel (x.y / D + 1)^3.

    Around 0 for equal distributions (it may be slightly negative) whatever the sample size,
    so it suits small sets better than the Frechet distance does. Exact over all pairs, where
    the usual implementations average random subsets: no randomness and no spread to report.

    Source: Binkowski et al., arXiv:1801.01401.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    real: list[Tensor]
    synthetic: list[Tensor]

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("synthetic", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, real: bool) -> None:
        """Add features, (N, D), of real or of synthetic samples."""
        (self.real if real else self.synthetic).append(features)

    def compute(self) -> Tensor:
        """Return the distance between all features so far.

        Raises:
            HuscfError: Where either side has fewer than two samples.
        """
        if not self.real or not self.synthetic:
            raise HuscfError("kernel distance: needs real and synthetic features")
        return measure_kernel_distance(dim_zero_cat(self.real), dim_zero_cat(self.synthetic))


def measure_kernel_distance(
    real: Tensor, synthetic: Tensor, real_kernel: Tensor | None = None
) -> Tensor:
    """Return the unbiased squared MMD of (N, D) and (M, D) features, a float64 scalar.

    Args:
        real: Features; products are of their type, float32 or finer, sums are of float64.
        synthetic: Likewise.
        real_kernel: `mean_kernel_of_others` of the real ones, where it is known already.

    Raises:
        HuscfError: Where either side has fewer than two samples.
    """
    if min(len(real), len(synthetic)) < 2:
        raise HuscfError(
            f"kernel distance: needs two samples a side, got {len(real)} and {len(synthetic)}"
        )
    if real_kernel is None:
        real_kernel = mean_kernel_of_others(real)
    real, synthetic = _at_least_float(real), _at_least_float(synthetic)
    between = torch.stack([_sum_kernel(rows, real) for rows in synthetic.split(CHUNK_ROWS)]).sum()
    mean_between = between / (len(real) * len(synthetic))
    return real_kernel + mean_kernel_of_others(synthetic) - 2 * mean_between


def mean_kernel_of_others(features: Tensor) -> Tensor:
    """Return the mean kernel over all pairs of a row of (N, D) with another, a float64 scalar."""
    features = _at_least_float(features)
    chunks = features.split(CHUNK_ROWS)
    total = torch.zeros((), dtype=torch.float64, device=features.device)
    # The kernel is symmetric: pairs of different chunks are worked out once and count twice.
    for position, rows in enumerate(chunks):
        total += _sum_kernel(rows, rows)
        later = features[position * CHUNK_ROWS + len(rows) :]
        if len(later):
            total += 2 * _sum_kernel(rows, later)
    with_itself = (features.square().sum(1).double() / features.shape[1] + 1).pow(3).sum()
    return (total - with_itself) / (len(features) * (len(features) - 1))


def _sum_kernel(left: Tensor, right: Tensor) -> Tensor:
    kernel = (left @ right.T).div_(left.shape[1]).add_(1).pow_(3)
    return kernel.sum(1).double().sum()


def _at_least_float(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))
