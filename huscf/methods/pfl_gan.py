"""PFL-GAN: everybody's own GAN, which learns from what others' generators draw too."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import check_count, check_number
from ..wire import Kind
from .base import Mixing
from .fedgan import FedGan

#: Share of a covariance that is replaced by its mean variance, so that few samples give one of
#: full rank.
SHRINKAGE = 0.1

#: Shares of a client's samples below this, over the number of clients, are left out.
LEAST_SHARE = 0.1


class PflGan(FedGan):
    """A personal GAN at every client; alike clients get samples of each other's generators.

    Nothing is averaged. When a round ends, the clients send their generators and how many samples
    of each class they have. The server draws from each, compares the clients by what it has drawn,
    and sends every client samples of the others' generators, more of those that are like its own.
    From then on half of every batch are such samples, with their labels. So generators that have
    seen private data leave the clients, and synthetic samples and labels reach other clients.

    Source: a reconstruction of Wijesinghe, Zhang and Ding 2023, arXiv:2308.12454, whose abstract
        says that similarity among clients is learned first and data are aggregated by it then.
        Deviations: principal components stand for the autoencoder under which clients are compared;
        a round without shared samples is the warm-up; samples travel as 8-bit numbers.

    Args:
        num_shared: Samples that a client is sent at a round's end, at least 1; the method's
            authors send as many as it has.
        num_compared: Samples that the server draws of every generator to compare clients, at
            least 2.
        num_components: Principal components under which they are compared, at least 1.
        temperature: Over the median divergence of two clients; a smaller one lets the most alike
            count more.
        **kwargs: As of HuscfGan.
    """

    kinds: frozenset[Kind] = frozenset({"blocks", "label_counts", "outputs"})

    def __init__(
        self,
        num_shared: int = 512,
        num_compared: int = 256,
        num_components: int = 32,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_count("method.num_shared", num_shared, 1)
        check_count("method.num_compared", num_compared, 2)
        check_count("method.num_components", num_components, 1)
        check_number("method.temperature", temperature, is_open=True)
        self.num_shared = num_shared
        self.num_compared = num_compared
        self.num_components = num_components
        self.temperature = temperature

    def mixing(self, network: str, number: int) -> Mixing:
        """Return that generators are shown to the server, and discriminators stay."""
        return "share" if network == "generator" else "keep"

    def weigh_givers(self, samples: Sequence[Tensor]) -> Tensor:
        """Return weights that fall with the divergence of what clients' generators draw."""
        features = find_components(samples, self.num_components)
        return weigh_alike(gaussian_divergences(features), self.temperature)


def find_components(samples: Sequence[Tensor], count: int) -> list[Tensor]:
    """Return the principal components, (n, Q) of each, of several sets of samples together.

    Args:
        samples: (n, ...) each.
        count: Of components at most, Q.
    """
    rows = [each.flatten(1).double() for each in samples]
    every = torch.cat(rows)
    axes = torch.linalg.svd(every - every.mean(0), full_matrices=False).Vh[:count]
    return [(each - every.mean(0)) @ axes.T for each in rows]


def gaussian_divergences(features: Sequence[Tensor]) -> Tensor:
    """Return (N, N) KL(P_i || P_j) in nats of normal fits: how badly j explains what i draws.

    Args:
        features: (n, Q) float64 of each of N clients.
    """
    means = torch.stack([each.mean(0) for each in features])
    covariances = torch.stack([_fit(each) for each in features])
    size, inverses = means.shape[1], torch.linalg.inv(covariances)
    determinants = torch.logdet(covariances)
    gaps = means[None] - means[:, None]  # [i, j] is mu_j - mu_i
    traces = torch.einsum("jab,iba->ij", inverses, covariances)
    squares = torch.einsum("ija,jab,ijb->ij", gaps, inverses, gaps)
    return 0.5 * (traces + squares - size + determinants[None] - determinants[:, None])


def weigh_alike(divergences: Tensor, temperature: float = 1.0) -> Tensor:
    """Return (N, N) w_ij proportional to exp(-D_ij / t), 0 for oneself; rows sum to 1.

    t is the temperature times the median of all D_ij; shares below LEAST_SHARE / N are 0.

    Args:
        divergences: (N, N), N at least 2.
        temperature: > 0.
    """
    count = len(divergences)
    is_self = torch.eye(count, dtype=torch.bool)
    scale = temperature * divergences[~is_self].median().clamp(min=1e-12)
    weights = (-divergences / scale).masked_fill(is_self, -torch.inf).softmax(1)
    weights = weights * (weights >= LEAST_SHARE / count)
    return weights / weights.sum(1, keepdim=True)


def _fit(features: Tensor) -> Tensor:
    """Return the covariance of (n, Q) rows, (Q, Q), drawn towards its mean variance."""
    covariance = torch.atleast_2d(features.T.cov())
    size = len(covariance)
    floor = (covariance.trace() / size).clamp(min=1e-12) * torch.eye(size).double()
    return (1 - SHRINKAGE) * covariance + SHRINKAGE * floor
