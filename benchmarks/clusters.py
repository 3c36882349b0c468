"""Finds clusters in many settings and prints how they agree with the domains.

    HUSCF_DATA=../shared/data python benchmarks/clusters.py --rows p0.1 unequal_1_3_8 --seeds 0 1 2

Every row runs some rounds of a federation and is appended to --output, so that a run that was
stopped goes on with what is missing; --table prints what there is. Clusters are found under blocks
that never train, so that --untrained, which leaves out the steps, gives the same clusters (tested).
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from huscf.callbacks import ClusteredFederation
from huscf.datamodules import (
    DigitsDataModule,
    Domain,
    FederatedDataModule,
    IidPartitioner,
    ImageDataModule,
    LabelExclusionPartitioner,
    MedicalDataModule,
    NpzDataModule,
    Partitioner,
    SpokenDigitsDataModule,
)
from huscf.errors import HuscfError
from huscf.federation import MergedClusters, RoundDecision, rand_index
from huscf.methods import HuscfGan
from huscf.models import ConditionalDiscriminator, ConditionalGenerator
from huscf.split import ProfilePlan
from huscf.training import SplitModule
from huscf.wire import MemoryWire, Message

PICTURES = ["mnist", "fashion_mnist", "kmnist", "notmnist"]
OTHERS = ["breastmnist", "pneumoniamnist", "retinamnist", "bccd28", "fsdd", "cifar10_jpeg"]
CUTS = {"a": [1, 1, 1, 1], "b": [2, 1, 1, 2], "c": [1, 2, 2, 1], "d": [2, 2, 2, 2]}
DISTANCES = [round(0.25 + 0.05 * step, 2) for step in range(16)]


@dataclass(frozen=True)
class Row:
    """One setting.

    Args:
        domains: Names of data sets; "_inverted" after one turns dark and light round.
        clients: Clients of each domain.
        participation: Share that takes part in an epoch.
        fault: What client 0 sends instead of its activations: "loud", "constant" or "nan".
        samples: Most samples of a client.
    """

    domains: list[str]
    clients: list[int]
    participation: float = 1.0
    fault: str = ""
    samples: int = 600


def _share(participation: float, *domains: str) -> Row:
    return Row(list(domains), [100 // len(domains)] * len(domains), participation)


ROWS = {
    **{f"p{share:g}": _share(share, *PICTURES[:2]) for share in (1.0, 0.3, 0.1, 0.05)},
    **{f"one_p{share:g}": _share(share, "mnist") for share in (1.0, 0.3, 0.1, 0.05)},
    "p0.2_of_20": Row(PICTURES[:2], [10, 10], 0.2, samples=200),
    "unequal_1_3_8": Row(PICTURES[:3], [1, 3, 8], samples=300),
    "unequal_1_1_10": Row(PICTURES[:3], [1, 1, 10], samples=300),
    "unequal_2_9_19": Row(PICTURES[:3], [2, 9, 19], samples=300),
    "equal_10_10_10": Row(PICTURES[:3], [10, 10, 10], samples=300),
    "digits": Row(["digits", "digits_inverted"], [2, 2], samples=60),  # needs no files
    "four": Row(PICTURES, [5] * 4, samples=300),
    "six": Row(OTHERS, [3] * 6, samples=180),
    "ten": Row([*PICTURES, *(f"{p}_inverted" for p in PICTURES), "cifar10_jpeg", "fsdd"], [4] * 10),
    "ten_p0.1": Row(
        [*PICTURES, *(f"{p}_inverted" for p in PICTURES), "cifar10_jpeg", "fsdd"], [10] * 10, 0.1
    ),
    **{
        f"fault_{fault}": Row(PICTURES[:3], [4] * 3, 1.0, fault, 300)
        for fault in ("loud", "constant", "nan")
    },
}


class QuantityPartitioner(Partitioner):
    """Equal parts, of which a client keeps 20 to 600 samples, by the logarithm."""

    def partition(
        self,
        labels: np.ndarray,
        keys: np.ndarray | None,
        num_clients: int,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Cut, then keep a number drawn for each."""
        parts = IidPartitioner().partition(labels, keys, num_clients, rng)
        wanted = np.exp(rng.uniform(np.log(20), np.log(600), num_clients)).astype(int)
        return [part[:count] for part, count in zip(parts, wanted, strict=True)]


