"""Clusters, weights, and averaging by block over unequal cuts. Plain torch and NumPy."""

from .averaging import (
    Row,
    WeightedMean,
    add_leaves,
    find_rows,
    make_tree,
    mix_states,
    mixing_matrix,
    spread_rows,
)
from .clustered_policy import ClusteredPolicy
from .clusters import (
    AgglomerativeClusters,
    ClusterRule,
    EachAlone,
    EstimatedClusters,
    GivenClusters,
    KMeansClusters,
    OneCluster,
    assign_to_nearest,
    keep_unless_better,
    match_labels,
    mean_silhouette,
    rand_index,
)
from .embedding import Point2D, align_embedding, embed_2d
from .features import describe_clients
from .fegan import FeganWeights
from .ifca import IfcaClusters, choose_clusters
from .memory import find_loud, remember
from .merging import MergedClusters
from .policy import FederationPolicy, PolicyMemory, RoundDecision, RoundView
from .reference import ReferenceBlocks, ReferenceObserver
from .server_copies import ServerCopies, check_server_copies
from .statistics import (
    ActivationStatistics,
    ActivationSummary,
    limit_covariances,
    pool_covariances,
)
from .swaps import draw_ring
from .tree_sum import Node, TreeSum
from .updates import CflClusters, UpdateClusters
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
    "CflClusters",
    "ClusterRule",
    "ClusteredPolicy",
    "Divergence",
    "EachAlone",
    "EstimatedClusters",
    "FederationPolicy",
    "FeganWeights",
    "GivenClusters",
    "IfcaClusters",
    "KMeansClusters",
    "MergedClusters",
    "Node",
    "OneCluster",
    "Point2D",
    "PolicyMemory",
    "ReferenceBlocks",
    "ReferenceObserver",
    "RoundDecision",
    "RoundView",
    "Row",
    "ServerCopies",
    "TreeSum",
    "UpdateClusters",
    "WeightRule",
    "WeightedMean",
    "Weighting",
    "add_leaves",
    "align_embedding",
    "as_array",
    "assign_to_nearest",
    "check_server_copies",
    "choose_clusters",
    "describe_clients",
    "draw_ring",
    "embed_2d",
    "find_loud",
    "find_rows",
    "gaussian_divergences",
    "keep_unless_better",
    "limit_covariances",
    "make_tree",
    "match_labels",
    "mean_silhouette",
    "member_weights",
    "mix_states",
    "mixing_matrix",
    "pool_covariances",
    "position_divergences",
    "rand_index",
    "remember",
    "spread_rows",
]
