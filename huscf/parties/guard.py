"""The server's door: what a client sends is refused where it would harm the others."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import NonFiniteError

#: How many times larger than usual what a client sends may be, before it counts as an explosion.
#: Measured: at most 2 times in 180 steps of the quickstart.
MAX_GROWTH = 1e4

#: Part of the usual size that is left after a step with smaller ones.
FORGETTING = 0.99


class Guard:
    """Knows how large activations and gradients usually are at every cut.

    Without it, one client's explosion enters the server's gradient and so Adam's second moments,
    which forget it only after thousands of steps. Until then the server hardly learns at all.

    Args:
        max_growth: How many times the usual size is accepted; inf refuses only NaN, Inf, and
            values whose squares overflow.
    """

    def __init__(self, max_growth: float = MAX_GROWTH) -> None:
        self.max_growth = max_growth
        self._usual: dict[str, float] = {}
        self._seen: dict[str, dict[int, float]] = {}

    def check(
        self,
        kind: str,
        topic: str,
        client_ids: Sequence[int],
        tensor: Tensor,
        pass_name: str = "",
    ) -> None:
        """Look at what K clients send before the server uses it.

        Args:
            kind: Of the message.
            topic: Of the message.
            client_ids: The senders.
            tensor: (B, K, ...), those of client k at [:, k].
            pass_name: Of the pass: fakes and reals have usual sizes of their own.

        Raises:
            NonFiniteError: Naming the first client whose values are NaN, Inf or far beyond the
                usual.
        """
        if not tensor.is_floating_point():
            return
        exact = torch.promote_types(tensor.dtype, torch.float32)
        by_sample = tensor.reshape(*tensor.shape[:2], -1)
        # One sample after the other, then over samples: five times as fast as both at once.
        norms = torch.linalg.vector_norm(by_sample, dim=2, dtype=exact)
        norms = torch.linalg.vector_norm(norms, dim=0)
        scale = math.sqrt(max(1, tensor.numel() // len(client_ids)))
        key = f"{kind} {topic} {pass_name}"
        limit = self._usual.get(key, math.inf) * self.max_growth
        for client_id, norm in zip(client_ids, norms.tolist(), strict=True):
            size = norm / scale
            if not math.isfinite(size):
                raise NonFiniteError(client_id, f"{kind} at {topic} hold NaN or Inf")
            if size > limit:
                raise NonFiniteError(
                    client_id,
                    f"{kind} at {topic} are {size / self._usual[key]:.0e} times the usual",
                )
            self._seen.setdefault(key, {})[client_id] = size

    @property
    def seen(self) -> dict[str, dict[int, float]]:
        """Return the sizes of this step so far, by place and client."""
        return self._seen

    def add_seen(self, seen: Mapping[str, Iterable[tuple[int, float]]]) -> None:
        """Take over sizes that another process has seen in this step."""
        for key, sizes in seen.items():
            self._seen.setdefault(key, {}).update(dict(sizes))

    def commit_step(self) -> None:
        """Let the usual sizes follow the step's medians; call it after every step.

        What is usual is the largest median, slowly forgotten: gradients that vanish for a while,
        as where a discriminator has won, and come back are no explosion.
        """
        for key, sizes in self._seen.items():
            values = sorted(sizes.values())
            median = values[len(values) // 2] if values else 0.0
            if median > 0:
                self._usual[key] = max(median, FORGETTING * self._usual.get(key, 0.0))
        self._seen = {}

    def drop(self, client_id: int) -> None:
        """Leave a client out of the step's medians."""
        for sizes in self._seen.values():
            sizes.pop(client_id, None)

    def state_dict(self) -> dict[str, Any]:
        """Return the usual sizes."""
        return {"usual": dict(self._usual)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved sizes."""
        self._usual = dict(state["usual"])
        self._seen = {}


def is_finite(tensor: Tensor) -> bool:
    """Return whether no element is NaN or Inf; one pass and no mask of the tensor's size."""
    # A finite sum proves it; an overflowing sum of finite numbers needs the exact look.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
