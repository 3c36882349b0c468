"""Compares ways to federate: python benchmarks/federation.py --output runs/federation.jsonl.

Clients of several domains train as one run of every row, setting and seed; each checkpoint adds
a line of JSON to the output, and rows that it already holds are not run again. --table prints
what an output holds, as Markdown. HUSCF_DATA names the folder with the data sets; the domains
digits and negatives come with scikit-learn.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from huscf.callbacks import ClusteredFederation
from huscf.datamodules import (
    DigitsDataModule,
    FederatedDataModule,
    IidPartitioner,
    ImageDataModule,
    LabelExclusionPartitioner,
    LabelSampling,
    Partitioner,
)
from huscf.federation import EachAlone, OneCluster, rand_index
from huscf.methods import (
    DiscriminatorAugmentation,
    FlowMatching,
    HuscfGan,
    Method,
    RateSchedule,
    Vae,
)
from huscf.metrics import EvaluationSettings
from huscf.metrics.evaluation import DomainEvaluator, Draws, OwnData
from huscf.models import (
    ConditionalDiscriminator,
    ConditionalEncoder,
    ConditionalGenerator,
    UNet,
)
from huscf.split import ProfilePlan
from huscf.training import SplitModule

#: Cuts of four kinds of devices; the clients of a domain have one each.
CUTS = {"a": [1, 1, 1, 1], "b": [2, 1, 1, 2], "c": [1, 2, 2, 1], "d": [2, 2, 2, 2]}
FLOW_CUTS = {"a": [1, 1], "b": [2, 1], "c": [1, 2], "d": [2, 2]}
SKEWS: dict[str, Partitioner] = {
    "iid": IidPartitioner(),
    "highly_non_iid": LabelExclusionPartitioner(
        {2: 0.4, 3: 0.6}, {1.0: 0.5, 0.333: 0.3, 0.167: 0.2}
    ),
}
#: What rows must have in common to be compared.
WORKLOAD = (
    "domains",
    "clients_per_domain",
    "samples_per_client",
    "batch_size",
    "steps_per_round",
    "width",
    "learning_rate",
    "bf16",
)
MAIN_SCORES = ("generation_score", "label_accuracy", "frechet_distance", "downstream_accuracy")
SCORES = (
    *MAIN_SCORES,
    *("precision", "recall", "nearest_real_ratio"),
    *("downstream_accuracy_pooled", "downstream_accuracy_own", "downstream_accuracy_mixed"),
    *("downstream_gain_least", "downstream_gain_median", "downstream_gain_most"),
    *("plain_generation_score", "plain_label_accuracy"),
    *(f"each_client_{score}" for score in MAIN_SCORES),
)
#: A discriminator that takes labels in both ways and sees how much samples of a label differ.
VARIED = {"conditioning": "both", "minibatch_std": True}
#: Shifts that adapt to each client's discriminator.
ADAPTIVE = {"augmentation": DiscriminatorAugmentation(strength=0.0, adaptive=True)}
#: How the paper weighs the members of a cluster.
PAPER_WEIGHTS = {"divergence": "positions", "beta": 1.0, "size_exponent": 1.0}


@dataclass(frozen=True)
class Row:
    """One way to federate.

    Args:
        federation: Arguments of ClusteredFederation.
        method: Arguments of the family's class that differ from the defaults.
        generator: Arguments of ConditionalGenerator that differ from the defaults.
        discriminator: Arguments of ConditionalDiscriminator that differ from the defaults.
        label_sampling: Of the data module.
        knows_domains: Clusters are the true domains.
        independent_init: Every copy of a block begins with weights of its own.
        is_pooled: One client per domain owns the data of all.
        family: What is trained.
    """

    federation: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    generator: dict[str, Any] = field(default_factory=dict)
    discriminator: dict[str, Any] = field(default_factory=dict)
    label_sampling: LabelSampling = "natural"
    knows_domains: bool = False
    independent_init: bool = False
    is_pooled: bool = False
    family: Literal["gan", "flow", "vae"] = "gan"


ROWS = {
    "alone": Row({"rule": EachAlone()}),
    "fedavg": Row({"rule": OneCluster(), "weighting": "samples"}),
    "clustered_equal": Row({"weighting": "uniform"}),
    "clustered_samples": Row({"weighting": "samples"}),
    "clustered_paper_kld": Row(PAPER_WEIGHTS),
    "clustered": Row(),
    "oracle": Row(knows_domains=True),
    "pooled": Row({"rule": EachAlone()}, is_pooled=True),
    # What the paper's released code does, which is told the domains; but every client is
    # normalised alone.
    "paper": Row(
        {**PAPER_WEIGHTS, "server": "shared", "warmup_rounds": 2},
        {"weight_std": None, "ema_decay": 0.0},
        knows_domains=True,
        independent_init=True,
    ),
    # Other weights: the divergence against and for a member, and both exponents of n.
    "clustered_kld": Row({"beta": 0.1}),
    "clustered_kld_only": Row({"beta": 0.1, "size_exponent": 0.0}),
    "clustered_kld_only_0.5": Row({"beta": 0.5, "size_exponent": 0.0}),
    "clustered_kld_n": Row({"beta": 0.1, "size_exponent": 1.0}),
    "clustered_for_outliers": Row({"beta": -0.2}),
    # Ablations of single choices.
    "warmup_2": Row({"warmup_rounds": 2}),
    "beta_1": Row({"beta": 1.0}),
    "shared_server": Row({"server": "shared"}),
    "shared_generator": Row({"server": {"discriminator": [1, 2, 3]}}),
    "shared_discriminator": Row({"server": {"generator": [1, 2, 3]}}),
    "average_moments": Row({"moments": "average"}),
    "reset_moments": Row({"moments": "reset"}),
    "mismatched": Row(method={"mismatched_weight": 1.0}),
    "mismatched_always": Row(method={"mismatched_weight": 1.0, "mismatched_steps": None}),
    "no_average": Row(method={"ema_decay": 0.0}),
    "average_0.9": Row(method={"ema_decay": 0.9}),
    "balanced_labels": Row(label_sampling="balanced"),
    "spectral_norm": Row(discriminator={"spectral_norm": True}),
    "projection": Row(discriminator={"conditioning": "projection"}),
    "both_conditionings": Row(discriminator={"conditioning": "both"}),
    "varied": Row(discriminator=VARIED),
    "varied_translation_half": Row(
        method={"augmentation": DiscriminatorAugmentation(strength=0.5)}, discriminator=VARIED
    ),
    # What configs/mnist_fashion.yaml has, and the same federated in other ways.
    "varied_translation_adaptive": Row(method=ADAPTIVE, discriminator=VARIED),
    "alone_varied": Row({"rule": EachAlone()}, ADAPTIVE, discriminator=VARIED),
    "fedavg_varied": Row(
        {"rule": OneCluster(), "weighting": "samples"}, ADAPTIVE, discriminator=VARIED
    ),
    "pooled_varied": Row({"rule": EachAlone()}, ADAPTIVE, discriminator=VARIED, is_pooled=True),
    "both_translation": Row(
        method={"augmentation": DiscriminatorAugmentation(strength=1.0)},
        discriminator={"conditioning": "both"},
    ),
    "nearest": Row(generator={"upsampling": "nearest"}),
    "projection_nearest": Row(
        generator={"upsampling": "nearest"}, discriminator={"conditioning": "projection"}
    ),
    "falling_rates": Row(method={"rate_schedule": RateSchedule(500, 2000)}),
    "translation": Row(method={"augmentation": DiscriminatorAugmentation(strength=1.0)}),
    "translation_half": Row(method={"augmentation": DiscriminatorAugmentation(strength=0.5)}),
    "translation_adaptive": Row(method=ADAPTIVE),
    "default_init": Row(method={"weight_std": None}),
    # Other families.
    "flow": Row(family="flow"),
    "flow_alone": Row({"rule": EachAlone()}, family="flow"),
    "flow_pooled": Row({"rule": EachAlone()}, is_pooled=True, family="flow"),
    "flow_plain": Row(family="flow", method={"guidance": 1.0}),
    "flow_cosine": Row(family="flow", method={"path": "cosine"}),
    "vae": Row(family="vae"),
}


class PartOfDomain(Partitioner):
    """Takes so many samples of a domain at random and lets another partitioner share them out.

    Args:
        partitioner: Shares them out to the clients.
        num_samples: Of all clients together.
        num_clients: Clients that it shares them out to.
        is_pooled: Whether one client gets what they would have.
    """

    def __init__(
        self, partitioner: Partitioner, num_samples: int, num_clients: int, is_pooled: bool
    ) -> None:
        self.partitioner = partitioner
        self.num_samples = num_samples
        self.num_clients = num_clients
        self.is_pooled = is_pooled

    def partition(
        self,
        labels: np.ndarray,
        keys: np.ndarray | None,
        num_clients: int,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Return the parts as indices into the whole domain."""
        chosen = np.sort(rng.permutation(len(labels))[: self.num_samples])
        parts = self.partitioner.partition(labels[chosen], None, self.num_clients, rng)
        indices = [chosen[part] for part in parts]
        return [np.sort(np.concatenate(indices))] if self.is_pooled else indices


