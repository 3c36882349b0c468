"""Who was in the training data: scores of members and others, and how far they part."""

import math

import torch
from torch import Tensor

from ..metrics import measure_nearest_distances

#: Shares of false positives at which true positives are counted, by the figure's name.
FALSE_POSITIVES = {"tpr_at_1_percent": 0.01, "tpr_at_0.1_percent": 0.001}


def score_by_distance(samples: Tensor, generated: Tensor, references: Tensor) -> Tensor:
    """Return how much nearer samples are to generated ones than to other real ones, (N,).

    Distances are Euclidean, over pixels. The distance to references calibrates: a sample that is
    near to everything is no sign of having been trained on. Source: Chen et al., CCS 2020,
    arXiv:1909.03935, section 4, with distances to references in the place of a second generator.

    Args:
        samples: (N, C, H, W) uint8, or float in [-1, 1].
        generated: (G, C, H, W), likewise.
        references: (R, C, H, W), likewise: real ones that nobody trained on, none of the samples.
    """
    to_generated = measure_nearest_distances(samples, generated)
    return measure_nearest_distances(samples, references) - to_generated


def standardise(scores: Tensor, references: Tensor) -> Tensor:
    """Return scores in units of the spread of others', so that those of several networks compare.

    Args:
        scores: (N,).
        references: (R,) of samples that nobody trained on, R >= 2.
    """
    return (scores - references.mean()) / references.std().clamp(min=1e-12)


def measure_separation(members: Tensor, others: Tensor) -> dict[str, float]:
    """Return AUROC and the shares of members found at few false positives.

    With fewer than 1,000 others, 0.1 % of false positives means none.

    Args:
        members: (N,) scores of trained samples; higher says member.
        others: (M,) of samples that nobody trained on.

    Returns:
        auroc in [0, 1], and the keys of FALSE_POSITIVES.
    """
    members, others = members.double(), others.double()
    ordered = others.sort().values
    below = torch.searchsorted(ordered, members)
    not_above = torch.searchsorted(ordered, members, right=True)
    figures = {"auroc": (below + not_above).double().mean().item() / (2 * len(others))}
    for name, share in FALSE_POSITIVES.items():
        threshold = ordered[-1 - math.floor(share * len(others))]
        figures[name] = (members > threshold).double().mean().item()
    return figures


def chance_of_separation(num_members: int, num_others: int) -> dict[str, float]:
    """Return the figures of scores that know nothing, and the standard error of such an AUROC.

    Source: the variance of Mann and Whitney's statistic without ties.
    """
    variance = (num_members + num_others + 1) / (12 * num_members * num_others)
    return {"auroc": 0.5, **FALSE_POSITIVES, "auroc_standard_error": math.sqrt(variance)}
