"""Clusters, weights, and averaging by block over unequal cuts. Plain torch and NumPy."""

from .averaging import block_tensors, mix_blocks, mix_tensors, mixing_matrix
from .clusters import (
    AgglomerativeClusters,
    ClusterRule,
    EachAlone,
    EstimatedClusters,
    KMeansClusters,
    OneCluster,
    keep_unless_better,
    match_labels,
    mean_silhouette,
    place_clients,
)
from .features import describe_clients
from .places import Place, align_places, locate_clients
from .statistics import ActivationStatistics, ActivationSummary
from .weights import (
    Divergence,
    Weighting,
    WeightRule,
    as_array,
    gaussian_divergences,
    member_weights,
    position_divergences,
)

__all__ = [
    "ActivationStatistics",
    "ActivationSummary",
    "AgglomerativeClusters",
    "ClusterRule",
    "Divergence",
    "EachAlone",
    "EstimatedClusters",
    "KMeansClusters",
    "OneCluster",
    "Place",
    "WeightRule",
    "Weighting",
    "align_places",
    "as_array",
    "block_tensors",
    "describe_clients",
    "gaussian_divergences",
    "keep_unless_better",
    "locate_clients",
    "match_labels",
    "mean_silhouette",
    "member_weights",
    "mix_blocks",
    "mix_tensors",
    "mixing_matrix",
    "place_clients",
    "position_divergences",
]
