"""Clusters, weights, and averaging by block over unequal cuts. Plain torch and NumPy."""

from .averaging import block_tensors, mix_tensors, mixing_matrix
from .clusters import (
    ClusterRule,
    EachAlone,
    KMeansClusters,
    OneCluster,
    make_features,
    match_labels,
    scale_features,
)
from .places import Place, align_places, locate_clients
from .statistics import ActivationStatistics
from .weights import Weighting, kl_from_others, member_weights

__all__ = [
    "ActivationStatistics",
    "ClusterRule",
    "EachAlone",
    "KMeansClusters",
    "OneCluster",
    "Place",
    "Weighting",
    "align_places",
    "block_tensors",
    "kl_from_others",
    "locate_clients",
    "make_features",
    "match_labels",
    "member_weights",
    "mix_tensors",
    "mixing_matrix",
    "scale_features",
]
