"""What the server does at a round's end: decide, mix, and say what came of it."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from ..engines import (
    ClientPrivacy,
    Mixture,
    Moments,
    PrivateAverages,
    Processes,
    count_samples,
    plan_sums,
)
from ..errors import HuscfError, check_complete, check_number
from ..federation import (
    ClusteredPolicy,
    PolicyMemory,
    ReferenceObserver,
    RoundDecision,
    RoundView,
    ServerCopies,
    draw_ring,
    rand_index,
)
from ..methods import Average
from ..parties import PerCluster
from ..randomness import make_rng
from .choosing import let_clients_choose
from .federation_checks import check_federation, read_mixing
from .observation import (
    count_labels,
    observe_batch,
    send_figures,
    send_label_counts,
    start_observer,
    sum_batch,
)
from .rounds import FederatedRun, RoundResult
from .updates import read_compared, send_updates

Observed = Literal["reference", "statistics", "training"]


class Federation:
    """Every few epochs: find clusters, weigh their members, average their blocks.

    Args:
        every_n_epochs: Length of a round in epochs. The end of training ends a round too.
        observe: What tells clients apart: "reference", activations of a client's first batches in
            a round under blocks that never train (huscf.federation.ReferenceBlocks);
            "statistics", a mean and a covariance of these alone, as the client runs all such
            blocks itself; or "training", activations of all its batches under the blocks in
            training, as the paper does. These differ with the moment, so that clients that take
            part by turns are told apart by it.
        observed_samples: Of a client and round, at least so many samples pass the reference
            blocks, or all of its batches.
        statistics_noise: Where clients send "statistics": standard deviation of the noise that is
            added to each sample's numbers first, in units of their root mean square; 0 adds none.
        half_life: Where blocks in training are observed: steps after which a batch counts half;
            0 counts all of a round alike.
        server: "cluster" keeps a copy of the server's blocks per cluster, "shared" one for all;
            {"discriminator": [3]} keeps copies of those blocks, counted from 0, and shares the
            others.
        moments: Adam's moments of averaged blocks: "keep", "average" or "reset".
        secure: Whether the clients of a cluster add up their blocks under masks that cancel out, so
            that the server learns the weighted sum alone; a block that fewer than three of a
            cluster hold stays as it is in that round. Needs the extra deploy.
        privacy: Differential privacy of whole clients against whoever gets an average; None is
            none. Needs a method that keeps all blocks at the clients, and the extra privacy.
        **kwargs: How clusters and weights are found, as of huscf.federation.ClusteredPolicy.

    Attributes:
        policy: What decides clusters and weights.
        private: Averages so that whole clients are hidden; None where they are not.
        memory: What it remembers of earlier rounds.
        decision: What the last round decided; None before the first.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        observe: Observed = "reference",
        observed_samples: int = 64,
        statistics_noise: float = 0.0,
        half_life: float = 4.0,
        server: ServerCopies = "cluster",
        moments: Moments = "keep",
        secure: bool = False,
        privacy: ClientPrivacy | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value, least in (
            ("every_n_epochs", every_n_epochs, 1),
            ("observed_samples", observed_samples, 2),
            ("half_life", half_life, 0),
            ("statistics_noise", statistics_noise, 0),
        ):
            check_number(f"federation.{name}", value, least)
        self.every_n_epochs = every_n_epochs
        self.observe = observe
        self.observed_samples = observed_samples
        self.statistics_noise = statistics_noise
        if statistics_noise and observe != "statistics":
            raise HuscfError(
                "federation.statistics_noise: is of statistics; set federation.observe to them"
            )
        self.half_life = half_life
        self.server = server
        self.moments: Moments = moments
        self.secure = secure
        self.private = None if privacy is None else PrivateAverages(privacy)
        self.policy = ClusteredPolicy(**kwargs)
        if observe == "statistics" and self.policy.divergence == "positions":
            raise HuscfError(
                "federation.divergence: positions are of maps, which clients that send statistics "
                "keep; set it to gaussian, or federation.observe to reference"
            )
        self.memory = PolicyMemory()
        self.decision: RoundDecision | None = None
        self.observer: ReferenceObserver | None = None
        self.label_counts: dict[int, Tensor] = {}
        self._compared: dict[int, Tensor] = {}  # clients' blocks as the round began
        self._chose_in = 0  # the round for which clients chose last
        self._saved_observer: dict[str, Any] | None = None
        self._processes = Processes()
        self._counts_labels = False

    @property
    def per_cluster(self) -> PerCluster:
        """Return the option `server` as an engine takes it."""
        return self.server if isinstance(self.server, Mapping) else self.server == "cluster"

    def state_dict(self) -> dict[str, Any]:
        """Return the policy's memory, and what was observed since the last round."""
        observer = self._saved_observer if self.observer is None else self.observer.state_dict()
        return {
            "memory": self.memory.state_dict(),
            "observer": observer,
            "label_counts": self._add_up_labels(),
            "compared": dict(self._compared),
            "chose_in": self._chose_in,
            "private": None if self.private is None else self.private.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state."""
        older = {"compared", "chose_in", "private"}  # what older checkpoints lack
        check_complete(state_dict, self.state_dict().keys() - older)
        self.memory = PolicyMemory.from_state_dict(state_dict["memory"])
        self._saved_observer = state_dict["observer"]
        self.label_counts = dict(state_dict["label_counts"])
        self._compared = dict(state_dict.get("compared", {}))
        self._chose_in = state_dict.get("chose_in", 0)
        if self.private is not None:
            self.private.load_state_dict(state_dict.get("private"))

    def begin(self, module: FederatedRun) -> None:
        """Before the first step: keep the reference blocks, part whom the policy parts anyway.

        Raises:
            HuscfError: Where the run cannot be federated like this; see `check_federation`.
        """
        clusters = self.policy.first_clusters(list(module.engine.clusters), module.seed)
        check_federation(self, module, clusters)
        module.server.statistics.half_life = self.half_life
        if self.policy.needs_features and self.observe != "training":
            self.observer = start_observer(module, self.observed_samples)
            if self._saved_observer is not None:
                self.observer.load_state_dict(self._saved_observer)
            module.engine.further_statistics = [self.observer.statistics]
        self._processes = module.engine.processes
        self._counts_labels = self.policy.needs_labels or module.method.num_shared > 0
        held = self._processes.holds
        self.label_counts = {c: own for c, own in self.label_counts.items() if held(c)}
        if self.policy.needs_updates:
            self._compared = {**read_compared(module), **self._compared}
        if module.num_rounds == 0 and clusters is not None:
            module.engine.set_clusters(clusters, self.per_cluster)

    def check_replanning(self, every_n_rounds: int) -> None:
        """Refuse blocks that move between clients and server where single ones are hidden.

        Args:
            every_n_rounds: How often that may be; 0 never.
        """
        hides = {"secure to false": self.secure, "privacy to null": self.private is not None}
        for option in (option for option, is_set in hides.items() if is_set and every_n_rounds):
            raise HuscfError(
                "replanning.every_n_rounds: moved blocks cross in the clear; set it to 0, or "
                f"federation.{option}"
            )

    def check_budget(self) -> None:
        """Refuse, before anything is trained, a budget of privacy without room for another round.

        Raises:
            HuscfError: Naming the option.
        """
        if self.private is not None:
            self.private.check_budget()

    def is_last_round(self) -> bool:
        """Return whether the budget of privacy has room for the present round and no other."""
        return self.private is not None and not self.private.allows(2)

    def is_spent(self) -> bool:
        """Return whether the budget of privacy has no room for another round."""
        return self.private is not None and not self.private.allows(1)

    def observe_batch(
        self, module: FederatedRun, batch: Mapping[int, tuple[Tensor, Tensor]]
    ) -> None:
        """Take a step's batches, uint8 samples and labels by client; call it before the step."""
        if self.policy.lets_choose and self._chose_in < module.num_rounds:
            self._chose_in = module.num_rounds
            let_clients_choose(module, batch, self.per_cluster, self.moments)
        if not self._counts_labels and self.observer is None:
            return
        own = module.engine.choose_own(count_samples(batch))
        if self._counts_labels:
            count_labels(self.label_counts, module, {c: batch[c] for c in own})
        if self.observer is not None:
            wanted = {c: batch[c] for c in own if self.observer.wants(c)}
            if self.observe == "statistics":
                sum_batch(self.observer, module, wanted, self.statistics_noise)
            else:
                observe_batch(self.observer, module, wanted)

    def end_round(
        self, module: FederatedRun, is_last: bool, domains: Mapping[int, str] | None = None
    ) -> RoundResult:
        """Decide, average, and return what came of it.

        Args:
            module: Whose round ends.
            is_last: Whether training ends with it.
            domains: True domain by client, where it is known; adds federation/ari.
        """
        known = self.memory.loud
        decision = self.decide(module)
        mixture = self.apply(module, decision)
        compares_cuts = self.policy.needs_features and self.observe == "training"
        result = RoundResult(module.num_rounds, decision, mixture, is_last, compares_cuts)
        if new := sorted(decision.loud - known):
            result.warnings.append(
                f"federation: clients {new} send activations that no sample yields, far larger, "
                "smaller or farther off than the others': they are averaged with nobody"
            )
        if self.secure:
            reasons = plan_sums(module.engine.plan, mixture).explain()
            if reasons:
                more = f", and {len(reasons) - 1} blocks more alike" if len(reasons) > 1 else ""
                result.warnings.append(
                    f"federation.secure: {reasons[0]}{more}: these keep their own; sums need three"
                )
        result.figures["round"] = module.num_rounds
        result.figures.update({f"federation/{n}": v for n, v in decision.figures().items()})
        result.figures.update(module.engine.figures())
        if self.private is not None:
            result.figures.update(self.private.figures())
        if domains:
            result.figures["federation/ari"] = rand_index(decision.placed_clusters, domains)
        return result

    def should_federate(self, epoch: int) -> bool:
        """Return whether a round ends with this epoch (0-based)."""
        return (epoch + 1) % self.every_n_epochs == 0

    def decide(self, module: FederatedRun) -> RoundDecision:
        """Return what the policy makes of what the server saw in the round; changes nothing."""
        seen = module.engine.observe()
        summary = seen.summary
        if self.observer is not None:
            statistics = self.observer.statistics
            if self.observe == "statistics":
                statistics = module.engine.gather_sums(statistics)
            summary = statistics.summarize(seen.sizes) if statistics.client_ids else None
        view = RoundView(
            number=module.num_rounds,
            seed=module.seed,
            sizes=seen.sizes,
            clusters=seen.clusters,
            summary=summary,
            diverged=seen.diverged,
            label_counts=self._tell_labels(module) if self.policy.needs_labels else {},
            updates=send_updates(self._compared, module) if self.policy.needs_updates else {},
        )
        return self.policy.decide(view, self.memory)

    def apply(self, module: FederatedRun, decision: RoundDecision) -> Mixture:
        """Average within the clusters, remember the decision, and begin a new round."""
        self.decision, self.memory = decision, decision.memory
        if self.observer is not None:
            self.observer.statistics.reset()
        mixture = Mixture(
            decision.clusters,
            decision.weights,
            self.per_cluster,
            self.moments,
            self.choose_givers(module, decision),
            self.choose_averages(module, decision),
            self.secure,
            self.private,
        )
        module.engine.mix(mixture)
        self._share(module)
        self.label_counts = {}
        if self.policy.needs_updates:
            self._compared = read_compared(module)
        module.num_rounds += 1
        return mixture

    def choose_averages(self, module: FederatedRun, decision: RoundDecision) -> dict[str, Average]:
        """Return, of the networks that the method averages in its own way, how."""
        method, number = module.method, module.num_rounds
        plain, told = Average(decision.clusters, decision.weights), send_figures(module)
        networks = module.engine.plan.networks
        averages = {n: method.average(n, number, plain, told) for n in networks}
        return {network: each for network, each in averages.items() if each != plain}

    def _add_up_labels(self) -> dict[int, Tensor]:
        """Return what all processes' clients have counted."""
        counts = self.label_counts
        return self._processes.add_up(counts) if self._counts_labels else dict(counts)

    def choose_givers(
        self, module: FederatedRun, decision: RoundDecision
    ) -> dict[str, dict[int, int]]:
        """Return, of the networks that the method does not average, who goes on with whose."""
        number, found = module.num_rounds, {}
        for network in module.engine.plan.networks:
            mixing = read_mixing(module.method, network, number)
            if mixing == "swap":
                stream = make_rng(module.seed, f"ring of the {network}", number)
                found[network] = draw_ring(decision.clusters, stream)
            elif mixing in ("keep", "share"):
                found[network] = {client: client for client in decision.clusters}
        return found

    def _share(self, module: FederatedRun) -> None:
        """Let clients get samples of each other's, of networks that the method shares."""
        number = module.num_rounds
        for network in module.engine.plan.networks:
            if read_mixing(module.method, network, number) == "share":
                module.engine.share(network, self._tell_labels(module), number)

    def _tell_labels(self, module: FederatedRun) -> dict[int, tuple[int, ...]]:
        return send_label_counts(self._add_up_labels(), module)
