"""The event simulation: by hand where clients queue, and the closed form where nobody waits."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from huscf import methods
from huscf.models import ConditionalDiscriminator, ConditionalGenerator, SampleShape
from huscf.planning import (
    BlockCost,
    ClientDevice,
    CorrectedLatency,
    DeviceProfile,
    Fleet,
    PlanCosts,
    PlanSubject,
    ServerProfile,
    StepPass,
    make_problem,
    simulate_step,
)
from huscf.planning.command import main
from huscf.split import ClientCuts, ClientPlan, CutPlan, Placement, TracedPass, TracedPhase
from tests.planning.planning_cases import DEVICES, TWO_CLIENTS

BLOCK = BlockCost(1e9, 1e9, 1e9, 2e9, 1e6, 1e3, 0, 0)
HOME = Placement(min_server=0, max_server=0)
SERVED = Placement(0, 0, max_client=0)


def simulate(phases, fleet=TWO_CLIENTS, num_drawn=None, block=BLOCK, steps_per_round=0):
    """Networks of three blocks: "net" at the server, "own" at the clients."""
    phases = tuple(TracedPhase(trains, tuple(passes)) for trains, *passes in phases)
    every = [one for phase in phases for one in phase.passes]
    passes = [StepPass(p.network, p.kind, is_drawn=p.is_drawn, num_drawn=num_drawn) for p in every]
    names = {one.network: (block,) * 3 for one in every}
    costs = PlanCosts(names, tuple(passes), input_bytes=dict.fromkeys(names, 5e5), phases=phases)
    cuts = ClientCuts(tuple((name, *((2, 1) if name == "own" else (0, 0))) for name in names))
    clients = tuple(ClientPlan(client.client_id, cuts) for client in fleet.clients)
    plan = CutPlan(tuple((name, 3) for name in names), clients)
    return simulate_step(costs, fleet, plan, steps_per_round)


def test_two_clients_meet_at_the_server():
    """Inputs of 4e6 bits, outputs of 8e6; what both share of a transfer is at its end, or start.

    Forward: b's input arrives at 0.125 + 0.1 + 0.125 = 0.35, is computed until 0.65, sent until
    0.9, and is with b at 0.9 + 0.75 + 0.1 = 1.75. a's arrives at 0.5 and waits until 0.65; it is
    computed until 0.95, sent until 1.2, with a at 1.2 + 1.75 = 2.95.
    Back, five of 1e9 FLOP: b's gradient arrives at 1.75 + 0.35 + 0.25 = 2.35, is done at 2.85,
    with b at 3.45. a's arrives at 2.95 + 1 = 3.95, is done at 4.45, with a at 4.575 + 0.875.
    """
    there, back = TracedPass("net", "forward"), TracedPass("net", "backward")
    assert simulate([(("net",), there)]) == pytest.approx(2.95)
    assert simulate([(("net",), there, back)]) == pytest.approx(5.45)


def test_two_clients_share_the_servers_link():
    """Two alike whose links are the server's: 0.5 s up each, 0.3 s of work, 1 s down each."""
    alike = tuple(ClientDevice(i, DeviceProfile("a", 1e9, 8e6, 8e6), 1) for i in (0, 1))
    fleet = Fleet(alike, ServerProfile(10e9, 8e6, 8e6))
    # The first is sent from 0.8 to 1.8; the second arrives at 1, is done at 1.3, and waits.
    assert simulate([(("net",), TracedPass("net", "forward"))], fleet) == pytest.approx(2.8)


def test_what_the_server_draws_begins_there_and_is_computed_once_for_all():
    drawn = TracedPass("net", "forward", is_drawn=True)
    # a: until 0.3, sent until 0.55, with a at 2.3. b: until 0.6, sent until 0.85, with b at 1.7.
    assert simulate([(("net",), drawn)]) == pytest.approx(2.3)
    # Each pays half of one batch.
    assert simulate([(("net",), drawn)], num_drawn=1) == pytest.approx(2.15)
    # Nothing comes down after the way back: b's gradient is up at 0.6, and takes 0.5 s; a's, up at
    # 1, waits until 1.1.
    back = TracedPass("net", "backward", is_drawn=True)
    assert simulate([(("net",), back)]) == pytest.approx(1.6)


