"""Lightning's launching of several processes, for clients that are shared out among them."""

import atexit
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from ..engines import RankedEngine, Ranks
from ..errors import HuscfError
from .module import SplitModule

ValueT = TypeVar("ValueT")


class RankedStrategy(DDPStrategy):
    """Every process trains some of the clients; the engine passes on what others need.

    Of DDP it keeps launching and the process group. The model is not wrapped, and no process's
    parameters are overwritten with another's.

    Args:
        connect_within_s: How long the processes wait for each other at the start.
    """

    strategy_name = "huscf_ranks"

    def __init__(self, connect_within_s: float = 600.0) -> None:
        super().__init__(timeout=timedelta(seconds=connect_within_s))
        self._ranks: Ranks | None = None

    def setup_distributed(self) -> None:
        """Join the other processes.

        Raises:
            HuscfError: Naming the address, where they do not meet in time.
        """
        try:
            super().setup_distributed()
        except (RuntimeError, ConnectionError, OSError) as error:
            environment = self.cluster_environment
            assert environment is not None
            address = f"{environment.main_address}:{environment.main_port}"
            raise HuscfError(
                f"process {self.global_rank} of {self.world_size}: the others were not met at "
                f"{address}: start all of them, with that MASTER_ADDR and MASTER_PORT reachable "
                f"from every machine ({type(error).__name__})"
            ) from error
        atexit.register(_leave)
        self._ranks = Ranks.join()
        self._watch_children_no_longer()

    def _watch_children_no_longer(self) -> None:
        """Let no thread of Lightning's end this process before it has said why the run failed.

        The thread kills it as soon as a process that it has started fails. Until all have met that
        is right: nobody else would notice. From then on an exchange says which one failed, and why.
        The launcher has another list by it, for signals that it passes on.
        """
        launcher: Any = self.launcher
        watched = getattr(launcher, "procs", None)
        if isinstance(watched, list):
            launcher.procs = [*watched]
            watched.clear()

    def setup_environment(self) -> None:
        """Join the other processes, and share out the clients before a checkpoint is loaded."""
        super().setup_environment()
        module = self.lightning_module
        if isinstance(module, SplitModule) and module.trainer.state.fn == TrainerFn.FITTING:
            assert self._ranks is not None
            module.spread_over(self._ranks)

    def setup(self, trainer: Trainer) -> None:
        """Set up as for one device."""
        Strategy.setup(self, trainer)

    def model_to_device(self) -> None:
        """Move what this process trains; what shares the networks' memory would lose that by it."""
        module = self.lightning_module
        is_elsewhere = self.root_device.type != "cpu"
        if is_elsewhere and isinstance(module, SplitModule):
            module.engine.free_guests()
        super().model_to_device()

    def _setup_model(self, model: nn.Module) -> nn.Module:  # type: ignore[override]
        """Leave the model alone: DDP would give all processes the first one's parameters."""
        return model

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the state of all parties; every process calls it."""
        module = self.lightning_module
        assert isinstance(module, SplitModule)
        return module.collect_state_dict()

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load what this process has; that a checkpoint fits is checked before."""
        module = self.lightning_module
        assert isinstance(module, SplitModule)
        module.load_own_state(checkpoint["state_dict"])

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Wait for all, however long one of them evaluates or writes."""
        if self._ranks is not None:
            self._ranks.gather(None)

    def broadcast(self, obj: ValueT, src: int = 0) -> ValueT:
        """Return what one process gives, in all."""
        self.barrier()
        return super().broadcast(obj, src)


def share_items(
    module: LightningModule, items: Iterable[str], work: Callable[[str], Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Return work(item) for every item, each done by one process, in all.

    Args:
        module: The root module.
        items: In the same order in every process.
        work: Its result is of what JSON knows.
    """
    engine = module.engine if isinstance(module, SplitModule) else None
    if not isinstance(engine, RankedEngine):
        return {item: work(item) for item in items}
    ranks, names, error = engine.ranks, list(items), None
    done: dict[str, Mapping[str, Any]] = {}
    try:
        done = {name: work(name) for name in names[ranks.rank :: ranks.size]}
    except Exception as caught:
        error = caught
    parts = [value for value, _ in ranks.gather(done, error=error)]
    return {name: parts[place % ranks.size][name] for place, name in enumerate(names)}


def decide_first(trainer: Trainer, decide: Callable[[], ValueT]) -> ValueT:
    """Return what the first process decides, in all: by a clock, a search, or the file system."""
    value = decide() if trainer.is_global_zero else None
    return trainer.strategy.broadcast(value)  # type: ignore[return-value]


def find_rank() -> int:
    """Return this process's number as its launcher says it, 0 where there is none."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