class FewClasses(Partitioner):
    """The paper's scenario 2 where there are enough classes; IID elsewhere."""

    def partition(
        self,
        labels: np.ndarray,
        keys: np.ndarray | None,
        num_clients: int,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Leave classes out."""
        skewed = LabelExclusionPartitioner(
            {0: 0.25, 2: 0.3, 3: 0.1, 4: 0.1}, {1.0: 0.7, 0.667: 0.3}, min_partition_size=20
        )
        rule = skewed if len(np.unique(labels)) > 5 else IidPartitioner()
        return rule.partition(labels, keys, num_clients, rng)


SKEWS: dict[str, type[Partitioner]] = {
    "iid": IidPartitioner,
    "labels": FewClasses,
    "quantity": QuantityPartitioner,
}


class MixedDataModule(FederatedDataModule):
    """Domains of all kinds in one run."""

    def __init__(self, names: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = names

    def load_domains(self) -> list[Domain]:
        """Read every domain, and turn round those that are to be."""
        return [_invert(name) if name.endswith("_inverted") else _load(name) for name in self.names]


def _load(name: str) -> Domain:
    if name in PICTURES:
        (domain,) = ImageDataModule(datasets=[name]).load_domains()
    elif name == "digits":
        domain, _ = DigitsDataModule().load_domains()
    elif name == "fsdd":
        (domain,) = SpokenDigitsDataModule(datasets=["fsdd"]).load_domains()
    elif name == "cifar10_jpeg":
        (domain,) = NpzDataModule(files={name: f"{name}.npz"}).load_domains()
    else:
        file = f"{name}.npz" if name == "bccd28" else name
        (domain,) = MedicalDataModule(datasets=[file]).load_domains()
    return domain


def _invert(name: str) -> Domain:
    plain = _load(name.removesuffix("_inverted"))
    samples = (255 - plain.train_samples, 255 - plain.test_samples)
    return Domain(name, samples[0], plain.train_labels, samples[1], plain.test_labels)


class FaultyWire(MemoryWire):
    """Carries something else for client 0."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def transmit(self, message: Message) -> Mapping[str, Tensor]:
        """Spoil what client 0 sends of its real samples."""
        spoilt = {
            "loud": lambda values: values * 100,
            "constant": torch.ones_like,
            "nan": lambda values: torch.full_like(values, torch.nan),
        }
        is_spoilt = message.sender == 0 and message.topic == "discriminator_head"
        if not (is_spoilt and message.kind == "activations"):
            return message.tensors
        return {name: spoilt[self.fault](own) for name, own in message.tensors.items()}


@dataclass
class Found:
    """What the rounds of a row have found."""

    clusters: list[int] = field(default_factory=list)
    ari: list[float] = field(default_factory=list)
    placed: list[int] = field(default_factory=list)

    def add(self, decision: RoundDecision, domains: Mapping[int, str], fault: str) -> None:
        """Take a round; a client that is made faulty does not count."""
        judged = {c: k for c, k in decision.placed_clusters.items() if not (fault and c == 0)}
        self.clusters.append(len(set(judged.values())))
        self.ari.append(round(rand_index(judged, domains), 3))
        self.placed.append(len(judged))


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--skews", nargs="+", choices=list(SKEWS), default=["iid", "labels"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5, help="epochs of a round")
    parser.add_argument("--steps", type=int, default=10, help="steps of an epoch")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--width", type=int, default=8, help="64: the paper's")
    parser.add_argument("--untrained", action="store_true", help="leave out the steps")
    parser.add_argument("--observe", choices=["reference", "training"], default="reference")
    parser.add_argument("--output", type=Path, default=Path("runs/clusters.jsonl"))
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        run_missing(arguments)
    print_table(read(arguments.output))


WORKLOAD = ("rounds", "epochs", "steps", "batch_size", "width", "untrained", "observe")


def run_missing(arguments: argparse.Namespace) -> None:
    """Run every row, skew and seed that the output lacks."""
    workload = {key: getattr(arguments, key) for key in WORKLOAD}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.rows:
        for skew in arguments.skews:
            for seed in arguments.seeds:
                run = {"row": name, "skew": skew, "seed": seed, **workload}
                if any(run.items() <= done.items() for done in read(arguments.output)):
                    continue
                figures = measure(arguments, ROWS[name], skew, seed)
                with arguments.output.open("a") as file:
                    file.write(json.dumps({**run, **figures}) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the finished runs."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measure(arguments: argparse.Namespace, row: Row, skew: str, seed: int) -> dict[str, Any]:
    """Run one row."""
    data = MixedDataModule(
        row.domains,
        clients_per_domain=row.clients,
        samples_per_client=row.samples,
        partitioner=SKEWS[skew](),
        participation=row.participation,
        batch_size=arguments.batch_size,
        steps_per_epoch=arguments.steps,
        image_size=28,
        seed=seed,
    )
    torch.manual_seed(seed)
    module = SplitModule(
        data.sample_shape,
        data.batch_sizes,
        data.client_sizes,
        HuscfGan(
            partial(ConditionalGenerator, width=arguments.width),
            partial(ConditionalDiscriminator, width=arguments.width),
        ),
        ProfilePlan(CUTS),
        FaultyWire(row.fault) if row.fault else None,
        seed=seed,
    )
    module.configure_optimizers()
    federation = ClusteredFederation(every_n_epochs=arguments.epochs, observe=arguments.observe)
    federation.begin(module)
    step = 0
    batches, found, seconds = data.train_dataloader(), Found(), {"steps": 0.0, "observing": 0.0}
    for _ in range(arguments.rounds):
        for _ in range(arguments.epochs):
            for batch in batches:
                start = time.perf_counter()
                federation.observe_batch(module, batch)
                seen = time.perf_counter()
                if not arguments.untrained:
                    module.engine.run_step(batch, step)
                seconds["observing"] += seen - start
                seconds["steps"] += time.perf_counter() - seen
                step += 1
        decision = federation.decide(module)
        federation.apply(module, decision)
        found.add(decision, data.client_domains, row.fault)
    return {
        **vars(found),
        **count_errors(decision, data.client_domains),
        "loud": sorted(decision.loud),
        "margin": find_margin(federation, data.client_domains),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }


def count_errors(decision: RoundDecision, domains: Mapping[int, str]) -> dict[str, int]:
    """Return how many clusters mix domains, and how many a domain has too many, loud ones apart."""
    pairs = {
        (cluster, domains[client])
        for client, cluster in decision.placed_clusters.items()
        if client not in decision.loud
    }
    clusters = {cluster for cluster, _ in pairs}
    return {
        "false_merges": len(pairs) - len(clusters),
        "false_splits": len(pairs) - len({domain for _, domain in pairs}),
    }


def find_margin(federation: ClusteredFederation, domains: Mapping[int, str]) -> list[float]:
    """Return the merging distances between which the domains are found from what is known."""
    known = federation.memory.known
    if known is None:
        return []
    right = []
    for distance in DISTANCES:
        labels = MergedClusters(distance)(known, np.full(len(known.client_ids), -1))
        found = dict(zip(known.client_ids, labels.tolist(), strict=True))
        if rand_index(found, domains) == 1.0:
            right.append(distance)
    return [min(right), max(right)] if right else []


def print_table(runs: list[dict[str, Any]]) -> None:
    """Print one line per run."""
    names = ("row", "skew", "seed", "untrained", "clusters", "ari", "placed")
    print("|", " | ".join((*names, "false merges, splits", "margin", "s")), "|")
    print("|" + " --- |" * (len(names) + 3))
    for run in runs:
        if run["row"] not in ROWS:
            raise HuscfError(f"{run['row']} is no row of this version: use another --output")
        cells = [str(run[name]).strip("[]") for name in names]
        errors = f"{run['false_merges']}, {run['false_splits']}"
        margin = " to ".join(map(str, run["margin"]))
        total = sum(run["seconds"].values())
        print("|", " | ".join((*cells, errors, margin, f"{total:.0f}")), "|")


if __name__ == "__main__":
    main()
