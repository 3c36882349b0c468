"""What a client's part of a step takes where one process runs all of it, the server's too."""

from collections.abc import Mapping

from ...split import ClientCuts, PlanRequest
from .plan_costs import list_flops, measure_plan_costs

#: FLOPs of convolutions that take as long as a step of one parameter and its moving average, which
#: is memory traffic. Measured: 106 on one CPU thread.
UPDATE_FLOPS = 100


class StepCosts:
    """What a step takes a process for one client, by the planner's costs of blocks.

    A process runs all blocks of its clients' passes, the server's too: so every sample takes the
    same. What a client holds is stepped for it alone.

    Args:
        request: The networks, and the passes of a step.
    """

    def __init__(self, request: PlanRequest) -> None:
        costs = measure_plan_costs(request)
        self._of_sample = sum(
            one.count * float(list_flops(costs.blocks[one.network], one.kind).sum())
            for one in costs.passes
        )
        self._num_params: Mapping[str, list[int]] = {
            name: [block.num_params for block in blocks] for name, blocks in costs.blocks.items()
        }

    def predict(self, cuts: ClientCuts, batch_size: int) -> float:
        """Return FLOPs of a step of one client, > 0."""
        held = sum(
            own[index]
            for name, own in self._num_params.items()
            for index in cuts.held(name, len(own))
        )
        return 1 + batch_size * self._of_sample + UPDATE_FLOPS * held