def main() -> None:
    """Run what the output lacks, or print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/federation.jsonl"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", action="store_true", help="print the figures as one object")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS)[:8], metavar="ROW")
    parser.add_argument("--skews", nargs="+", choices=SKEWS, default=list(SKEWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--checkpoints", nargs="+", type=int, default=[500, 1000, 2000])
    parser.add_argument("--domains", nargs="+", default=["mnist", "fashion_mnist"])
    parser.add_argument("--clients_per_domain", type=int, default=4)
    parser.add_argument("--samples_per_client", type=int, default=600)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps_per_round", type=int, default=50)
    parser.add_argument("--width", type=int, default=16, help="64: the paper's")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--num_per_class", type=int, default=500, help="samples that are measured")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 mixed precision")
    parser.add_argument("--no_downstream", action="store_true")
    parser.add_argument(
        "--plain_judge", action="store_true", help="score under a plain judge besides (plain_...)"
    )
    parser.add_argument(
        "--each_client",
        action="store_true",
        help="measure the samples of every client by themselves besides: the mean of a domain's "
        "clients (each_client_...)",
    )
    parser.add_argument(
        "--usefulness",
        type=int,
        default=0,
        metavar="CLIENTS",
        help="measure pooled real data besides, and what samples add to the own data of so many "
        "clients of a domain",
    )
    parser.add_argument(
        "--guidances",
        type=float,
        nargs="+",
        default=[],
        metavar="G",
        help="measure a flow's samples drawn with these guidances besides: lines of their own",
    )
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.table:
        run_missing(arguments)
    found = read(arguments.output)
    if arguments.json:
        print(json.dumps({f"{name_row(f)} {f['skew']} {f['seed']}": f for f in found}))
    else:
        print_tables(found)


def run_missing(arguments: argparse.Namespace) -> None:
    """Run every row, setting and seed whose last checkpoint is not in the output."""
    workload = {key: getattr(arguments, key) for key in WORKLOAD}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for skew in arguments.skews:
            for name in arguments.rows:
                run = {"row": name, "skew": skew, "seed": seed, **workload}
                done = [place_of(f) for f in read(arguments.output) if run.items() <= f.items()]
                drawings = [None, *(arguments.guidances if ROWS[name].family == "flow" else [])]
                if all((max(arguments.checkpoints), drawn) in done for drawn in drawings):
                    continue
                for figures in train(arguments, ROWS[name], skew, seed):
                    if place_of(figures) not in done:
                        with arguments.output.open("a") as file:
                            file.write(json.dumps({**run, **figures}) + "\n")


def place_of(figures: dict[str, Any]) -> tuple[int, float | None]:
    """Return which line of a run it is: its step, and the guidance where it is not the usual."""
    return figures["step"], figures.get("guidance")


def train(
    arguments: argparse.Namespace, row: Row, skew: str, seed: int
) -> Iterator[dict[str, Any]]:
    """Train one run; yields step, seconds of training, ARI by round and scores by domain."""
    count, batch_size = arguments.clients_per_domain, arguments.batch_size
    is_embedded = arguments.domains == ["digits", "negatives"]
    make_data = (
        DigitsDataModule if is_embedded else partial(ImageDataModule, datasets=arguments.domains)
    )
    data = make_data(
        clients_per_domain=1 if row.is_pooled else count,
        partitioner=PartOfDomain(
            SKEWS[skew], count * arguments.samples_per_client, count, row.is_pooled
        ),
        # A pooled GAN sees in a step what all clients of its domain see.
        batch_size=batch_size * count if row.is_pooled else batch_size,
        seed=seed,
        steps_per_epoch=arguments.steps_per_round,
        label_sampling=row.label_sampling,
    )
    method = make_method(row, arguments.width, arguments.learning_rate)
    sizes = data.batch_sizes, data.client_sizes
    cuts = FLOW_CUTS if row.family == "flow" else CUTS
    module = SplitModule(data.sample_shape, *sizes, method, ProfilePlan(cuts), seed=seed)
    if row.independent_init:
        initialize_apart(module)
    module.configure_optimizers()
    options = dict(row.federation)
    if row.knows_domains:
        options["rule"] = know_domains(list(data.client_domains.values()))
    federation = ClusteredFederation(**options)
    federation.begin(module)
    evaluators = {
        name: (DomainEvaluator(domain), DomainEvaluator(domain, plain_judge=True))
        for name, domain in data.domains.items()
    }
    seconds, rand_indices, step = 0.0, [], 0
    batches = data.train_dataloader()
    while step < max(arguments.checkpoints):
        start = time.perf_counter()
        for batch in batches:
            mixed = torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
            with mixed if arguments.bf16 else nullcontext():
                federation.observe_batch(module, batch)
                module.engine.run_step(batch, step)
            step += 1
        decision = federation.decide(module)
        federation.apply(module, decision)
        seconds += time.perf_counter() - start
        rand_indices.append(round(rand_index(decision.clusters, data.client_domains), 3))
        if step in arguments.checkpoints:
            figures = {
                "step": step,
                "seconds": seconds,
                "ari": list(rand_indices),
                "weights": [round(weight, 3) for weight in decision.weights.values()],
                "sizes": list(data.client_sizes.values()),
            }
            yield {**figures, "scores": score_all(arguments, module, data, evaluators)}
            if isinstance(method, FlowMatching):
                for guidance in arguments.guidances:
                    with drawn_with(method, guidance):
                        scores = score_all(arguments, module, data, evaluators)
                    yield {**figures, "guidance": guidance, "scores": scores}


@contextmanager
def drawn_with(method: FlowMatching, guidance: float) -> Iterator[None]:
    """Draw with another guidance for a while; training knows of none."""
    usual, method.guidance = method.guidance, guidance
    try:
        yield
    finally:
        method.guidance = usual


def score_all(
    arguments: argparse.Namespace,
    module: SplitModule,
    data: FederatedDataModule,
    evaluators: dict[str, tuple[DomainEvaluator, DomainEvaluator]],
) -> dict[str, dict[str, float]]:
    """Measure every domain, and what its samples are worth if the options ask for it."""
    scores = {}
    for name, pair in evaluators.items():
        members = [c for c, domain in data.client_domains.items() if domain == name]
        kept = arguments.num_per_class if arguments.usefulness or arguments.each_client else 0
        draws = Draws(module, data.domains[name].num_classes, kept)
        scores[name] = score_domain(arguments, draws, members, pair)
        if arguments.usefulness:
            owners = [client for client in data.clients if client.client_id in members]
            scores[name] |= score_usefulness(arguments, draws, owners, pair[0])
    return scores


def make_method(row: Row, width: int, learning_rate: float) -> Method:
    """Return what a row trains; rates of the other families are their own defaults."""
    generator = partial(ConditionalGenerator, width=width, **row.generator)
    if row.family == "flow":
        return FlowMatching(partial(UNet, width=width), **row.method)
    if row.family == "vae":
        return Vae(partial(ConditionalEncoder, width=width), generator, **row.method)
    rates = {"generator_lr": learning_rate, "discriminator_lr": learning_rate}
    discriminator = partial(ConditionalDiscriminator, width=width, **row.discriminator)
    return HuscfGan(generator, discriminator, **{**rates, **row.method})


def score_usefulness(
    arguments: argparse.Namespace,
    draws: Draws,
    owners: list[OwnData],
    evaluator: DomainEvaluator,
) -> dict[str, float]:
    """Measure a domain's pooled real data, and what samples add to the data of some clients."""
    settings = EvaluationSettings(max_samples=10 * arguments.num_per_class)
    count = arguments.num_per_class
    figures = evaluator.measure_pooled(owners, count, settings)
    each = [
        evaluator.measure_usefulness(draws, owner, count, settings, alone=False)
        for owner in owners[: arguments.usefulness]
    ]
    figures |= {key: statistics.fmean(one[key] for one in each) for key in each[0]}
    gains = [one["downstream_gain"] for one in each]
    for name, choose in (("least", min), ("median", statistics.median), ("most", max)):
        figures[f"downstream_gain_{name}"] = choose(gains)
    return {key: round(figures[key], 4) for key in SCORES if key in figures}


