"""Precision, recall, density and coverage by nearest neighbours in feature space."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ..errors import HuscfError

CHUNK_ROWS = 1000


class NeighbourScores(Metric):
    """Fidelity and diversity apart: which samples lie where real data is, and the reverse.

    A ball around each sample reaches to its k-th neighbour of the same set. Precision: share of
    synthetic samples in some real ball. Recall: share of real samples in some synthetic ball.
    Density: real balls around a synthetic sample, over k (may exceed 1). Coverage: share of real
    balls with a synthetic sample inside. A few outliers have balls that reach far: noise can reach
    a precision of 0.9, so trust density and coverage first.

    Source: Kynkaanniemi et al., arXiv:1904.06991 (precision, recall); Naeem et al.,
    arXiv:2002.09797 (density, coverage; robust to outliers).

    Args:
        k: Which neighbour bounds a ball, at least 1 and below the size of either set.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    real: list[Tensor]
    synthetic: list[Tensor]

    def __init__(self, k: int = 5) -> None:
        super().__init__(sync_on_compute=False)
        self.k = k
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("synthetic", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, real: bool) -> None:
        """Add features, (N, D), of real or of synthetic samples."""
        (self.real if real else self.synthetic).append(features)

    def compute(self) -> dict[str, Tensor]:
        """Return precision, recall, density and coverage of all features so far.

        Raises:
            HuscfError: Where a set has no more than k samples.
        """
        if not self.real or not self.synthetic:
            raise HuscfError("neighbour scores: need real and synthetic features")
        return measure_neighbour_scores(
            dim_zero_cat(self.real), dim_zero_cat(self.synthetic), self.k
        )


def measure_neighbour_scores(
    real: Tensor, synthetic: Tensor, k: int = 5, real_radii: Tensor | None = None
) -> dict[str, Tensor]:
    """Return precision, recall, density and coverage of (N, D) and (M, D) features.

    Args:
        real: Features.
        synthetic: Features.
        k: Which neighbour bounds a ball.
        real_radii: `kth_distances` of the real ones, where they are known already.

    Raises:
        HuscfError: Where a set has no more than k samples.
    """
    if not 1 <= k < min(len(real), len(synthetic)):
        raise HuscfError(
            f"neighbour scores: k is {k}, must be in [1, number of samples), "
            f"got {len(real)} real and {len(synthetic)} synthetic ones"
        )
    # Centring keeps the rounding of |x|^2 + |y|^2 - 2 x.y small.
    centre = real.mean(0)
    real, synthetic = real - centre, synthetic - centre
    if real_radii is None:
        real_radii = kth_distances(real, k)
    synthetic_radii = kth_distances(synthetic, k)
    covered, recalled = real_radii < 0, real_radii < 0
    balls_around = []
    chunks = zip(synthetic.split(CHUNK_ROWS), synthetic_radii.split(CHUNK_ROWS), strict=True)
    for rows, radii in chunks:
        distances = torch.cdist(rows, real)
        in_real_ball = distances <= real_radii
        balls_around.append(in_real_ball.sum(1))
        covered = covered | in_real_ball.any(0)
        recalled = recalled | (distances <= radii[:, None]).any(0)
    counts = torch.cat(balls_around).double()
    return {
        "precision": (counts > 0).double().mean(),
        "recall": recalled.double().mean(),
        "density": counts.mean() / k,
        "coverage": covered.double().mean(),
    }


def kth_distances(features: Tensor, k: int) -> Tensor:
    """Return the distance, (N,), of every row of (N, D) to its k-th neighbour but itself."""
    distances = [
        # The nearest of all is the row itself.
        torch.cdist(rows, features).topk(k + 1, largest=False).values[:, -1]
        for rows in features.split(CHUNK_ROWS)
    ]
    return torch.cat(distances)
