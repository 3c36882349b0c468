"""Predicted costs of clients, by which processes get about even shares."""

from huscf.methods import request_plan
from huscf.planning import StepCosts
from huscf.planning.costs.step_costs import UPDATE_FLOPS
from huscf.split import ClientCuts
from tests.conftest import SHAPE, make_gan
from tests.engines.cases import NAMES


def test_samples_cost_the_same_and_held_parameters_are_added():
    module = make_gan({0: [1, 1, 1, 1]})
    networks = module.engine.networks
    costs = StepCosts(request_plan(module.method, networks, SHAPE, {0: 6}))

    def predict(cuts, size):
        return costs.predict(ClientCuts.from_list(cuts, NAMES), size)

    few, many = [1, 1, 1, 1], [2, 1, 1, 1]
    assert predict(few, 8) - predict(few, 4) == predict(many, 8) - predict(many, 4) > 0
    added = sum(p.numel() for p in networks["generator"][1].parameters())
    assert predict(many, 4) - predict(few, 4) == UPDATE_FLOPS * added
    # Forward and back, once each through both networks, is the least that a step does.
    weights = [p.numel() for n in NAMES for block in networks[n] for p in block.parameters()]
    assert predict(few, 5) - predict(few, 4) > 6 * sum(weights)
