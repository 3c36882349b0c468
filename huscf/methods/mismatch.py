"""Wrong labels for real samples, made by a client from its own batch."""

import torch
from torch import Tensor


def mismatch_labels(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return the same labels in another order, so that few samples keep theirs.

    A permutation keeps the frequencies: the discriminator cannot tell by the label alone, which
    matters where a client lacks classes. Samples keep their label only where one class has more
    than half of the batch.

    Args:
        labels: (B,) int64.
        generator: Source of the order in which classes follow each other.
    """
    classes, members, counts = labels.unique(return_inverse=True, return_counts=True)
    ranks = torch.randperm(len(classes), generator=generator).to(labels.device)
    order = ranks[members].argsort(stable=True)
    # In the order of classes every label goes on by the size of the largest class.
    wrong = torch.empty_like(labels)
    wrong[order] = labels[order].roll(int(counts.max()))
    return wrong
