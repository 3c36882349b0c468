"""What an attacker has of its own: labelled samples that no client of the run gave it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..datamodules import ClientData, Domain, FederatedDataModule
from ..errors import DataError
from ..randomness import make_rng

#: Of a domain an attacker has this part, but at least so many samples; all are held-out ones.
OWN_SHARE, LEAST_OWN = 0.01, 64

#: Fewer samples teach an attacker nothing.
LEAST = 32


@dataclass(frozen=True)
class Auxiliary:
    """Labelled samples of the attacker.

    Args:
        samples: (N, C, H, W) uint8.
        labels: (N,) int64.
        origin: Where they are from.
    """

    samples: Tensor
    labels: Tensor
    origin: str


def choose_auxiliary(
    data: FederatedDataModule, client: ClientData, most: int, seed: int
) -> list[Auxiliary]:
    """Return what attackers of a client may have, each for an attack of its own.

    That is 1 % of the client's domain, at least 64 samples, held-out ones that nobody trained on;
    and training samples of another domain, where one has the same classes.

    Args:
        data: Of the run.
        client: Who is attacked.
        most: So many samples at most, each.
        seed: Of the choice.

    Raises:
        DataError: Where the client's domain holds out too few.
    """
    domain = client.domain
    if (count := len(domain.test_labels)) < LEAST:
        raise DataError(
            f"audit: domain {domain.name} has {count} held-out samples, needs {LEAST} as what an "
            "attacker knows: hold more out"
        )
    size = min(most, max(LEAST_OWN, round(OWN_SHARE * len(domain.train_labels))))
    rng = make_rng(seed, "audit auxiliary", client.client_id)
    index = torch.from_numpy(rng.permutation(count)[:size])
    found = [
        Auxiliary(domain.test_samples[index], domain.test_labels[index], f"held-out {domain.name}")
    ]
    others = [each for each in data.domains.values() if _is_other_with_same_classes(each, domain)]
    for other in others[:1]:
        index = torch.from_numpy(rng.permutation(len(other.train_labels))[:most])
        found.append(Auxiliary(other.train_samples[index], other.train_labels[index], other.name))
    return found


def _is_other_with_same_classes(one: Domain, other: Domain) -> bool:
    same = (one.num_classes, one.class_names) == (other.num_classes, other.class_names)
    return one is not other and same
