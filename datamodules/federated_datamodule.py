"""The base of every datamodule: domains in, clients with their own data out."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningDataModule

from ..errors import CheckpointError, DataError, check_count, check_number
from ..models import SampleShape
from ..randomness import make_rng
from ..user_paths import expand_path
from .attendance import Attendance
from .augmentation import Augmentation
from .bad_data import BadInput, OnBadData, settle_bad_data
from .class_numbers import drop_untrained, drop_unused_classes, warn_of_shared_names
from .client_batches import ClientBatches, LabelSampling, Sampling
from .domain import ClientData, Domain
from .log_mel import LogMel
from .partitions import IidPartitioner, Partitioner
from .patients import divide
from .shapes import conform_domains


class FederatedDataModule(LightningDataModule, ABC):
    """Divides domains among clients; a subclass says where the domains come from.

    Client ids run through the domains in order: with two domains and four clients each, the
    first domain has clients 0-3 and the second 4-7. Data is read when first needed.

    Args:
        root: Folder with the data; None takes the environment variable HUSCF_DATA, else "data".
        clients_per_domain: Number of clients of every domain, or one number per domain.
        samples_per_client: Use at most this many samples of each client's part; None uses all.
        batch_size: Samples per client and step; a smaller client uses all it has.
        steps_per_epoch: Length of an epoch in steps; None is one pass of the largest client.
        partitioner: How a domain's samples are divided; None is IID in equal parts.
        seed: Seed of partition and data order; the command line links it to seed_everything.
        image_size: Side in pixels to which all domains are brought (see fit_samples); None is
            the largest among them.
        channels: 1 (grey) or 3 (colour) for all domains; None is the largest among them.
        augmentation: Random flips and shifts of the training batches; None is none.
        label_sampling: "natural", or "balanced": every client draws its own classes equally often.
        participation: Share of the clients that take part in an epoch, at least two, drawn anew for
            every epoch; in (0, 1]. The others neither train nor count in a round without them.
        first_epochs: Clients that join while the others train already: client id -> first epoch
            in which it takes part, from 0.
        last_epochs: Clients that leave for good: client id -> last epoch.
        on_bad_data: What becomes of files and samples that cannot be used: "fatal" stops with
            one line that counts and names them, "skip" warns with that line and goes on.
        held_out: Part of every client's samples, up to 0.5, that it does not train on, so that it
            can tell the best round (see BestRound); None or 0 is none.
        sampling: "shuffled" passes, or "poisson": every sample of a client is in a step's batch by
            a draw of its own, so that batches differ in size; for model.privacy.

    Attributes:
        bad_data: What was left out, by domain name.
        given_shapes: (C, H, W) of a domain's samples before all are brought to one, by its name.
        spectrogram: How samples become sound again; None for pictures.
        keeps_class_numbers: Whether classes without training samples keep their number, as at a
            site, where others may have some. To be set before the domains are read.
    """

    spectrogram: LogMel | None = None

    def __init__(
        self,
        root: str | None = None,
        clients_per_domain: int | list[int] = 4,
        samples_per_client: int | None = None,
        batch_size: int = 64,
        steps_per_epoch: int | None = None,
        partitioner: Partitioner | None = None,
        seed: int = 0,
        image_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        augmentation: Augmentation | None = None,
        label_sampling: LabelSampling = "natural",
        participation: float = 1.0,
        first_epochs: dict[int, int] | None = None,
        last_epochs: dict[int, int] | None = None,
        on_bad_data: OnBadData = "fatal",
        held_out: float | None = None,
        sampling: Sampling = "shuffled",
    ) -> None:
        super().__init__()
        for name, value in (
            ("batch_size", batch_size),
            ("steps_per_epoch", steps_per_epoch),
            ("samples_per_client", samples_per_client),
            ("image_size", image_size),
        ):
            if value is not None:
                check_count(f"data.{name}", value, 1)
        each = clients_per_domain if isinstance(clients_per_domain, list) else [clients_per_domain]
        for number in each:
            check_count("data.clients_per_domain", number, 1)
        check_count("data.seed", seed, 0)
        if channels not in (None, 1, 3):
            raise DataError(f"data.channels is {channels}, must be 1 or 3")
        self.root = expand_path(root or os.environ.get("HUSCF_DATA") or "data")
        self.clients_per_domain = clients_per_domain
        self.samples_per_client = samples_per_client
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.partitioner = partitioner or IidPartitioner()
        self.seed = seed
        self.keeps_class_numbers = False
        self._batches: ClientBatches | None = None
        self._position: dict[str, Any] | None = None
        self.image_size = image_size
        self.channels = channels
        self.augmentation = augmentation
        self.label_sampling: LabelSampling = label_sampling
        self.attendance = Attendance(participation, first_epochs or {}, last_epochs or {})
        self.on_bad_data = on_bad_data
        if held_out is not None:
            check_number("data.held_out", held_out, 0, 0.5)
        self.held_out = held_out
        if sampling == "poisson" and label_sampling == "balanced":
            raise DataError(
                "data.label_sampling: balanced batches are not drawn sample by sample: set it to "
                "natural, or data.sampling to shuffled"
            )
        self.sampling: Sampling = sampling
        self.bad_data: dict[str, list[BadInput]] = {}
        self.given_shapes: dict[str, tuple[int, ...]] = {}

    @abstractmethod
    def load_domains(self) -> Iterable[Domain]:
        """Read the domains; sizes and colours may differ, they are brought to one afterwards.

        Raises:
            DataError: Naming the file or folder and how to get it, where data is missing.
        """

    @cached_property
    def domains(self) -> dict[str, Domain]:
        """The domains by name, read once."""
        given = self.load_domains()
        domains = list(given) if isinstance(given, Iterable) else [given]
        for domain in domains:
            if not isinstance(domain, Domain):
                raise DataError(
                    f"{type(self).__name__}: needs a method load_domains that returns a list of "
                    f"Domain, got {type(domain).__name__}"
                )
        names = [domain.name for domain in domains]
        if not names:
            raise DataError(
                f"{type(self).__name__}: there is no domain: name one at least, in data.datasets, "
                "data.sources or data.files"
            )
        if len(set(names)) != len(names):
            raise DataError(f"domains need different names, got {names}")
        conformed = conform_domains(domains, self.image_size, self.channels)
        self.given_shapes = {d.name: tuple(d.train_samples.shape[1:]) for d in domains}
        trained, bad = drop_untrained(conformed)
        for name, found in bad.items():
            settle_bad_data(name, found, self.on_bad_data)
            self.bad_data.setdefault(name, []).extend(found)
        numbered = drop_unused_classes(trained, self.keeps_class_numbers)
        warn_of_shared_names(numbered)
        return {domain.name: domain for domain in numbered}

    @cached_property
    def clients(self) -> list[ClientData]:
        """Every client's data, in order of client id."""
        counts = self._count_clients()
        clients: list[ClientData] = []
        for position, domain in enumerate(self.domains.values()):
            for indices in self._divide(domain, position, counts[position]):
                clients.append(self._hold_out(ClientData(len(clients), domain, indices)))
        for client in clients:
            if len(client) < 2:
                raise DataError(
                    f"client {client.client_id} ({client.domain.name}) has {len(client)} "
                    "samples, needs at least 2: use fewer clients or another partitioner"
                )
        self.attendance.check_clients(range(len(clients)))
        return clients

    @property
    def sample_shape(self) -> SampleShape:
        """Shape of every sample and the number of classes over all domains."""
        domains = list(self.domains.values())
        channels, size, _ = domains[0].train_samples.shape[1:]
        return SampleShape(channels, size, max(domain.num_classes for domain in domains))

    @property
    def batch_sizes(self) -> dict[int, int]:
        """Samples per step of every client, by client id."""
        return {c.client_id: min(self.batch_size, len(c)) for c in self.clients}

    @property
    def client_sizes(self) -> dict[int, int]:
        """Number of training samples of every client, by client id."""
        return {client.client_id: len(client) for client in self.clients}

    @property
    def client_domains(self) -> dict[int, str]:
        """Hidden domain of every client, for evaluation only."""
        return {client.client_id: client.domain.name for client in self.clients}

    def explain(self) -> list[str]:
        """Return in sentences what is done to the samples; of the domains once they are read.

        A subclass puts what it does itself before these.
        """
        lines = []
        shape = self.sample_shape
        wanted = (shape.channels, shape.image_size, shape.image_size)
        for name, given in self.given_shapes.items():
            if given != wanted:
                was, now = (" x ".join(map(str, each)) for each in (given, wanted))
                lines.append(f"{name} is brought from {was} to {now} (channels, rows, columns)")
        known = [name for name, domain in self.domains.items() if domain.patients is not None]
        if known:
            lines.append(f"samples of a patient, or file, are one client's in {', '.join(known)}")
        if self.augmentation is not None:
            lines.append(f"training batches are changed at random: {self.augmentation}")
        if self.label_sampling == "balanced":
            lines.append("every client draws the classes that it has equally often")
        lines.append("pixels 0 to 255 become numbers from -1 to 1")
        return lines

    def make_manifest(self) -> dict[str, Any]:
        """Return who owns what and what was left out, as plain values."""
        entries = []
        for client in self.clients:
            labels = client.domain.train_labels[client.indices].numpy()
            counts = np.bincount(labels, minlength=self.sample_shape.num_classes)
            entries.append(
                {
                    "client": client.client_id,
                    "domain": client.domain.name,
                    "keys": _list_keys(client),
                    "num_samples": len(client),
                    "label_counts": counts.tolist(),
                    "indices": client.indices.tolist(),
                }
            )
        left_out = {
            name: [f"{reason}: {item}" for reason, item in bad]
            for name, bad in self.bad_data.items()
            if bad
        }
        return {"seed": self.seed, "clients": entries, "left_out": left_out}

    @property
    def common_class_names(self) -> tuple[str, ...]:
        """Names of the classes where all domains have the same, some perhaps fewer, else ()."""
        names = [domain.class_names for domain in self.domains.values()]
        longest = max(names, key=len)
        is_common = all(own and own == longest[: len(own)] for own in names)
        return longest if is_common else ()

    @property
    def client_channels(self) -> dict[int, int]:
        """Channels that a client's samples had before all were brought to one, by client id.

        Who has grey samples in a run in colour is to be shown grey ones: see make_grey.
        """
        own = {name: shape[0] for name, shape in self.given_shapes.items()}
        usual = self.sample_shape.channels
        return {c.client_id: own.get(c.domain.name, usual) for c in self.clients}

    @property
    def client_num_classes(self) -> dict[int, int]:
        """Number of classes that a client's domain has, by client id."""
        return {client.client_id: client.domain.num_classes for client in self.clients}

    @cached_property
    def client_digests(self) -> dict[int, str]:
        """Hash of every client's labels and of up to 64 of its samples, by client id.

        A run that is resumed must have the data that it began with.
        """
        return {client.client_id: _digest(client) for client in self.clients}

    def setup(self, stage: str) -> None:
        """Let a new trainer begin at the first batches; its checkpoint is loaded after this."""
        if stage == "fit" and self.trainer is not None and not self.trainer.global_step:
            self._batches = self._position = None

    def train_dataloader(self) -> ClientBatches:
        """Return the endless batches of all clients, from the present or saved position on."""
        position = self.state_dict() or self._position or {}
        # An epoch stays as long as it was, though clients with more data may have joined.
        length = position.get("steps_per_epoch")
        self._batches = ClientBatches(
            self.clients,
            self.batch_size,
            self.seed,
            length if self.steps_per_epoch is None else self.steps_per_epoch,
            self.augmentation,
            self.label_sampling,
            self.attendance,
            self.sampling,
        )
        if limit := getattr(self.trainer, "overfit_batches", 0):
            self._batches.repeat(limit)
        self._batches.shorten(getattr(self.trainer, "limit_train_batches", 1.0))
        if position:
            self._batches.load_state_dict(position)
        return self._batches

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the clients' data, and the length of an epoch.

        Lightning saves the loader's own state too, but drops it when the checkpoint was made
        between two epochs.
        """
        if self._batches is None:
            return {}
        return {**self._batches.state_dict(), "steps_per_epoch": len(self._batches)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next training go on from a saved position.

        Raises:
            CheckpointError: Where it is none.
        """
        length = state_dict.get("steps_per_epoch", 1)
        if type(length) is not int or length < 1:
            raise CheckpointError(
                f"the checkpoint is damaged: steps_per_epoch of the data is {length!r:.40}, must "
                "be a whole number >= 1"
            )
        self._batches, self._position = None, state_dict or None

    def val_dataloader(self) -> list[str]:
        """Return the domains' names, one evaluation batch each; the model reads `domains`."""
        return list(self.domains)

    def test_dataloader(self) -> list[str]:
        """Return the domains' names, one evaluation batch each; the model reads `domains`."""
        return list(self.domains)

    def predict_dataloader(self) -> list[int]:
        """Return the client ids, one batch of samples each."""
        return [client.client_id for client in self.clients]

    def _count_clients(self) -> list[int]:
        counts = self.clients_per_domain
        if isinstance(counts, int):
            counts = [counts] * len(self.domains)
        if len(counts) != len(self.domains) or min(counts) < 1:
            raise DataError(
                f"clients_per_domain is {self.clients_per_domain}, needs a number >= 1 for each "
                f"of the {len(self.domains)} domains {list(self.domains)}"
            )
        return counts

    def _hold_out(self, client: ClientData) -> ClientData:
        """Keep a part of a client's samples from training; a patient's whole or not at all."""
        if not self.held_out:
            return client
        patients, indices = client.domain.patients, client.indices
        owners = np.arange(len(indices)) if patients is None else patients[indices]
        every = np.unique(owners)
        rng = make_rng(self.seed, "held out", client.client_id)
        chosen = rng.permutation(every)[: round(self.held_out * len(every))]
        is_out = np.isin(owners, chosen)
        return replace(client, indices=indices[~is_out], held_out=indices[is_out])

    def _divide(self, domain: Domain, position: int, num_clients: int) -> list[np.ndarray]:
        rng = make_rng(self.seed, "partition", position)
        parts = divide(domain, self.partitioner, num_clients, rng)
        if self.samples_per_client is not None:
            limit = self.samples_per_client
            parts = [np.sort(rng.permutation(part)[:limit]) for part in parts]
        return parts


def _digest(client: ClientData) -> str:
    shown = client.indices[:: -(-len(client) // 64)]
    digest = hashlib.blake2b(digest_size=12)
    for values in (
        client.domain.train_labels[client.indices],
        client.domain.train_samples[shown].contiguous(),
    ):
        digest.update(f"{tuple(values.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def _list_keys(client: ClientData) -> list[str]:
    keys = client.domain.keys
    return [] if keys is None else [str(key) for key in np.unique(keys[client.indices])]
