"""What a site makes of the trained networks: samples of its own, and figures of these."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..datamodules import FederatedDataModule
from ..engines.remote import Ask, SiteHalf, forward_through
from ..errors import HuscfError
from ..metrics.evaluation import Effort, EvaluationSettings, ScoreBook
from ..randomness import make_generator
from ..sampling import SampleSet, write_sample_set

#: Of real clients beside generated samples, in the evaluation of a site.
NUM_YARDSTICK_CLIENTS = 2


@dataclass
class SiteSampler:
    """Draws samples as the site's clients would, the server's blocks by asking for them.

    Args:
        half: The site's.
        ask: The way to the server.
        seed: Of the noise.
    """

    half: SiteHalf
    ask: Ask
    seed: int

    def sample(self, client_id: int, labels: Tensor, stream: torch.Generator) -> Tensor:
        """Return samples (N, C, H, W) in [-1, 1] of the classes labels (N,)."""
        run = forward_through(self.half, client_id, self.ask)
        return self.half.method.sample(run, labels, stream).float()

    def draws_alike(self, one: int, other: int) -> bool:
        """Return whether they are one client: the server's blocks cannot be compared."""
        return one == other


@dataclass
class SiteData:
    """A site's own data under the numbers that its clients have in the run.

    Args:
        clients: By number in the run.
        data: Theirs.
    """

    clients: list[Any]
    data: FederatedDataModule

    def __post_init__(self) -> None:
        self.spectrogram = self.data.spectrogram

    @property
    def domains(self) -> dict[str, Any]:
        """Return the domains of the site's clients."""
        return {client.domain.name: client.domain for client in self.clients}


def evaluate_site(
    sampler: SiteSampler, own: SiteData, num_per_class: int, full: bool, say: Callable[[str], None]
) -> list[dict[str, float]]:
    """Measure what the site's clients generate against the site's own real data.

    Args:
        sampler: Draws for them.
        own: The data.
        num_per_class: Samples drawn of each class.
        full: Whether downstream classifiers are trained too.
        say: Is told why a domain could not be measured.

    Returns:
        Figures of every domain of the site, in order; nothing else is told.
    """
    settings = EvaluationSettings() if full else EvaluationSettings.quick()
    effort = Effort(num_per_class, num_yardstick_clients=NUM_YARDSTICK_CLIENTS)
    book, found = ScoreBook(effort), []
    for name in own.domains:
        try:
            found.append(book.measure(sampler, own, name, settings, effort).row)
        except (HuscfError, OSError) as error:
            say(f"{name}: not evaluated: {error}")
            found.append({})
    return found


def write_site_samples(
    sampler: SiteSampler, own: SiteData, num_per_class: int, clusters: Mapping[int, int], path: Path
) -> Path:
    """Draw samples of every class that a client has, and write them into a new folder.

    Args:
        sampler: Draws them.
        own: The data, for names and classes.
        num_per_class: Of each client and class.
        clusters: By client.
        path: The folder is path/samples, or samples-2, ... where that exists.
    """
    parts: list[tuple[Tensor, Tensor, int, tuple[str, ...], str]] = []
    for client in own.clients:
        domain = client.domain
        labels = torch.arange(domain.num_classes).repeat_interleave(num_per_class)
        stream = make_generator(sampler.seed, "generate", client.client_id)
        names = domain.class_names or tuple(map(str, range(domain.num_classes)))
        drawn = sampler.sample(client.client_id, labels, stream)
        if not drawn.isfinite().all():
            raise HuscfError(f"client {client.client_id} draws NaN or Inf: its training diverged")
        parts.append((drawn, labels, client.client_id, names, domain.name))
    client = torch.cat([torch.full_like(labels, c) for _, labels, c, _, _ in parts])
    samples = SampleSet(
        torch.cat([part[0] for part in parts]),
        torch.cat([part[1] for part in parts]),
        client,
        torch.tensor([clusters[c] for c in client.tolist()]),
        tuple(name for _, labels, _, _, name in parts for _ in labels),
        tuple(names[label] for _, labels, _, names, _ in parts for label in labels.tolist()),
        sampler.seed,
    )
    number, folder = 1, path / "samples"
    while folder.exists():
        number += 1
        folder = path / f"samples-{number}"
    write_sample_set(samples, folder, own.spectrogram)
    return folder