def score_domain(
    arguments: argparse.Namespace,
    draws: Draws,
    members: list[int],
    evaluators: tuple[DomainEvaluator, DomainEvaluator],
) -> dict[str, float]:
    """Measure what a domain's clients draw together, and what else the options ask for.

    Args:
        arguments: The options.
        draws: The trained module's, of the domain.
        members: The domain's clients.
        evaluators: With our judge and with a plain one.
    """
    evaluator, plain = evaluators
    count = arguments.num_per_class
    quick = EvaluationSettings.quick(10 * count)
    settings = quick if arguments.no_downstream else EvaluationSettings(max_samples=10 * count)
    together, seed = draws.together(members, count), draws.derive_seed()
    figures = evaluator.measure(together, settings, seed)
    if arguments.plain_judge:
        again = plain.measure(together, quick, seed)
        figures |= {f"plain_{key}": value for key, value in again.items()}
    if arguments.each_client:
        single = [evaluator.measure(draws.single(c, count), settings, seed) for c in members]
        figures |= {
            f"each_client_{key}": statistics.fmean(each[key] for each in single)
            for key in single[0]
        }
    return {key: round(figures[key], 4) for key in SCORES if key in figures}


def initialize_apart(module: SplitModule) -> None:
    """Draw the weights of every copy of every block anew, at PyTorch's own scale."""
    torch.manual_seed(module.seed)
    for layer in module.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()


