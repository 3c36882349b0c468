"""The memorisation check: are synthetic samples nearer to training data than fresh real ones?"""

import torch
from torch import Tensor
from torchmetrics import Metric

from ..errors import HuscfError
from ..models import to_float

CHUNK_ROWS = 4096


class NearestRealRatio(Metric):
    """Mean distance to the nearest training sample, over that of real test samples.

    Euclidean, over pixels. 0: every sample is a copy of a training sample; about 1: as far from
    the training data as unseen real samples are. Blurred or near-constant samples also fall
    below 1, so read it beside precision and recall.

    Args:
        real_train: (N, C, H, W) float in [-1, 1] or uint8: what the generator was trained on.
        real_test: (M, C, H, W), likewise, unseen in training.

    Raises:
        HuscfError: Where every test sample is also a training sample.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    distance_sum: Tensor
    num_samples: Tensor

    def __init__(self, real_train: Tensor, real_test: Tensor) -> None:
        super().__init__(sync_on_compute=False)
        self.real_train = real_train
        self.real_distance = measure_nearest_distances(real_test, real_train).double().mean()
        if self.real_distance == 0:
            raise HuscfError("nearest real ratio: every test sample is also a training sample")
        self.add_state("distance_sum", torch.tensor(0.0).double(), dist_reduce_fx="sum")
        self.add_state("num_samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, samples: Tensor) -> None:
        """Add synthetic samples, (B, C, H, W) float in [-1, 1] or uint8."""
        self.distance_sum += measure_nearest_distances(samples, self.real_train).double().sum()
        self.num_samples += len(samples)

    def compute(self) -> Tensor:
        """Return the ratio over all samples so far.

        Raises:
            HuscfError: Where there are none.
        """
        if self.num_samples == 0:
            raise HuscfError("nearest real ratio: no samples")
        return self.distance_sum / self.num_samples / self.real_distance


def measure_nearest_distances(queries: Tensor, references: Tensor) -> Tensor:
    """Return every query's Euclidean distance, (M,) float32, to the nearest reference.

    Args:
        queries: (M, ...) float in [-1, 1] or uint8; the search is on their device.
        references: (N, ...), of the same sample shape, on any device, N >= 1.
    """
    queries = to_float(queries).flatten(1)
    best = torch.full((len(queries),), torch.inf, device=queries.device)
    nearest = torch.zeros_like(queries)
    for chunk in references.split(CHUNK_ROWS):
        chunk = to_float(chunk.to(queries.device)).flatten(1)
        distances, indices = torch.cdist(queries, chunk).min(1)
        closer = distances < best
        best = torch.where(closer, distances, best)
        nearest[closer] = chunk[indices[closer]]
    # The fast distances round; between a sample and its copy the difference is exactly 0.
    return torch.linalg.vector_norm(queries - nearest, dim=1)
