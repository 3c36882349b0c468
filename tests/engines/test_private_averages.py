"""Averages that hide whole clients: what is clipped, what noise is added, what it costs."""

import math

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, pld, rdp
from scipy.stats import kstest, norm
from torch import nn

from huscf.engines import ClientPrivacy, Mixture, PrivateAverages
from huscf.engines.secure_mixing import SumPlan, SumRef
from huscf.errors import HuscfError
from huscf.methods import FedGan
from huscf.models import Network
from tests.conftest import make_batch, make_gan, run_step

ALL = [3, 1, 3, 1]
CUTS = dict.fromkeys(range(5), ALL)
CLUSTERS = {0: 0, 1: 0, 2: 0, 3: 1, 4: 1}
EVEN = {c: 1 / 3 if c < 3 else 1 / 2 for c in CUTS}


def make_run(noise=0.0, most=1e9, seed=0, **kwargs):
    """A run of FedGAN with moving averages, and what averages it."""
    options = {"method_class": FedGan, "norm": "group", "ema_decay": 0.5, "seed": seed, **kwargs}
    return make_gan(CUTS, **options), PrivateAverages(ClientPrivacy(noise, most, 1e-3))


def mix(module, averages, weights=None):
    module.engine.mix(Mixture(CLUSTERS, weights or EVEN, moments="reset", private=averages))


def read(module, client_id, holding="trained"):
    """All blocks of a client as one vector."""
    state = getattr(module.engine.client(client_id), holding).state_dict()
    return torch.cat([state[name].double().flatten() for name in sorted(state)]).numpy()


def train(module, clients=CUTS, steps=2, first=0):
    for step in range(first, first + steps):
        run_step(module, make_batch(clients, step), step)


def expect(before, after, most, cluster):
    """The clipped mean by the formula, of vectors."""
    total = np.zeros_like(before[cluster[0]])
    for client in cluster:
        change = after[client] - before[client]
        length = np.linalg.norm(change)
        total += before[client] / len(cluster)
        total += change * min(1.0, most / length if length else 1.0) / len(cluster)
    return total


def test_without_clipping_and_noise_it_is_the_plain_average():
    module, averages = make_run()
    plain, _ = make_run()
    for each in (module, plain):
        train(each)
    mix(module, averages)
    plain.engine.mix(Mixture(CLUSTERS, EVEN, moments="reset"))
    for client in CUTS:
        np.testing.assert_allclose(read(module, client), read(plain, client), rtol=0, atol=1e-6)
    one, other = (each.wire.traffic.num_bytes for each in (module, plain))
    moving = {key: count for key, count in other.items() if "average" in key.topic}
    assert moving and one == {
        key: count
        for key, count in other.items()
        if key not in moving or key.direction == "downlink"
    }


def test_moving_averages_are_not_sent_and_begin_anew_from_the_average():
    module, averages = make_run(noise=1.0, most=0.5)
    train(module)
    assert not np.array_equal(read(module, 0, "average"), read(module, 1, "average"))
    mix(module, averages)
    for client in CUTS:
        own = module.engine.client(client)
        trained = own.trained.state_dict()
        for name, tensor in own.average.state_dict().items():
            assert torch.equal(tensor, trained[name])
    # So noise does not come back as a change of the next round.
    before = read(module, 0)
    train(module, first=2)
    change = np.linalg.norm(read(module, 0) - before)
    mix(module, averages)
    assert averages.median_norm == pytest.approx(change, rel=0.2)


@pytest.mark.parametrize("engine", ["serial", "stacked"])
def test_changes_are_clipped_over_all_blocks_together_in_every_round(engine):
    module, averages = make_run(most=0.02, engine=engine)
    start = {c: read(module, c) for c in CUTS}
    for number in range(2):
        # Client 2 is away in the second round, and has changed nothing.
        present = [c for c in CUTS if number == 0 or c != 2]
        train(module, present, first=2 * number)
        after = {c: read(module, c) for c in CUTS}
        lengths = {c: np.linalg.norm(after[c] - start[c]) for c in CUTS}
        assert min(lengths[c] for c in present) > 0.04
        mix(module, averages)
        found = averages.figures()
        assert found == {
            "privacy/median_update_norm": pytest.approx(np.median([*lengths.values()]))
        }
        for cluster in ([0, 1, 2], [3, 4]):
            wanted = expect(start, after, 0.02, cluster)
            for client in cluster:
                np.testing.assert_allclose(read(module, client), wanted, rtol=0, atol=3e-7)
            moved = np.linalg.norm(wanted - np.mean([start[c] for c in cluster], axis=0))
            assert 0.002 < moved <= 0.02 + 1e-6
        start = {c: read(module, c) for c in CUTS}
    assert averages.num_rounds == 2


def test_one_client_moves_an_average_by_the_largest_norm_over_the_members_at_most():
    found = []
    for size in (1.0, 1e6, math.nan):
        module, averages = make_run(most=0.5)
        train(module)
        with torch.no_grad():
            for parameter in module.engine.client(1).parameters():
                parameter += size
        weights = EVEN if math.isfinite(size) else {**EVEN, 0: 0.5, 1: 0.0, 2: 0.5}
        mix(module, averages, weights)
        found.append(read(module, 0))
    gaps = [np.linalg.norm(one - found[2]) for one in found[:2]]
    assert gaps == pytest.approx([0.5 / 3, 0.5 / 3], rel=1e-3)  # NaN counts as no change
    assert np.isfinite(found[2]).all()