@pytest.mark.parametrize(("trains", "seconds"), [("own", 5.3), ("net", 7.3)])
def test_all_wait_where_a_phase_trains_blocks_of_the_server(trains, seconds):
    """a needs 3 s at home, b 1.5 s. Then each asks the server for 0.3 s of work, and gets it.

    Free to go on, b is served before a, who has its results at 3 + 0.3 + 0.25 + 1.75. If the server
    steps first, which takes 2 s, both begin at 5: a is served first and has them at 7.3.
    """
    blocks = {"own": (BLOCK,) * 3, "net": (replace(BLOCK, num_params=2e10 / 13 / 3),) * 3}
    phases = (
        TracedPhase((trains,), (TracedPass("own", "forward"),)),
        TracedPhase(("own",), (TracedPass("net", "forward", is_drawn=True),)),
    )
    cuts = ClientCuts((("own", 2, 1), ("net", 0, 0)))
    plan = CutPlan((("own", 3), ("net", 3)), tuple(ClientPlan(i, cuts) for i in (0, 1)))
    simulated = simulate_step(PlanCosts(blocks, (), phases=phases), TWO_CLIENTS, plan)
    assert simulated == pytest.approx(seconds)


def test_a_rounds_end_is_spread_over_its_steps():
    """24e6 bits: a is up at 3 s, b earlier; down a has them at 6 s, b earlier. a computes 3 s."""
    block = replace(BLOCK, param_bytes=10**6)
    phases = [(("own",), TracedPass("own", "forward"))]
    assert simulate(phases, block=block) == pytest.approx(3.0)
    assert simulate(phases, block=block, steps_per_round=10) == pytest.approx(3.0 + 0.9)


GANS = ["HuscfGan", "FedGan", "MdGan", "FslGan", "HflGan", "PflGan", "PooledGan", "IfcaGan"]


@pytest.mark.parametrize("name", GANS)
def test_one_client_waits_for_nobody_and_takes_what_the_closed_form_says(name):
    shape = SampleShape(1, 8, 10)
    method = getattr(methods, name)(
        generator=partial(ConditionalGenerator, width=8),
        discriminator=partial(ConditionalDiscriminator, width=8),
        latent_dim=5,
    )
    request = methods.request_plan(method, method.build_networks(shape), shape, {0: 7})
    subject = PlanSubject.measure(request)
    profile = DeviceProfile("a", 3e9, 5e6, 7e6, round_trip_s=0.3)
    fleet = Fleet((ClientDevice(0, profile, 7),), ServerProfile(2e10, 6e6, 9e6))
    problem = make_problem(fleet, subject.costs, CorrectedLatency(subject.costs, 4))
    rng = np.random.default_rng(0)
    for _ in range(5):
        solution = np.array([[rng.integers(len(each.options)) for each in problem.networks]])
        simulated = simulate_step(subject.costs, fleet, problem.to_plan(solution), 4)
        assert simulated == pytest.approx(problem.latency_s(solution[None])[0], rel=1e-9)


@pytest.mark.parametrize("name", ["FedGan", "HflGan"])
def test_where_nothing_crosses_the_slowest_client_decides(name, capsys):
    assert main(["--config", str(DEVICES), "--method", name, "--simulate"]) == 0
    text = capsys.readouterr().out
    (latency,) = [line for line in text.splitlines() if line.startswith("latency ")]
    (simulated,) = [line for line in text.splitlines() if line.startswith("event simulation ")]
    assert latency.split()[1] == simulated.split()[2]
