"""The root module: builds clients and server from one set of weights, logs, samples, saves."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from ..errors import CheckpointError, HuscfError, check_complete
from ..metrics import EvaluationSettings, InceptionFeatures, to_float
from ..models import (
    AdversarialLoss,
    BatchStatistics,
    ConditionalDiscriminator,
    ConditionalGenerator,
    Network,
    NonSaturatingLoss,
    SampleShape,
    check_networks,
    initialize_weights,
)
from ..randomness import derive_seed, make_generator
from ..split import (
    NETWORK_NAMES,
    CutPlan,
    Exchange,
    NetworkName,
    PlanRequest,
    PlanSource,
    UniformPlan,
    UPass,
)
from .client import Client
from .evaluation import DomainEvaluator, DomainScores, Effort, score_domain
from .mismatch import mismatch_labels
from .optimizer_state import Moments, copy_state, replace_parameters
from .parties import Parties
from .segment import Segment, run_side_by_side
from .server import Normalization, PerCluster, Server

OnNonFinite = Literal["stop", "drop"]
HeldName = Literal["samples", "labels", "wrong_labels", "noise"]
Step = Callable[["SplitGAN", Any], dict[str, float]]


class SplitGAN(LightningModule):
    """A conditional GAN whose generator and discriminator are cut in three for every client.

    Everybody starts from one set of weights. The steps themselves are run by
    huscf.loops.UShapedLoop, which huscf.callbacks.SplitTraining installs.

    Args:
        sample_shape: Shape of the samples; the command line takes it from the data.
        batch_sizes: Samples per step by client id; the command line takes it from the data.
        client_sizes: Training samples by client id; the command line takes it from the data.
        generator: Class or function that returns the generator's blocks.
        discriminator: Class or function that returns the discriminator's blocks.
        plan: Where the cuts come from; None holds one block at each end.
        latent_dim: Length of the noise vector.
        loss: Adversarial loss; None is the non-saturating cross-entropy of the paper.
        exchange: The wire between clients and server; None carries everything unchanged. One that
            overrides anything runs in one thread, so that what it draws is reproducible.
        generator_lr: Adam's learning rate of all generator parts. Measured: narrow networks
            (width 16) learn faster with 1e-3, the paper's with 5e-4.
        discriminator_lr: Adam's learning rate of all discriminator parts.
        betas: Adam's decay rates.
        mismatched_weight: Weight of the discriminator's loss on real samples with wrong labels,
            which teach it, and through it the generator, to heed labels (Reed et al. 2016,
            section 4.2): at 1, better samples within few hundred steps and less varied ones
            later. The server then sees a sample's activations under two labels. 0 leaves that
            pass out, as the paper does.
        mismatched_steps: Steps within which that weight falls linearly to 0; None keeps it.
        weight_std: Standard deviation of the initial weights; None keeps PyTorch's own scale.
        ema_decay: Samples are drawn from an exponential moving average over steps of every
            generator part, with this decay and a warm-up; 0 draws from the trained parts.
        server_gradient: How clients count in the server's gradient: "uniform" or "samples"
            (in proportion to their number of training samples).
        server_normalization: Over whom the server's batch norms take their statistics in a step:
            each "client" alone, or all clients that share its blocks "together" (the paper's
            way, by which clients leak into each other's activations).
        on_nonfinite: When a client yields NaN or Inf: "stop" naming it, or "drop" it from the
            step's half, as if it had not been there, and from the rest, and count that.
        num_evaluated_per_class: Samples of each class and domain that validate and test draw.
        num_evaluated_clients: At most so many clients of a domain are tested one by one, which
            gives the spread over clients; 0 leaves that out.
        num_evaluated_seeds: Test draws and measures all clients' samples together so many times,
            downstream classifiers included, which gives the spread over seeds.
        plain_judge: Rest scores on a plain CNN trained for 15 epochs, which is surer of itself: for
            comparison with the paper's scores (docs/evaluation.md).
        inception: Weights with which test measures FID and KID too; None leaves them out.
        seed: Seed of initial weights, noise and sampling; linked to seed_everything.
    """

    def __init__(
        self,
        sample_shape: SampleShape,
        batch_sizes: Mapping[int, int],
        client_sizes: Mapping[int, int],
        generator: Callable[[SampleShape, int], Network] = ConditionalGenerator,
        discriminator: Callable[[SampleShape], Network] = ConditionalDiscriminator,
        plan: PlanSource | None = None,
        latent_dim: int = 100,
        loss: AdversarialLoss | None = None,
        exchange: Exchange | None = None,
        generator_lr: float = 5e-4,
        discriminator_lr: float = 5e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        mismatched_weight: float = 0.0,
        mismatched_steps: int | None = 200,
        weight_std: float | None = 0.02,
        ema_decay: float = 0.98,
        server_gradient: Literal["uniform", "samples"] = "uniform",
        server_normalization: Normalization = "client",
        on_nonfinite: OnNonFinite = "stop",
        num_evaluated_per_class: int = 500,
        num_evaluated_clients: int = 16,
        num_evaluated_seeds: int = 3,
        plain_judge: bool = False,
        inception: InceptionFeatures | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(num_evaluated_per_class, num_evaluated_seeds) < 1 or num_evaluated_clients < 0:
            raise HuscfError(
                "model.num_evaluated_per_class and num_evaluated_seeds must be >= 1, "
                "num_evaluated_clients >= 0"
            )
        if min(generator_lr, discriminator_lr) < 0 or not all(0 <= beta < 1 for beta in betas):
            raise HuscfError(
                "model: generator_lr and discriminator_lr must be >= 0, betas from 0 to below 1"
            )
        if mismatched_weight < 0:
            raise HuscfError(f"model.mismatched_weight is {mismatched_weight}, must be >= 0")
        if mismatched_steps is not None and mismatched_steps < 1:
            raise HuscfError(f"model.mismatched_steps is {mismatched_steps}, must be >= 1 or null")
        self.automatic_optimization = False
        self.sample_shape = sample_shape
        self.client_sizes = dict(client_sizes)
        self.latent_dim = latent_dim
        self.loss = loss or NonSaturatingLoss()
        self.learning_rates = {"generator": generator_lr, "discriminator": discriminator_lr}
        self.betas = betas
        self.mismatched_weight = mismatched_weight
        self.mismatched_steps = mismatched_steps
        self.server_gradient = server_gradient
        self.on_nonfinite = on_nonfinite
        self.num_evaluated_per_class = num_evaluated_per_class
        self.num_evaluated_clients = num_evaluated_clients
        self.num_evaluated_seeds = num_evaluated_seeds
        self.plain_judge = plain_judge
        self.inception = inception
        self.seed = seed
        self.exchange = exchange or Exchange()
        self.num_dropped = dict.fromkeys(sorted(batch_sizes), 0)
        self.num_rounds = 0
        self.round_metrics: dict[str, float] = {}
        self.last_losses: dict[str, float] = {}
        self.scores: list[DomainScores] = []
        self.unscored: dict[str, HuscfError] = {}
        self._evaluators: dict[str, DomainEvaluator] = {}

        networks = self._build_networks(generator, discriminator, weight_std)
        request = PlanRequest(
            networks["generator"],
            networks["discriminator"],
            sample_shape,
            latent_dim,
            dict(batch_sizes),
            seed,
            # The steps that most of a long run consists of.
            discriminator_batches=3 if mismatched_weight and mismatched_steps is None else 2,
        )
        self.plan_source = plan or UniformPlan()
        cuts = self.plan_source.make_plan(request)
        self.parties = Parties(cuts, networks, server_normalization)
        self.ema_decay = ema_decay
        self.averaged: Parties | None = None
        if ema_decay > 0:
            self.averaged = Parties(cuts, {"generator": networks["generator"]})
            self.averaged.requires_grad_(False)

    # What the loop calls

    @property
    def plan(self) -> CutPlan:
        """Return the cuts of all clients."""
        return self.parties.plan

    @property
    def clusters(self) -> dict[int, int]:
        """Return the cluster of every client."""
        return self.parties.clusters

    @property
    def server(self) -> Server:
        """Return the server."""
        return self.parties.server

    def client(self, client_id: int) -> Client:
        """Return one client."""
        return self.parties.client(client_id)

    def training_step(self, batch: Any, batch_idx: int, step: Step | None = None) -> None:
        """Log the mean losses of the step that the loop hands in and that runs it."""
        if step is None:
            raise HuscfError("training needs huscf.callbacks.SplitTraining among the callbacks")
        self.last_losses = step(self, batch)
        for name, value in self.last_losses.items():
            self.log(
                f"train/{name}", value, on_step=False, on_epoch=True, logger=False, batch_size=1
            )

    def start_step(self, client_id: int, samples: Tensor, labels: Tensor, step: int) -> None:
        """Hand a client its own batch and noise.

        Args:
            client_id: The client.
            samples: (B, C, H, W) uint8 in [0, 255].
            labels: (B,) int64.
            step: Number of the step; with the seed and the client it fixes the noise.
        """
        stream = make_generator(self.seed, "training noise", client_id, step)
        noise = torch.randn(len(labels), self.latent_dim, generator=stream)
        wrong_labels = None
        if self.weigh_mismatched(step) > 0:
            stream = make_generator(self.seed, "wrong labels", client_id, step)
            wrong_labels = mismatch_labels(labels, stream)
        self.client(client_id).hold(to_float(samples), labels, noise.to(self.device), wrong_labels)

    def weigh_mismatched(self, step: int) -> float:
        """Return the weight of the loss on real samples with wrong labels in a step."""
        if self.mismatched_steps is None:
            return self.mismatched_weight
        return self.mismatched_weight * max(0.0, 1 - step / self.mismatched_steps)

    def groups(self, client_ids: Sequence[int]) -> list[list[list[int]]]:
        """Divide the participants of a step, in fixed order, into groups of lanes; see Server."""
        labels = {client_id: self.client(client_id).labels for client_id in client_ids}
        sizes = {client_id: len(own) for client_id, own in labels.items() if own is not None}
        return self.server.groups(sizes, self.is_stackable)

    def is_stackable(self, client_id: int) -> bool:
        """Return whether all blocks that serve a client may run beside those of others."""
        return self.client(client_id).is_stackable and self.server.is_stackable(client_id)

    def can_run_at_once(self, client_ids: Sequence[int]) -> bool:
        """Return whether groups may run in several threads: no block changes what they share."""
        return self.server.normalization == "client" and all(map(self.is_stackable, client_ids))

    def held(self, lane: Sequence[int], name: HeldName) -> Tensor:
        """Return what the clients of a lane hold in this step, (B, K, ...)."""
        each = [getattr(self.client(client_id), name) for client_id in lane]
        return each[0].unsqueeze(1) if len(each) == 1 else torch.stack(each, 1)

    def run_group(
        self,
        network: NetworkName,
        lanes: Sequence[list[int]],
        inputs: Sequence[Tensor],
        labels: HeldName = "labels",
        observe: bool = False,
        pending: list[BatchStatistics] | None = None,
        exchange: Exchange | None = None,
    ) -> UPass:
        """Run one network forward for the clients of one group.

        Args:
            network: Which network.
            lanes: The group's clients.
            inputs: Of every lane, (B, K, ...) noise for the generator, samples for the
                discriminator; they stay with the clients.
            labels: Which labels the first block gets, the clients' own or wrong ones.
            observe: Let the server add the activations to its statistics.
            pending: Gets what running statistics have to follow; None lets them follow at once.
            exchange: The wire; None is the run's.
        """

        def segments(lane: Sequence[int], end: str) -> list[Segment]:
            return [self.client(client_id).segment(network, end) for client_id in lane]

        heads = []
        for lane, own in zip(lanes, inputs, strict=True):
            conditions = self.held(lane, labels)
            output = run_side_by_side(segments(lane, "head"), own, conditions, pending)
            heads.append((lane, output))
        return UPass.run(
            exchange or self.exchange,
            network,
            heads,
            partial(self.server, network, lanes, observe=observe, pending=pending),
            lambda lane, own: run_side_by_side(segments(lane, "tail"), own, None, pending),
            self.server.parameters_used(network, lanes[0][0]),
        )

    def run_u(self, network: NetworkName, client_id: int, inputs: Tensor) -> UPass:
        """Run one network forward for one client; see run_group."""
        return self.run_group(network, [[client_id]], [inputs.unsqueeze(1)])

    def update_average(self, step: int) -> None:
        """Let the averaged generators follow the trained ones.

        Args:
            step: Number of the step just made; early steps count more, so that the average
                does not remember the initial weights.
        """
        if self.averaged is not None:
            decay = min(self.ema_decay, (1 + step) / (10 + step))
            self.averaged.follow(self.parties, decay)

    def server_shares(self, client_ids: Sequence[int]) -> dict[int, float]:
        """Return each participant's share in the server's gradient; they sum to 1."""
        sizes = {c: self.client_sizes[c] for c in client_ids}
        if self.server_gradient == "uniform":
            return {c: 1.0 / len(sizes) for c in sizes}
        total = sum(sizes.values())
        return {c: size / total for c, size in sizes.items()}

    def optimizer(self, network: NetworkName) -> LightningOptimizer:
        """Return the optimiser of all parts of one network."""
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        return optimizers[NETWORK_NAMES.index(network)]

    def configure_optimizers(self) -> list[Optimizer]:
        """Return one fused Adam per network; it works element by element, so parties stay apart."""
        return [
            Adam(
                self.parties.parameters_of(network),
                lr=self.learning_rates[network],
                betas=self.betas,
                fused=True,
            )
            for network in NETWORK_NAMES
        ]

    # What a federation calls

    def federate(
        self,
        clusters: Mapping[int, int],
        weights: Mapping[int, float],
        per_cluster: PerCluster = True,
        moments: Moments = "keep",
    ) -> None:
        """Close a round: take over the clusters, average within them, start new statistics.

        Args:
            clusters: Cluster of every client, 0..k-1.
            weights: Weight of every client; those of a cluster sum to 1.
            per_cluster: Which of the server's blocks every cluster has a copy of its own of:
                all, none, or those listed by network.
            moments: What happens to the moments of averaged blocks.
        """
        self.parties.federate(clusters, weights, per_cluster, self._raw_optimizers(), moments)
        self._follow({})  # what was cloned brought its moments before they were averaged
        sent = [*self.parties.federation_bytes(moments)]
        if self.averaged is not None:
            self.averaged.federate(clusters, weights, per_cluster)
            sent += self.averaged.federation_bytes()
        for client_id, cut, num_bytes in sent:
            self.exchange.count(client_id, cut, "uplink", num_bytes)
            self.exchange.count(client_id, cut, "downlink", num_bytes)
        self.server.statistics.reset()
        self.num_rounds += 1

    def set_clusters(self, clusters: Mapping[int, int], per_cluster: PerCluster = True) -> None:
        """Take over clusters and give each its copies of the server's blocks; see `federate`."""
        self._follow(self.parties.set_clusters(clusters, per_cluster))
        if self.averaged is not None:
            self.averaged.set_clusters(clusters, per_cluster)

    def apply_plan(self, plan: CutPlan) -> None:
        """Move blocks between clients and server, with their optimiser state.

        Args:
            plan: New cuts of the same clients and networks; meant for a round's boundary.
        """
        self._follow(self.parties.apply_plan(plan))
        if self.averaged is not None:
            self.averaged.apply_plan(plan)

    def report(self, name: str, value: float) -> None:
        """Log a figure of the round that just ended; it becomes a column of metrics.csv."""
        self.round_metrics[name] = value
        self.log(name, value, logger=False, batch_size=1)

    def sampling_network(self, client_id: int) -> Network:
        """Return the generator that a client draws from, sharing the run's tensors."""
        return (self.averaged or self.parties).merged_network("generator", client_id)

    def sample(self, client_id: int, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw samples as one client would; changes no state.

        Args:
            client_id: Whose generator.
            labels: (N,) int64 classes to draw.
            generator: CPU random stream of the noise.

        Returns:
            (N, C, H, W) float32 in [-1, 1], on the CPU.
        """
        network = self.sampling_network(client_id)
        modes = [(module, module.training) for module in network.modules()]
        network.eval()
        try:
            with torch.no_grad():
                noise = torch.randn(len(labels), self.latent_dim, generator=generator)
                chunks = zip(noise.split(1024), labels.split(1024), strict=True)
                drawn = [network(z.to(self.device), y.to(self.device)) for z, y in chunks]
        finally:
            for module, mode in modes:
                module.training = mode
        return torch.cat(drawn).float().cpu()

    # What Lightning calls

    def on_validation_start(self) -> None:
        """Forget the scores of an earlier validation."""
        self.scores, self.unscored = [], {}

    def on_test_start(self) -> None:
        """Forget the scores of an earlier test; say at once if Inception cannot be loaded."""
        self.scores, self.unscored = [], {}
        if self.inception is not None:
            _ = self.inception.extractor

    def validation_step(self, domain_name: str, batch_idx: int) -> None:
        """Log quick scores of one domain."""
        self._score(domain_name, "val", EvaluationSettings.quick(), num_seeds=1, num_clients=0)

    def test_step(self, domain_name: str, batch_idx: int) -> None:
        """Log all scores of one domain, over seeds, and measure its clients one by one."""
        settings = EvaluationSettings(inception=self.inception)
        seeds, clients = self.num_evaluated_seeds, self.num_evaluated_clients
        self._score(domain_name, "test", settings, seeds, clients)

    def on_validation_epoch_end(self) -> None:
        """Warn of domains that could not be scored."""
        self._report_unscored()

    def on_test_epoch_end(self) -> None:
        """Warn of domains that could not be scored."""
        self._report_unscored()

    def evaluator(self, domain_name: str) -> DomainEvaluator:
        """Return what measures a domain of the trainer's data; made once."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        domain = data.domains[domain_name]
        known = self._evaluators.get(domain_name)
        if known is None or known.domain is not domain:
            spectrogram = getattr(data, "spectrogram", None)
            range_db = spectrogram and spectrogram.range_db
            known = DomainEvaluator(domain, range_db, self.plain_judge)
            self._evaluators[domain_name] = known
        return known

    def predict_step(self, client_id: int, batch_idx: int) -> dict[str, Tensor]:
        """Draw ten samples of every class from one client.

        Returns:
            samples (N, C, H, W) in [-1, 1], labels, client and cluster (N,).
        """
        labels = torch.arange(self.sample_shape.num_classes).repeat_interleave(10)
        stream = make_generator(self.seed, "prediction", client_id)
        return {
            "samples": self.sample(client_id, labels, stream),
            "labels": labels,
            "client": torch.full_like(labels, client_id),
            "cluster": torch.full_like(labels, self.clusters[client_id]),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is not in the parameters: plan, clusters, statistics, counters, RNG."""
        checkpoint["huscf"] = self._run_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over plan, clusters and counters before the parameters are loaded."""
        saved = checkpoint.get("huscf", {})
        check_complete(saved, self._run_state())
        plan = CutPlan.from_dict(saved["plan"])
        sizes = (plan.generator_blocks, plan.discriminator_blocks, plan.client_ids)
        own = (self.plan.generator_blocks, self.plan.discriminator_blocks, self.plan.client_ids)
        if sizes != own:
            raise CheckpointError(
                "the checkpoint is of other networks or clients (blocks, blocks, client ids): "
                f"{sizes}, here {own}"
            )
        for parties in filter(None, (self.parties, self.averaged)):
            parties.restore(plan, saved["clusters"], saved["route"], saved["per_cluster"])
        _check_same_network(checkpoint["state_dict"], self.state_dict())
        self.server.statistics.load_state_dict(saved["statistics"])
        self.exchange.num_bytes.clear()
        self.exchange.num_bytes.update({tuple(key): n for *key, n in saved["num_bytes"]})
        self.num_dropped = dict(saved["num_dropped"])
        self.num_rounds = saved["num_rounds"]
        torch.set_rng_state(saved["torch_rng"].cpu())

    # Helpers

    def _run_state(self) -> dict[str, Any]:
        return {
            "plan": self.plan.to_dict(),
            "clusters": self.clusters,
            "route": self.server.route,
            "per_cluster": self.server.per_cluster,
            "statistics": self.server.statistics.state_dict(),
            # Sorted: the order in which threads have met clients is chance.
            "num_bytes": sorted([*key, count] for key, count in self.exchange.num_bytes.items()),
            "num_dropped": self.num_dropped,
            "num_rounds": self.num_rounds,
            "torch_rng": torch.get_rng_state(),
        }

    def _score(
        self,
        domain_name: str,
        phase: str,
        settings: EvaluationSettings,
        num_seeds: int,
        num_clients: int,
    ) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        members = [c for c, name in data.client_domains.items() if name == domain_name]
        effort = Effort(self.num_evaluated_per_class, num_seeds, num_clients)
        # In full precision whatever the trainer's, like the evaluation during training: a judge
        # that is trained here is kept for other runs.
        with (
            torch.autocast("cpu", enabled=False),
            torch.autocast(self.device.type, enabled=False),
        ):
            try:
                scores = score_domain(self, self.evaluator(domain_name), members, settings, effort)
            except HuscfError as error:
                self.unscored[domain_name] = error
                return
        self.scores.append(scores)
        for name, value in scores.together.items():
            self.log(f"{phase}/{domain_name}/{name}", value, batch_size=1)

    def _report_unscored(self) -> None:
        """Warn of every domain without scores; raise what the first one met if none has any."""
        if self.unscored and not self.scores:
            raise next(iter(self.unscored.values()))
        for name, error in self.unscored.items():
            rank_zero_warn(f"{name}: not scored: {error}")

    def _build_networks(
        self,
        generator: Callable[[SampleShape, int], Network],
        discriminator: Callable[[SampleShape], Network],
        weight_std: float | None,
    ) -> dict[NetworkName, Network]:
        with torch.random.fork_rng(devices=[]):
            # Unlike torch.manual_seed, this leaves the accelerators' streams alone.
            torch.default_generator.manual_seed(derive_seed(self.seed, "initial weights"))
            networks: dict[NetworkName, Network] = {
                "generator": generator(self.sample_shape, self.latent_dim),
                "discriminator": discriminator(self.sample_shape),
            }
            check_networks(
                networks["generator"], networks["discriminator"], self.sample_shape, self.latent_dim
            )
            if weight_std is not None:
                for network in networks.values():
                    initialize_weights(network, weight_std)
        return networks

    def _follow(self, cloned_from: Mapping[nn.Parameter, nn.Parameter]) -> None:
        """Let the optimisers hold the parties' present parameters."""
        for network, optimizer in self._raw_optimizers().items():
            copy_state(optimizer, cloned_from)
            replace_parameters(optimizer, self.parties.parameters_of(network))

    def _raw_optimizers(self) -> dict[NetworkName, Optimizer]:
        if self._trainer is None:
            return {}
        raw = self.trainer.optimizers
        return dict(zip(NETWORK_NAMES, raw, strict=True))


def _check_same_network(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise a CheckpointError that names the first tensor in which two networks differ."""
    for name in [*own, *saved]:
        shapes = [list(state[name].shape) if name in state else "none" for state in (saved, own)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"the checkpoint is of another network: {name} is {shapes[0]}, here {shapes[1]}"
            )
