"""FeGAN's weights, from how many samples of each class clients have."""

import math

import numpy as np
from scipy.special import rel_entr, softmax

from ..errors import HuscfError


class FeganWeights:
    """Weighs clients by the divergence of their labels, and averages balanced groups.

    score_k = KL(P_k || Q) n_k / n, with P_k the classes of client k and Q those of all together:
    how badly all together explain client k. The weight is proportional to exp(strength score_k).
    A group is begun with a client drawn by chance; then whoever makes the group's classes together
    most even joins. Everybody else has weight 0 in that round.

    Source: Guirguis et al., Middleware 2020; the sign is that of its released code, under which
        clients that differ more count more. Deviations: clients outside the group train on and get
        its average, where FeGAN lets them rest; how a group is grown is a reconstruction.

    Args:
        strength: Of the score. 0 weighs all alike; negative ones let clients that differ count
            less, as HuSCF-GAN does.
        group_size: Clients that a round averages, at least 1; None averages all.
    """

    needs_labels = True

    def __init__(self, strength: float = 1.0, group_size: int | None = None) -> None:
        if not math.isfinite(strength):
            raise HuscfError(f"weighting: strength is {strength}, must be finite")
        if group_size is not None and group_size < 1:
            raise HuscfError(f"weighting: group_size is {group_size}, must be >= 1")
        self.strength = strength
        self.group_size = group_size

    def __call__(self, num_samples: np.ndarray, label_counts: np.ndarray, seed: int) -> np.ndarray:
        """Return (N,) weights.

        Args:
            num_samples: (N,); 0 for who is left out.
            label_counts: (N, C).
            seed: Of the group.
        """
        members = np.flatnonzero(num_samples > 0)
        shares = num_samples / max(num_samples.sum(), 1)
        scores = label_divergences(label_counts) * shares
        if self.group_size is not None and len(members):
            members = grow_group(label_counts, members, self.group_size, seed)
        weights = np.zeros(len(num_samples))
        weights[members] = softmax(self.strength * scores[members])
        return weights


def label_divergences(label_counts: np.ndarray) -> np.ndarray:
    """Return (N,) KL(P_k || Q) in nats of the clients' classes with those of all; 0 without any."""
    own = label_counts / np.maximum(label_counts.sum(1, keepdims=True), 1)
    everybody = label_counts.sum(0) / max(label_counts.sum(), 1)
    return rel_entr(own, everybody).sum(1)


def grow_group(
    label_counts: np.ndarray, candidates: np.ndarray, size: int, seed: int
) -> np.ndarray:
    """Return the places of so many candidates whose classes together are as even as can be.

    Args:
        label_counts: (N, C).
        candidates: Places of those who may join.
        size: Of the group; never more than candidates.
        seed: Draws the first.
    """
    left = list(np.random.default_rng(seed).permutation(candidates))
    group = [left.pop(0)]
    while left and len(group) < size:
        sums = label_counts[group].sum(0) + label_counts[left]
        shares = sums / np.maximum(sums.sum(1, keepdims=True), 1)
        group.append(left.pop(int(np.argmin(rel_entr(shares, 1 / shares.shape[1]).sum(1)))))
    return np.array(sorted(group))