def test_noise_has_the_stated_deviation_and_is_another_in_every_cluster_round_and_seed():
    drawn = {}
    for seed in (0, 1):
        quiet, plain = make_run(most=0.5, seed=seed)
        module, averages = make_run(noise=2.0, most=0.5, seed=seed)
        for each, how in ((quiet, plain), (module, averages)):
            train(each)
            mix(each, how)
        for client, count in ((0, 3), (3, 2)):
            noise = (read(module, client) - read(quiet, client)) / (2.0 * 0.5 / count)
            drawn[seed, client] = noise
            assert noise.std() == pytest.approx(1.0, abs=4 / math.sqrt(2 * len(noise)))
            assert kstest(noise, "norm").pvalue > 1e-4
        assert np.array_equal(read(module, 0), read(module, 2))
        before = read(module, 0)
        mix(module, averages)  # nobody has trained
        drawn[seed, "next"] = (read(module, 0) - before) / (2.0 * 0.5 / 3)
    for one in drawn:
        for other in drawn:
            if one != other:
                assert abs(np.corrcoef(drawn[one], drawn[other])[0, 1]) < 0.05


def test_the_same_seed_gives_the_same_noise_and_a_saved_state_goes_on_with_it():
    whole, averages = make_run(noise=1.0)
    part, others = make_run(noise=1.0)
    for each, how in ((whole, averages), (part, others)):
        train(each)
        mix(each, how)
        train(each, first=2)
    resumed = PrivateAverages(others.options)
    resumed.load_state_dict(others.state_dict())
    mix(whole, averages)
    mix(part, resumed)
    for client in CUTS:
        assert np.array_equal(read(whole, client), read(part, client))


# What it costs


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_epsilon_is_the_library_s_for_gaussian_mechanisms(accountant):
    averages = PrivateAverages(ClientPrivacy(1.3, 1.0, 1e-4, accountant=accountant))
    averages.num_rounds = 7
    made = pld.PLDAccountant() if accountant == "pld" else rdp.RdpAccountant()
    wanted = made.compose(GaussianDpEvent(1.3), 7).get_epsilon(1e-4)
    # Orders of the Rényi accountant are whole here.
    tolerance = 1e-6 if accountant == "pld" else 0.02
    assert averages.figures() == {
        "privacy/median_update_norm": 0.0,
        "privacy/client_epsilon": pytest.approx(wanted, rel=tolerance),
        "privacy/client_delta": 1e-4,
    }


def test_epsilon_is_the_closed_form_s():
    # Balle and Wang 2018, theorem 8; k rounds are one with noise less by sqrt(k).
    averages = PrivateAverages(ClientPrivacy(1.5, 1.0, 1e-3))
    for rounds in (1, 4):
        averages.num_rounds = rounds
        gap, epsilon = math.sqrt(rounds) / 1.5, averages.epsilon(0)
        delta = norm.cdf(gap / 2 - epsilon / gap) - math.exp(epsilon) * norm.cdf(
            -gap / 2 - epsilon / gap
        )
        assert delta == pytest.approx(1e-3, rel=0.01)


def test_a_budget_is_kept_to_the_round():
    averages = PrivateAverages(ClientPrivacy(2.0, 1.0, 1e-3, max_epsilon=4.0))
    while averages.allows(1):
        averages.num_rounds += 1
    assert 2 < averages.num_rounds < 20
    assert averages.epsilon(0) <= 4.0 < averages.epsilon(1)
    with pytest.raises(HuscfError, match="another round would exceed it"):
        averages.average(Mixture({}, {}), SumPlan({}, {}), {}, {}, 0)


# A planted client


def release(is_there, noise, seed):
    """One number of an average of four clients, where the planted one has changed it much."""
    network = Network([nn.Linear(1, 1, bias=False)])
    nn.init.zeros_(network[0].weight)
    ref = SumRef(0, "trained", "generator", 0)
    plan = SumPlan({ref: (0, 1, 2, 3)}, {})
    states = {
        (client, ref): {"weight": torch.full((1, 1), 50.0 if client == 3 and is_there else 0.0)}
        for client in range(4)
    }
    averages = PrivateAverages(ClientPrivacy(noise, 1.0, 0.05))
    mixture = Mixture(dict.fromkeys(range(4), 0), dict.fromkeys(range(4), 0.25))
    found = averages.average(mixture, plan, states, {"generator": network}, seed)
    return found[ref]["weight"].item()


def test_a_planted_client_is_not_told_from_none_beyond_epsilon():
    assert [release(is_there, 0.0, 0) for is_there in (True, False)] == [0.25, 0.0]
    count, noise = 1000, 1.0
    there, away = (
        np.array([release(is_there, noise, seed + 10_000 * is_there) for seed in range(count)])
        for is_there in (True, False)
    )
    epsilon = PrivateAverages(ClientPrivacy(noise, 1.0, 0.05)).epsilon(1)
    found = 0.0
    for threshold in np.linspace(-0.5, 1.0, 31):
        hits, alarms = (there > threshold).mean(), (away > threshold).mean()
        chance = 4 * math.sqrt(0.25 / count)
        assert hits <= math.exp(epsilon) * alarms + 0.05 + chance
        found = max(found, hits - alarms)
    # The attack is a good one: it finds what this much noise lets anybody find.
    assert found == pytest.approx(2 * norm.cdf(0.5 / noise) - 1, abs=0.05)