def know_domains(domains: list[str]) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return a rule that gives every client the number of its true domain."""
    labels = np.unique(domains, return_inverse=True)[1]
    return lambda features, seed: labels


def name_row(figures: dict[str, Any]) -> str:
    """Return the row, and the guidance where it is not the usual."""
    drawn = f", guidance {figures['guidance']:g}" if "guidance" in figures else ""
    return f"{figures['row']}{drawn}"


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an output, [] where there is none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def print_tables(found: list[dict[str, Any]]) -> None:
    """Print a Markdown table of every workload: mean and, over seeds, standard deviation."""
    workloads: dict[str, list[dict[str, Any]]] = {}
    for figures in found:
        title = ", ".join(f"{key} {figures[key]}" for key in WORKLOAD)
        workloads.setdefault(title, []).append(figures)
    for title, members in workloads.items():
        print(f"\n{title}\n")
        print_table(members)


def print_table(found: list[dict[str, Any]]) -> None:
    """Print the rows of one workload; of ARI the least over seeds, of seconds the median."""
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    order = [*ROWS, *sorted({figures["row"] for figures in found} - ROWS.keys())]
    for figures in sorted(found, key=lambda f: (f["skew"], f["step"], order.index(f["row"]))):
        groups.setdefault((figures["skew"], figures["step"], name_row(figures)), []).append(figures)
    measured = {key for figures in found for key in next(iter(figures["scores"].values()))}
    columns = [(d, score) for d in found[0]["scores"] for score in SCORES if score in measured]
    titles = ["setting", "steps", "row", "seeds", "ARI by round", "s"]
    titles += [f"{domain} {score.replace('_', ' ')}" for domain, score in columns]
    print("| " + " | ".join(titles) + " |\n|" + "---|" * len(titles))
    for (skew, step, row), each in groups.items():
        rounds = zip(*(figures["ari"] for figures in each), strict=True)
        least = " ".join(f"{min(values):.2f}".removesuffix(".00") for values in rounds)
        seeds = ", ".join(str(figures["seed"]) for figures in each)
        cells = [skew, str(step), row, seeds, least]
        cells.append(f"{statistics.median(figures['seconds'] for figures in each):.0f}")
        for domain, score in columns:
            values = [f["scores"][domain][score] for f in each if score in f["scores"][domain]]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.2f}{spread}" if values else "")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
