"""A user's devices that share a network: who holds what, and seconds by hand."""

import numpy as np
import pytest
import yaml

from huscf.errors import PlanError
from huscf.planning import (
    BlockCost,
    ClientDevice,
    CorrectedLatency,
    DeviceProfile,
    Fleet,
    PlanCosts,
    ServerProfile,
    StepPass,
    make_problem,
)
from huscf.planning.devices.chains import Chain
from huscf.planning.devices.profiles import parse_profiles
from huscf.split import Placement
from tests.conftest import REPOSITORY

SIMPLE = {"speed_gflops": 2, "uplink_mbit_per_s": 8, "downlink_mbit_per_s": 8}
SLOW = {**SIMPLE, "speed_gflops": 1}
USER = {**SLOW, "chain": ["slow", "fast"], "lan_mbit_per_s": 80}


def test_blocks_go_in_runs_by_work_and_speed_or_evenly():
    chain = Chain((1.0, 3.0), 1e6)
    assert chain.share_out([1, 1, 1, 1]).tolist() == [0, 1, 1, 1]
    assert chain.share_out([5, 1, 1, 1]).tolist() == [1, 1, 1, 1], "the first is too much for it"
    even = Chain((1.0, 3.0, 1.0), 1e6, "even")
    assert even.share_out([9, 1, 1, 1, 1, 1]).tolist() == [0, 0, 1, 1, 2, 2]
    assert even.share_out([1, 1]).tolist() == [0, 1]


def test_the_way_through_a_chain_by_hand():
    chain = Chain((1e9, 2e9), 8e6)
    holders = np.array([0, 0, 1, 1])
    flops, sizes = np.array([1e9, 2e9, 4e9, 2e9]), [7e6, 1e6, 7e6, 7e6]
    # 3 s at the first, 3 s at the second; 1e6 bytes between them take 1 s.
    assert chain.count_seconds(holders, flops, sizes) == pytest.approx(3 + 3 + 1)
    assert chain.count_seconds(0 * holders, flops, sizes) == pytest.approx(9)


def test_a_network_that_a_client_holds_whole_goes_through_its_chain():
    block = BlockCost(1e9, 1e9, 1e9, 2e9, 1e6, 1e3, 4, 1)
    device = DeviceProfile("user", 1e9, 8e6, 8e6, chain=Chain((1e9, 2e9), 8e6))
    alone = DeviceProfile("one", 1e9, 8e6, 8e6)
    passes = (StepPass("net", "forward"), StepPass("net", "backward"))
    costs = PlanCosts({"net": (block,) * 3}, passes, {"net": Placement(min_server=0, max_server=0)})
    found = {}
    for profile in (device, alone):
        fleet = Fleet((ClientDevice(0, profile, 2),), ServerProfile(9e9, 1e9, 1e9))
        problem = make_problem(fleet, costs, CorrectedLatency(costs))
        found[profile.name] = problem.stages(np.zeros((1, 1), dtype=np.int64))
    # Two samples: the first block at 1e9, two at 2e9, 1e6 bytes on the LAN.
    assert found["user"]["net_forward"] == pytest.approx(2 * (1 + 1 + 1))
    # Back: 1e9 of the first block, whose input needs none, and twice 2e9.
    assert found["user"]["net_backward"] == pytest.approx(2 * (1 + 2 + 1))
    assert found["one"]["net_forward"] == pytest.approx(2 * 3)
    assert problem.traffic_bytes(np.zeros((1, 1, 1), dtype=np.int64))[0] == 0, "at home"


def test_chains_are_read_from_a_devices_file():
    profiles = parse_profiles({"slow": SLOW, "fast": SIMPLE, "user": USER})
    assert profiles["user"].chain == Chain((1e9, 2e9), 80e6)
    assert profiles["slow"].chain is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chain": ["phone"]}, "chain: no profile phone; there are slow, fast, user"),
        ({"chain": "fast"}, "chain must list the profiles"),
        ({"lan_mbit_per_s": 0}, "lan_mbit_per_s is 0"),
        ({"chain_sharing": "fair"}, "user: chain_sharing is 'fair'; known: proportional, even"),
    ],
)
def test_chains_that_are_none_are_one_line(change, words):
    with pytest.raises(PlanError, match=words):
        parse_profiles({"slow": SLOW, "fast": SIMPLE, "user": {**USER, **change}})


def test_the_shipped_users_have_a_device_of_the_paper_and_the_next_two():
    found, paper = (
        parse_profiles(yaml.safe_load((REPOSITORY / "configs" / name).read_text())["profiles"])
        for name in ("bench/chains.yaml", "paper/devices.yaml")
    )
    for number in range(7):
        own = [paper[f"device{(number + step) % 7 + 1}"] for step in range(3)]
        user = found[f"user{number + 1}"]
        assert user.chain == Chain(tuple(each.speed_flops_per_s for each in own), 1e8)
        assert user.uplink_bits_per_s == own[0].uplink_bits_per_s
        assert found[f"device{number + 1}"] == paper[f"device{number + 1}"]
