"""FedGAN whose clients are held near the last average, as FedProx does."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Adam

from ..errors import HuscfError
from .fedgan import FedGan


class ProximalAdam(Adam):
    """Adam on a loss with (mu / 2) |w - w_0|^2 added, w_0 being where its state began.

    The gradient mu (w - w_0) is added before the moments are computed. A parameter without state,
    as after every round that resets moments, begins with w_0 = w, where that gradient is 0.

    Args:
        params: Parameters.
        mu: Strength, >= 0; 0 is Adam.
        **kwargs: As of torch.optim.Adam.
    """

    def __init__(self, params: Any, mu: float, **kwargs: Any) -> None:
        super().__init__(params, **kwargs)
        for group in self.param_groups:
            group["mu"] = mu

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Add the proximal gradient, then step."""
        anchors: dict[nn.Parameter, torch.Tensor] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if (anchor := self.state[parameter].get("anchor")) is None:
                    anchors[parameter] = parameter.detach().clone()
                else:
                    parameter.grad.add_(parameter - anchor, alpha=group["mu"])
        loss = super().step(closure)  # makes the state of those that have none
        for parameter, anchor in anchors.items():
            self.state[parameter]["anchor"] = anchor
        return loss


class ProximalGan(FedGan):
    """FedGAN with a proximal term: a client's networks are drawn back to the round's start.

    Source: Li et al., MLSys 2020, arXiv:1812.06127, put on FedGAN. No strength suits every
        problem; its authors try 0.001, 0.01, 0.1, 0.5 and 1.

    Args:
        mu: Strength of (mu / 2) |w - w_0|^2, w_0 being the last average, >= 0; 0 is FedGAN.
        **kwargs: As of HuscfGan.
    """

    moments = "reset"  # which lets the next round's anchors begin anew

    def __init__(self, mu: float = 0.01, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not (mu >= 0 and math.isfinite(mu)):
            raise HuscfError(f"method.mu is {mu}, must be a finite number >= 0")
        self.mu = mu

    def make_optimizer(self, network: str, parameters: Iterable[nn.Parameter]) -> ProximalAdam:
        """Return Adam with the proximal term."""
        rate = self.learning_rates[network]
        return ProximalAdam(parameters, self.mu, lr=rate, betas=self.betas, fused=True)
