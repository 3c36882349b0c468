"""The published model's habits on networks that are not cut, against formulas by hand."""

from math import ceil, log

import numpy as np
import pytest

from huscf.errors import PlanError
from huscf.methods import HuscfGan
from huscf.planning import (
    ClientDevice,
    DeviceProfile,
    Fleet,
    PlanCosts,
    ServerProfile,
    StepPass,
    make_problem,
)
from huscf.planning.job import PlanJob
from huscf.planning.paper.costs import PaperBlockCost
from huscf.planning.paper.uncut_latency import PaperUncutLatency
from huscf.planning.search.strategies import SearchSettings, search_plan
from huscf.split import Placement
from tests.conftest import REPOSITORY
from tests.planning.latency.test_placements import BLOCK

DEVICES = str(REPOSITORY / "configs" / "paper" / "devices.yaml")
CLIENT, SERVER = Placement(min_server=0, max_server=0), Placement(0, 0, max_client=0)

#: GFLOP a batch of 64 as the released code counts them, blocks 1 to 5 (printed, rounded).
FORWARD_G, BACKWARD_G = 0.185 + 13.17 + 3.72 + 13.19 + 0.058, 0.188 + 26.33 + 7.42 + 26.35 + 0.116
FORWARD_D, BACKWARD_D = 0.060 + 0.827 + 0.929 + 0.606, 0.063 + 1.650 + 1.856 + 1.210
SLOWEST, SERVER_SPEED, CLIENTS = 0.48, 672.0, 100


def seconds(method, **options):
    job = PlanJob.load(DEVICES, {"method": method, "latency_model": "paper", **options})
    problem = job.build()
    result = search_plan(problem, SearchSettings("exact"))
    return result.latency_s


def test_fedgan_is_the_slowest_clients_whole_step():
    step = FORWARD_G + BACKWARD_G + 3 * FORWARD_D + 3 * BACKWARD_D
    assert seconds("FedGan") == pytest.approx(step / SLOWEST, rel=2e-3)
    assert seconds("PflGan") == seconds("FedGan") == seconds("ProximalGan")


def test_hfl_gan_has_a_second_generator_and_two_more_passes_of_the_discriminator():
    step = 2 * (FORWARD_G + BACKWARD_G) + 5 * (FORWARD_D + BACKWARD_D)
    assert seconds("HflGan") == pytest.approx(step / SLOWEST, rel=2e-3)


@pytest.mark.parametrize(("method", "batches"), [("MdGan", ceil(log(100))), ("FslGan", 1)])
def test_md_gan_sends_samples_and_gets_gradients(method, batches):
    generator = batches * (FORWARD_G + BACKWARD_G) / SERVER_SPEED
    clients = 3 * (FORWARD_D + BACKWARD_D) / SLOWEST
    batch_bytes = 64 * 28 * 28 * 4
    # Two batches down at the server's rate, one gradient up at the slowest client's; bytes as bits.
    links = 2 * batch_bytes / 1e9 + batch_bytes / 50e6
    assert seconds(method) == pytest.approx(generator + clients + links, rel=2e-3)


def test_pooled_networks_queue_at_the_server():
    """The released code charges the server one discriminator's pass of three."""
    work = CLIENTS * (FORWARD_G + BACKWARD_G + FORWARD_D) / SERVER_SPEED
    work += 2 * CLIENTS * BACKWARD_D / SERVER_SPEED  # two kinds of ways back
    assert seconds("PooledGan") == pytest.approx(work, rel=0.05)


def test_a_network_at_the_server_by_hand():
    fleet = Fleet(
        (
            ClientDevice(0, DeviceProfile("a", 1e9, 8e6, 4e6), 2),
            ClientDevice(1, DeviceProfile("b", 2e9, 16e6, 8e6), 2),
        ),
        ServerProfile(10e9, 32e6, 32e6),
    )
    work = (PaperBlockCost(1e9, 2e9, 1e6),) * 3
    passes = (StepPass("net", "forward"), StepPass("net", "backward"))
    costs = PlanCosts({"net": (BLOCK,) * 3}, passes, {"net": SERVER}, {"net": 5e5})
    problem = make_problem(fleet, costs, PaperUncutLatency({"net": work}, costs))
    stages = problem.stages(np.zeros((2, 1), dtype=int))
    # 1e6 bytes up at 8e6; 2 x 2 x 3e9 at 10e9; 2e6 down at 32e6.
    assert stages["net_forward"] == pytest.approx(0.125 + 1.2 + 0.0625)
    assert stages["net_backward"] == pytest.approx(0.25 + 2.4 + 0.03125)
    local = PlanCosts({"net": (BLOCK,) * 3}, passes, {"net": CLIENT})
    problem = make_problem(fleet, local, PaperUncutLatency({"net": work}, local))
    assert problem.stages(np.zeros((2, 1), dtype=int)) == pytest.approx(
        {"net_forward": 6.0, "net_backward": 12.0}
    )


def test_what_the_published_model_cannot_know_is_one_line():
    with pytest.raises(PlanError, match="knows no steps_per_round"):
        seconds("FedGan", steps_per_round=50)

    class Half(HuscfGan):
        def placement(self, network):
            return CLIENT if network == "generator" else Placement()

    job = PlanJob.load(DEVICES, {"latency_model": "paper"})
    with pytest.raises(PlanError, match="not at all, and this method places the generator otherw"):
        PlanJob(job.devices, job.networks, 64, job.options, Half).build()
