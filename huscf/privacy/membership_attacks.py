"""Membership attacks on a run: by its generated samples, and by its discriminator."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..datamodules import FederatedDataModule
from ..errors import DataError
from ..methods import run_whole
from ..metrics.evaluation import draw_samples
from ..models import LABELS, MAIN, to_float
from ..randomness import make_rng
from ..training import SplitModule
from .membership import (
    chance_of_separation,
    measure_separation,
    score_by_distance,
    standardise,
)

#: Fewer held-out samples of a domain tell nothing: half of them are references.
LEAST_HELD_OUT = 20


@dataclass(frozen=True)
class LabelledSet:
    """Real samples.

    Args:
        samples: (N, C, H, W) uint8.
        labels: (N,) int64.
    """

    samples: Tensor
    labels: Tensor


@dataclass(frozen=True)
class JudgedDomain:
    """One domain's samples in the attacks: as many members as others.

    Args:
        members: That its clients have trained on.
        others: That nobody has.
        references: That nobody has, and of which the attacker knows it.
        num_classes: Of the domain.
        clients: Who has trained.
    """

    members: LabelledSet
    others: LabelledSet
    references: LabelledSet
    num_classes: int
    clients: tuple[int, ...]


@dataclass(frozen=True)
class Membership:
    """Who is to be told from whom.

    Args:
        domains: By name.
    """

    domains: Mapping[str, JudgedDomain]

    @classmethod
    def choose(cls, data: FederatedDataModule, most: int, seed: int) -> "Membership":
        """Choose members and others of every domain.

        Raises:
            DataError: Naming a domain that has too few held-out samples.
        """
        return cls(
            {
                name: _choose_domain(data, name, most, seed, position)
                for position, name in enumerate(data.domains)
            }
        )

    @property
    def count(self) -> int:
        """Return how many members there are, and as many others."""
        return sum(len(domain.members.labels) for domain in self.domains.values())

    @property
    def chance(self) -> dict[str, float]:
        """Return what scores that know nothing come to."""
        return chance_of_separation(self.count, self.count)


def attack_generator(
    module: SplitModule, membership: Membership, num_generated: int
) -> dict[str, float]:
    """Tell members by how near they are to generated samples; see `score_by_distance`.

    Args:
        module: The run.
        membership: Who is to be told from whom.
        num_generated: Samples that each domain's clients draw together.
    """
    members, others = [], []
    for domain in membership.domains.values():
        count = -(-num_generated // domain.num_classes)
        purpose = "audit generated"
        drawn = draw_samples(module, domain.clients, domain.num_classes, count, purpose).samples
        references = domain.references.samples
        members.append(score_by_distance(domain.members.samples, drawn, references))
        others.append(score_by_distance(domain.others.samples, drawn, references))
    return measure_separation(torch.cat(members), torch.cat(others))


def attack_discriminator(module: SplitModule, membership: Membership) -> dict[str, float]:
    """Tell members by how real the discriminator of their domain's first client takes them to be.

    Whoever may run a client's passes can ask for logits of samples of its own choice.
    """
    members: list[Tensor] = []
    others: list[Tensor] = []
    for domain in membership.domains.values():
        references = judge(module, domain.clients[0], domain.references)
        for scores, each in ((members, domain.members), (others, domain.others)):
            scores.append(standardise(judge(module, domain.clients[0], each), references))
    return measure_separation(torch.cat(members), torch.cat(others))


def judge(module: SplitModule, client_id: int, real: LabelledSet) -> Tensor:
    """Return a client's discriminator's logits of real samples with their labels, (N,).

    Each is asked for by itself, as a discriminator may compare the samples of a batch.
    """
    network = module.engine.whole_network("discriminator", client_id)
    logits = [
        run_whole(network, {MAIN: to_float(sample), LABELS: label})[MAIN].flatten()
        for sample, label in zip(real.samples.split(1), real.labels.split(1), strict=True)
    ]
    return torch.cat(logits).float()


def _choose_domain(
    data: FederatedDataModule, name: str, most: int, seed: int, position: int
) -> JudgedDomain:
    domain, rng = data.domains[name], make_rng(seed, "audit members", position)
    owners = [client for client in data.clients if client.domain is domain]
    if (count := len(domain.test_labels)) < LEAST_HELD_OUT:
        raise DataError(
            f"audit: domain {name} has {count} held-out samples, needs {LEAST_HELD_OUT} to tell "
            "members from others: hold more out"
        )
    trained = torch.cat([torch.from_numpy(client.indices) for client in owners])
    held_out = torch.from_numpy(rng.permutation(count))
    size = min(most, len(trained), count // 2)
    members = trained[torch.from_numpy(rng.permutation(len(trained))[:size])]

    def take_held_out(index: Tensor) -> LabelledSet:
        return LabelledSet(domain.test_samples[index], domain.test_labels[index])

    return JudgedDomain(
        LabelledSet(domain.train_samples[members], domain.train_labels[members]),
        take_held_out(held_out[:size]),
        take_held_out(held_out[count // 2 :]),
        domain.num_classes,
        tuple(client.client_id for client in owners),
    )
