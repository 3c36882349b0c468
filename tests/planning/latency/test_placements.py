"""Networks that are not cut in three: all at the client, or at the server."""

import numpy as np
import pytest

from huscf.errors import PlanError
from huscf.methods import FedGan, HuscfGan, MdGan, PflGan, PooledGan
from huscf.planning import (
    BlockCost,
    CorrectedLatency,
    PlanCosts,
    StepPass,
    make_problem,
)
from huscf.planning.job import PlanJob
from huscf.planning.latency.model import list_cuts
from huscf.split import Placement
from tests.conftest import REPOSITORY
from tests.planning.planning_cases import TWO_CLIENTS

BLOCK = BlockCost(1e9, 1e9, 1e9, 2e9, 1e6, 1e3, 4, 1)
PASSES = {"forward": 1, "backward": 1}


def plan_alone(placement, is_drawn=False, num_drawn=None, entering=5e5):
    """The only cuts that a placement allows, for a network of three blocks."""
    passes = tuple(StepPass("net", kind, is_drawn=is_drawn, num_drawn=num_drawn) for kind in PASSES)
    costs = PlanCosts({"net": (BLOCK,) * 3}, passes, {"net": placement}, {"net": entering})
    problem = make_problem(TWO_CLIENTS, costs, CorrectedLatency(costs))
    solution = np.zeros((1, 2, 1), dtype=np.int64)
    return problem.stages(solution[0]), problem.traffic_bytes(solution)[0]


def test_a_client_that_holds_all_computes_alone_and_sends_nothing():
    stages, traffic = plan_alone(Placement(min_server=0, max_server=0))
    # The slower client: three blocks forward, and back without the first one's input: 5e9.
    assert stages["net_forward"] == pytest.approx(3.0)
    assert stages["net_backward"] == pytest.approx(5.0)
    assert traffic == 0


def test_a_network_of_the_server_by_hand():
    stages, traffic = plan_alone(Placement(0, 0, max_client=0))
    # Inputs: 4e6 bits up take 0.5 s and 0.35 s; 3 blocks for two clients 0.6 s; 8e6 bits down 2 s.
    assert stages["net_forward"] == pytest.approx(0.5 + 0.6 + 2.0)
    # Gradients: 8e6 bits up take 1 s; 5e9 for two clients 1 s; 4e6 bits down 1 s.
    assert stages["net_backward"] == pytest.approx(1.0 + 1.0 + 1.0)
    assert traffic == 2 * 2 * (5e5 + 1e6)


def test_what_the_server_draws_costs_no_way_to_it():
    stages, traffic = plan_alone(Placement(0, 0, max_client=0), is_drawn=True)
    assert stages["net_forward"] == pytest.approx(0.6 + 2.0)
    # Nothing comes down after the way back.
    assert stages["net_backward"] == pytest.approx(1.0 + 1.0)
    assert traffic == 2 * 2 * 1e6
    once, _ = plan_alone(Placement(0, 0, max_client=0), is_drawn=True, num_drawn=1)
    assert once["net_forward"] == pytest.approx(0.3 + 2.0), "one batch for both"


def test_cuts_follow_the_placement():
    assert len(list_cuts(Placement(), 5)) == 6
    assert list_cuts(Placement(0, 0, max_client=0), 5).tolist() == [[0, 0]]
    assert list_cuts(Placement(min_server=0, max_server=0), 5).tolist() == [[4, 1]]
    assert [0, 1] in list_cuts(Placement(0, 1), 5).tolist()
    assert all(h + t >= 3 for h, t in list_cuts(Placement(max_server=2), 5).tolist())


@pytest.mark.parametrize(
    ("method", "num_bytes"),
    [
        (FedGan, 0),
        # Two batches of samples down and one gradient up; 28 x 28 floats, 64 samples.
        (MdGan, 3 * 64 * 28 * 28 * 4),
        # Generator: noise and label up, samples down, and back; the discriminator: 3 passes
        # forward and 3 back (2 for parameters), each with a sample, a label and a logit.
        (PooledGan, 64 * (2 * (408 + 3136) + 6 * (3144 + 4))),
    ],
)
def test_a_methods_bytes_follow_from_its_phases(method, num_bytes):
    path = str(REPOSITORY / "configs" / "paper" / "devices.yaml")
    problem = PlanJob.load(path, {"method": method.__name__}).build()
    solution = np.zeros((1, len(problem.units), 2), dtype=np.int64)
    assert problem.traffic_bytes(solution)[0] == 100 * num_bytes


def test_a_method_is_found_by_its_name():
    path = str(REPOSITORY / "configs" / "paper" / "devices.yaml")
    with pytest.raises(PlanError, match=r"method: Vae is none of FeGan.* HuscfGan"):
        PlanJob.load(path, {"method": "Vae"})
    assert PlanJob.load(path, {}).method is HuscfGan


@pytest.mark.parametrize(
    ("method", "up", "down"),
    [
        # The published numbers of parameters of both networks, and of the generator.
        (FedGan, 4 * 3038662, 4 * 3038662),
        (PflGan, 4 * 2221925, 512 * (28 * 28 + 8)),
        (PooledGan, 0, 0),
    ],
)
def test_a_rounds_traffic_follows_from_what_a_method_mixes(method, up, down):
    path = str(REPOSITORY / "configs" / "paper" / "devices.yaml")
    problem = PlanJob.load(path, {"method": method.__name__, "steps_per_round": 10}).build()
    stage = problem.stages(np.zeros((len(problem.units), 2), dtype=np.int64))["federation"]
    # A hundred clients share the server's 1e9 bit/s, which takes longer than the slowest client.
    assert stage == pytest.approx(100 * 8 * (up + down) / 1e9 / 10)
