"""The root module: a method and an engine, with logging, sampling and checkpoints."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from ..engines import (
    DifferentialPrivacy,
    LocalEngine,
    OnNonFinite,
    PrivateEngine,
    RankedEngine,
    Ranks,
    SerialEngine,
    ServerGradient,
    StackedEngine,
    StepResult,
)
from ..errors import HuscfError
from ..methods import HuscfGan, Method, build_networks, request_plan
from ..metrics import InceptionFeatures
from ..metrics.evaluation import Effort, ScoreBook, TestProtocol
from ..models import SampleShape
from ..parties import Client, Server
from ..planning import StepCosts
from ..split import CutPlan, PlanSource, UniformPlan
from ..wire import Wire
from .checkpoint_checks import (
    FORMAT,
    add_fresh,
    check_moments,
    check_run,
    check_same_network,
)
from .evaluated_module import EvaluatedModule

EngineName = Literal["stacked", "serial"]
ENGINES: dict[EngineName, type[LocalEngine]] = {"stacked": StackedEngine, "serial": SerialEngine}


class StepRunner(Protocol):
    """What the loop hands to the training step, and that runs it."""

    def __call__(self, module: "SplitModule", batch: Any) -> StepResult:
        """Run a step."""


class SplitModule(EvaluatedModule):
    """Trains a method's networks, cut for every client, by an engine.

    Everybody starts from one set of weights. The steps themselves are run by
    huscf.training.UShapedLoop, which huscf.callbacks.SplitTraining installs.

    Args:
        sample_shape: Shape of the samples; the command line takes it from the data.
        batch_sizes: Samples per step by client id; the command line takes it from the data.
        client_sizes: Training samples by client id; the command line takes it from the data.
        method: What is trained; None is HuSCF-GAN with its defaults.
        plan: Where the cuts come from; None holds the fewest blocks that the method allows.
        wire: What passes between clients and server; None carries everything unchanged. One that
            overrides anything runs in one thread, so that what it draws is reproducible.
        engine: How steps are run: "stacked" is fast, "serial" the reference that reads like the
            paper; they give the same, to rounding.
        server_gradient: How clients count in the server's gradient: "uniform" or "samples"
            (in proportion to their number of training samples).
        on_nonfinite: When a client sends NaN, Inf or values 10,000 times the usual: "stop" ends
            the run and names it; "drop" leaves it out of this phase, as if it had not been there,
            and of the rest of the step, and counts that.
        privacy: Differential privacy of every client's single records, which needs the serial
            engine and data.sampling poisson; None is none.
        num_evaluated_per_class: Samples of each class and domain that validate and test draw.
        num_evaluated_clients: At most so many clients of a domain are tested one by one, which
            gives the spread over clients; 0 leaves that out.
        num_evaluated_seeds: Test draws and measures all clients' samples together so many times,
            downstream classifiers included, which gives the spread over seeds.
        num_yardstick_clients: Of at most so many clients of a domain, test measures what a
            classifier reaches with their own real data, with their generated samples and with
            both; 0 leaves that out.
        protocol: How test measures: "huscf", or "paper" (30,000 samples, a classifier trained for
            15 epochs, a plain judge), printed beside the paper's figures; on the command line
            also --protocol paper.
        plain_judge: Rest scores on a plain CNN trained for 15 epochs, which is surer of itself: for
            comparison with the paper's scores (docs/evaluation.md).
        inception: Weights with which test measures FID and KID too; None leaves them out.
        seed: Seed of initial weights, noise and sampling; linked to seed_everything.

    Attributes:
        only_draws: Whether it may be loaded from a whole generator and nothing else, as a site
            of a run over a network has it.
    """

    def __init__(
        self,
        sample_shape: SampleShape,
        batch_sizes: Mapping[int, int],
        client_sizes: Mapping[int, int],
        method: Method | None = None,
        plan: PlanSource | None = None,
        wire: Wire | None = None,
        engine: EngineName = "stacked",
        server_gradient: ServerGradient = "uniform",
        on_nonfinite: OnNonFinite = "stop",
        privacy: DifferentialPrivacy | None = None,
        num_evaluated_per_class: int = 500,
        num_evaluated_clients: int = 16,
        num_evaluated_seeds: int = 3,
        num_yardstick_clients: int = 4,
        protocol: TestProtocol = "huscf",
        plain_judge: bool = False,
        inception: InceptionFeatures | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.sample_shape = sample_shape
        self.batch_sizes, self.client_sizes = dict(batch_sizes), dict(client_sizes)
        self.method = method or HuscfGan()
        effort = Effort(
            num_evaluated_per_class,
            num_evaluated_seeds,
            num_evaluated_clients,
            num_yardstick_clients,
        )
        self.score_book = ScoreBook(effort, plain_judge, inception, protocol)
        self.seed = seed
        self.num_rounds = 0
        self.last_losses: dict[str, float] = {}
        self._saved_optimizers: dict[str, Any] = {}
        self.only_draws = False
        self.plan_source = plan or UniformPlan()
        options = (wire, server_gradient, on_nonfinite, self.seed)
        self.engine = self._build_engine(engine, batch_sizes, options, privacy)
        self.parties = self.engine.parties

    @property
    def plan(self) -> CutPlan:
        """Return the cuts of all clients."""
        return self.engine.plan

    @property
    def clusters(self) -> dict[int, int]:
        """Return the cluster of every client."""
        return self.engine.clusters

    @property
    def server(self) -> Server:
        """Return the server."""
        return self.engine.server

    @property
    def wire(self) -> Wire:
        """Return the wire."""
        return self.engine.wire

    def spread_over(self, ranks: Ranks) -> None:
        """Let several processes train, each some of the clients; call it before the first step.

        Raises:
            HuscfError: Naming what only one process can do.
        """
        if self.engine.is_private:
            raise HuscfError("model.privacy: needs one process: set trainer.devices to 1")
        if not isinstance(self.engine, StackedEngine):
            raise HuscfError(
                "model.engine: serial runs in one process: set it to stacked, or trainer.devices "
                "to 1"
            )
        if isinstance(self.engine, RankedEngine):
            self.engine.join(ranks)
            return
        sizes, networks = self.batch_sizes, self.engine.networks
        request = request_plan(self.method, networks, self.sample_shape, sizes, self.seed)
        self.engine = RankedEngine(self.engine, ranks, sizes, StepCosts(request).predict)

    def collect_state_dict(self) -> dict[str, Any]:
        """Return the state of all parties; of several processes the first has the whole of it."""
        lacking = {f"parties.{n}": t for n, t in self.engine.fetch_state().items()}
        return {**self.state_dict(), **lacking}

    def load_own_state(self, state: Mapping[str, Tensor]) -> None:
        """Load a checkpoint's tensors of those parties that this process has."""
        held = self.engine.held_parties()
        elsewhere = {n for n in self.engine.all_parties() if n not in held}
        own = {
            name: tensor
            for name, tensor in state.items()
            if not (name.startswith("parties.clients.") and name.split(".")[2] in elsewhere)
        }
        self.load_state_dict(own, strict=False)

    def client(self, client_id: int) -> Client:
        """Return one client."""
        return self.engine.client(client_id)

    def training_step(self, batch: Any, batch_idx: int, step: StepRunner | None = None) -> None:
        """Log the mean losses of the step that the loop hands in and that runs it."""
        if step is None:
            raise HuscfError("training needs huscf.callbacks.SplitTraining among the callbacks")
        losses = step(self, batch).losses
        self.last_losses = {f"{name}_loss": value for name, value in losses.items()}
        for name, value in self.last_losses.items():
            self.log(
                f"train/{name}", value, on_step=False, on_epoch=True, logger=False, batch_size=1
            )

    def configure_optimizers(self) -> list[Optimizer]:
        """Let every party make its own optimisers; the trainer has none."""
        self.engine.make_optimizers()
        self.engine.set_optimizers(self._saved_optimizers)
        self._saved_optimizers = {}
        check_moments(self.engine.all_parties(), self.method)
        return []

    def sample(self, client_id: int, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw samples as one client would; changes no state.

        Args:
            client_id: Whose networks.
            labels: (N,) int64 classes to draw.
            generator: CPU random stream of the noise.

        Returns:
            (N, C, H, W) float32 in [-1, 1], on the CPU.
        """
        run = self.engine.forward_of(client_id, self.device)
        return self.method.sample(run, labels, generator).float().cpu()

    # What Lightning calls

    def on_train_end(self) -> None:
        """Let every process have all clients' blocks, where training ended within a round."""
        self.engine.gather_clients()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is not in the parameters: the engine's state by party, rounds, RNG."""
        checkpoint["huscf"] = {
            "format": FORMAT,
            "method": type(self.method).__name__,
            "engine": self.engine.get_state(),
            "num_rounds": self.num_rounds,
            "torch_rng": torch.get_rng_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over plan, clusters and counters before the parameters are loaded.

        Raises:
            CheckpointError: Where it is of another version, method, network or client list.
        """
        saved = checkpoint.get("huscf", {})
        check_run(saved, self.method, self.only_draws)
        is_resumed = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        new = self.engine.set_structure(saved["engine"], may_join=is_resumed)
        fresh, own = tuple(f"parties.{name}" for name in new), self.state_dict()
        if saved.get("draws_only"):
            fresh = tuple(own.keys() - {f"parties.{name}" for name in self.engine.list_drawn()})
        checkpoint["state_dict"] = add_fresh(checkpoint["state_dict"], own, fresh)
        check_same_network(checkpoint["state_dict"], own)
        self._saved_optimizers = saved["engine"]["optimizers"]
        self.num_rounds = saved["num_rounds"]
        torch.set_rng_state(saved["torch_rng"].cpu())

    def _build_engine(
        self,
        name: EngineName,
        batch_sizes: Mapping[int, int],
        options: tuple[Any, ...],
        privacy: DifferentialPrivacy | None,
    ) -> LocalEngine:
        shape = self.sample_shape
        networks = build_networks(self.method, shape, self.seed)
        request = request_plan(self.method, networks, shape, batch_sizes, self.seed)
        plan = self.plan_source.make_plan(request)
        given = (self.method, networks, plan, shape, self.client_sizes, *options)
        if privacy is None:
            return ENGINES[name](*given)
        if name != "serial":
            raise HuscfError(
                f"model.engine: {name} knows no gradients of single samples, which model.privacy "
                "clips: set it to serial"
            )
        return PrivateEngine(*given, privacy=privacy, batch_sizes=batch_sizes)
