"""Finds the round whose samples are nearest to what clients have held out."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from ..datamodules import ClientData
from ..errors import check_number
from ..metrics import held_out_distance
from ..randomness import make_generator
from ..training import RoundResult, SplitModule
from .base import RoundCallback

#: The column of metrics.csv that decides about best.ckpt.
HELD_OUT = "held_out/distance"

#: Held-out samples from which on a client's distance says something.
ENOUGH = 20

#: At most so many of a client are compared, and so many are drawn for each.
MAX_HELD_OUT = 500
DRAWN_FOR_EACH = 4


class BestRound(RoundCallback):
    """Lets every client compare its samples with its own held-out ones after every round.

    It needs data.held_out. The mean over clients is the column held_out/distance of metrics.csv; it
    decides about best.ckpt, which test, generate and export take by --ckpt_path best. Nobody sees
    what another has held out; each reports one number.

    Args:
        patience: Stop after so many rounds in a row without a better one; 0 never stops.
    """

    def __init__(self, patience: int = 0) -> None:
        check_number("best_round.patience", patience)
        self.patience = patience
        self.least = math.inf
        self.num_worse = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say before training who has held out too little."""
        clients = self._clients(trainer)
        if self.patience and not clients:
            rank_zero_warn("best_round.patience: no client holds anything out: set data.held_out")
        if few := [c.client_id for c in clients if len(c.held_out) < ENOUGH]:
            rank_zero_warn(
                f"data.held_out: {len(few)} of {len(clients)} clients, client {few[0]} first, hold "
                f"out fewer than {ENOUGH} samples: which round is the best may be chance"
            )

    def on_round_end(self, trainer: Trainer, module: SplitModule, result: RoundResult) -> None:
        """Add the mean distance to the round's figures; stop where none gets better."""
        each = [_measure(module, client, result.number) for client in self._clients(trainer)]
        finite = [distance for distance in each if math.isfinite(distance)]
        if not finite:
            return
        result.figures[HELD_OUT] = mean = sum(finite) / len(finite)
        self.num_worse = 0 if mean < self.least else self.num_worse + 1
        self.least = min(self.least, mean)
        if self.patience and self.num_worse >= self.patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, float]:
        """Return the least distance so far, and for how many rounds it has been the least."""
        return {"least": self.least, "num_worse": self.num_worse}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on with them."""
        self.least, self.num_worse = float(state_dict["least"]), int(state_dict["num_worse"])

    def explain_stop(self, state_dict: Mapping[str, Any]) -> str:
        """Return the patience where it is used up."""
        num_worse = state_dict.get("num_worse")
        is_over = type(num_worse) is int and 0 < self.patience <= num_worse
        return f"best_round.patience {self.patience}" if is_over else ""

    def _clients(self, trainer: Trainer) -> list[ClientData]:
        clients = getattr(trainer.datamodule, "clients", ())  # type: ignore[attr-defined]
        return [client for client in clients if len(getattr(client, "held_out", ()))]


def _measure(module: SplitModule, client: ClientData, number: int) -> float:
    """Return how far a client's own samples are from what it has held out."""
    chosen = torch.as_tensor(client.held_out[:MAX_HELD_OUT])
    samples, labels = client.domain.train_samples[chosen], client.domain.train_labels[chosen]
    wanted = labels.repeat_interleave(DRAWN_FOR_EACH)
    stream = make_generator(module.seed, "held out", client.client_id, number)
    drawn = module.sample(client.client_id, wanted, stream)
    return held_out_distance(samples, labels, drawn, wanted)
