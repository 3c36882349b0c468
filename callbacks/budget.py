"""Ends training at equal cost: after so many bytes, or so many seconds of given devices."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from ..errors import HuscfError, check_number
from ..methods import request_plan
from ..named_configs import find_config
from ..planning import DevicesFile, PlanOptions, PlanSubject, measure_latency
from ..training import SplitModule
from .base import RoundCallback
from .clustered_federation import ClusteredFederation


class Budget(RoundCallback):
    """Ends training where its cost is spent, so that runs of several methods end alike.

    The round that is under way is closed, evaluated and saved.

    Args:
        max_mbytes: Training ends with the step by which all clients together have sent and
            received so many megabytes (1e6 bytes), rounds included; None has no limit.
        max_simulated_s: It ends with the last step that `devices` would have finished in so many
            seconds, by the latency model corrected, a round's traffic spread over its steps; None
            has no limit.
        devices: Devices file for as many clients as the run has, for max_simulated_s.
    """

    def __init__(
        self,
        max_mbytes: float | None = None,
        max_simulated_s: float | None = None,
        devices: str | None = None,
    ) -> None:
        for name, value in (("max_mbytes", max_mbytes), ("max_simulated_s", max_simulated_s)):
            if value is not None:
                check_number(f"budget.{name}", value, is_open=True)
        if max_simulated_s is not None and devices is None:
            raise HuscfError("budget.max_simulated_s: needs budget.devices, a devices file")
        if devices is not None and max_simulated_s is None:
            raise HuscfError(
                "budget.devices: limits nothing by itself; set budget.max_simulated_s, the seconds "
                "that training may take on them"
            )
        self.max_mbytes = max_mbytes
        self.max_simulated_s = max_simulated_s
        self.devices = None if devices is None else _load_devices(devices)
        self.step_s = 0.0
        self._spent = {"mbytes": 0.0, "next_s": 0.0}

    def state_dict(self) -> dict[str, Any]:
        """Return the bytes as the last step ended, and the seconds that the next would lead to."""
        return dict(self._spent)

    def explain_stop(self, state_dict: Mapping[str, Any]) -> str:
        """Return the budget that a run in this state has spent."""
        mbytes, next_s = (float(state_dict.get(name, 0)) for name in self._spent)
        if self.max_mbytes is not None and mbytes >= self.max_mbytes:
            return f"budget.max_mbytes {self.max_mbytes:g}: {mbytes:.4g} are spent"
        if self.max_simulated_s is not None and next_s > self.max_simulated_s:
            limit = f"budget.max_simulated_s {self.max_simulated_s:g}"
            return f"{limit}: another step would lead to {next_s:.4g} s"
        return ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Work out what a step takes on the devices."""
        assert isinstance(pl_module, SplitModule)
        if self.max_simulated_s is not None and self.devices is not None:
            rounds = [c for c in trainer.callbacks if isinstance(c, ClusteredFederation)]  # type: ignore[attr-defined]
            steps = sum(own.every_n_epochs for own in rounds[:1]) * trainer.num_training_batches
            batch_sizes = trainer.datamodule.batch_sizes  # type: ignore[attr-defined]
            self.step_s = step_seconds(pl_module, batch_sizes, self.devices, int(steps))
            if self.step_s > self.max_simulated_s:
                raise HuscfError(
                    f"budget.max_simulated_s is {self.max_simulated_s:g}, and a single step takes "
                    f"{self.step_s:.3g} s on these devices"
                )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Let training end where the budget is spent, or another step would exceed it."""
        assert isinstance(pl_module, SplitModule)
        self._spent["mbytes"] = pl_module.engine.total_bytes() / 1e6
        self._spent["next_s"] = (trainer.global_step + 1) * self.step_s
        trainer.should_stop |= bool(self.explain_stop(self._spent))


def _load_devices(path: str) -> DevicesFile:
    """Return a devices file; name the option where there is none."""
    try:
        return DevicesFile.load(find_config(path))
    except HuscfError as error:
        raise HuscfError(f"budget.devices: {error}") from error


def step_seconds(
    module: SplitModule, batch_sizes: dict[int, int], devices: DevicesFile, steps_per_round: int
) -> float:
    """Return the seconds of a step of a module's plan, with its share of a round's traffic.

    Args:
        module: Whose method and plan.
        batch_sizes: Samples a step by client id.
        devices: For as many clients.
        steps_per_round: Steps between two rounds; 0 leaves their traffic out.

    Raises:
        HuscfError: Where the devices are not for the run's clients.
    """
    networks, shape = module.engine.networks, module.sample_shape
    subject = PlanSubject.measure(request_plan(module.method, networks, shape, batch_sizes))
    fleet = devices.make_fleet(batch_sizes, 0)
    return measure_latency(
        module.plan, subject, fleet, PlanOptions(steps_per_round=steps_per_round)
    )
