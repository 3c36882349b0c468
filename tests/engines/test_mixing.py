"""A round's end: averages within clusters over unequal cuts, and what happens to moments."""

import copy

import pytest
import torch

from huscf.engines import Mixture
from huscf.models import ConditionalDiscriminator, find_spectral_norms
from huscf.parties import Segment
from tests.conftest import ENGINES, make_batch, make_gan, run_step
from tests.engines.cases import NAMES, Recorder, WatchedGan, restore, save
from tests.engines.test_moving import assert_consistent

CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2], 2: [1, 2, 2, 1], 3: [3, 1, 1, 1]}


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def equal_states(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def whole(module, network, client, holding="trained"):
    return module.engine.whole_network(network, client, holding).state_dict()


def mix(module, clusters, weights, per_cluster=True, moments="keep"):
    module.engine.mix(Mixture(clusters, weights, per_cluster, moments))


def moments_of(module, client_id, parameter, network="generator"):
    """Optimiser state of a parameter that a client uses, whoever holds it."""
    for party in (module.client(client_id), module.server):
        if parameter in party.optimizers[network].state:
            return party.optimizers[network].state[parameter]
    return {}


@pytest.mark.parametrize("engine", ENGINES)
def test_averaging_identical_models_is_the_identity(engine):
    module = make_gan(CUTS, depth=5, engine=engine)
    before = state(module)
    mix(module, dict.fromkeys(CUTS, 0), {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4})
    assert equal_states(state(module), before)


def test_each_client_alone_changes_nothing_after_a_step():
    module = make_gan(CUTS, depth=5)
    run_step(module, make_batch(CUTS))
    before = {c: copy.deepcopy(whole(module, "generator", c)) for c in CUTS}
    mix(module, {c: c for c in CUTS}, dict.fromkeys(CUTS, 1.0))
    for client, expected in before.items():
        assert equal_states(whole(module, "generator", client), expected)
    # Blocks that the server keeps for a client that holds them itself follow the client's.
    assert module.wire.traffic.total(direction="downlink", kinds=["blocks"]) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_clustered_averages_equal_the_closed_form_over_unequal_cuts(engine):
    module = make_gan(CUTS, depth=5, engine=engine)
    for step in range(2):
        run_step(module, make_batch(CUTS, seed=step), step)
    clusters, weights = {0: 0, 1: 0, 2: 1, 3: 1}, {0: 0.3, 1: 0.7, 2: 0.6, 3: 0.4}
    which = [(n, "trained") for n in NAMES] + [("generator", "average")]
    before = {(c, *w): copy.deepcopy(whole(module, w[0], c, w[1])) for c in CUTS for w in which}
    mix(module, clusters, weights)
    assert module.server.trained.num_copies == 2
    for network, holding in which:
        for client, cluster in clusters.items():
            for key, value in whole(module, network, client, holding).items():
                # Variances are pooled: tests/federation/test_averaging.py.
                if not value.is_floating_point() or key.endswith("running_var"):
                    continue
                members = [c for c in CUTS if clusters[c] == cluster]
                each = (weights[c] * before[c, network, holding][key].double() for c in members)
                torch.testing.assert_close(value.double(), sum(each), rtol=1e-5, atol=1e-6)
    assert_consistent(module)


def test_all_members_of_a_cluster_share_one_model_after_a_round_even_with_one_server():
    module = make_gan(CUTS, depth=5)
    run_step(module, make_batch(CUTS))
    mix(module, dict.fromkeys(CUTS, 0), dict.fromkeys(CUTS, 0.25), per_cluster=False)
    first = whole(module, "discriminator", 0)
    for client in CUTS:
        other = whole(module, "discriminator", client)
        for key, value in first.items():
            if value.is_floating_point():
                torch.testing.assert_close(other[key], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("engine", ENGINES)
def test_new_server_copies_inherit_parameters_and_moments_and_are_trained_apart(engine):
    module = make_gan(CUTS, depth=5, engine=engine)
    run_step(module, make_batch(CUTS))
    module.engine.set_clusters({0: 0, 1: 1, 2: 0, 3: 1})
    one, other = module.server.trained.copies("discriminator")
    assert equal_states(one.state_dict(), other.state_dict())
    assert not {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}
    states = module.server.optimizers["discriminator"].state
    for first, second in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(states[first]["exp_avg"], states[second]["exp_avg"])
        assert states[first]["exp_avg"] is not states[second]["exp_avg"]
    run_step(module, make_batch(CUTS, seed=9), 1)
    assert not equal_states(one.state_dict(), other.state_dict())
    assert_consistent(module)


@pytest.mark.parametrize("engine", ENGINES)
def test_clusters_may_share_some_of_the_servers_blocks(engine):
    module = make_gan(CUTS, depth=5, ema_decay=0.5, engine=engine, method_class=WatchedGan)
    run_step(module, make_batch(CUTS))
    before = {
        (c, i): copy.deepcopy(module.engine.block("discriminator", c, i).state_dict())
        for c in CUTS
        for i in range(5)
    }
    clusters, weights = {0: 0, 1: 0, 2: 1, 3: 1}, {0: 0.25, 1: 0.75, 2: 0.5, 3: 0.5}
    mix(module, clusters, weights, per_cluster={"discriminator": [1]})
    one, other = module.server.trained.copies("discriminator")
    assert one.block(1) is not other.block(1)
    assert one.block(2) is other.block(2)
    copies = module.server.trained.copies("generator")
    assert copies[0].block(2) is copies[1].block(2)
    # Block 2: the mean over all clients of their clusters' averages.
    key = next(k for k in before[0, 2] if k.endswith("0.weight"))
    averages = [
        sum(weights[c] * before[c, 2][key].double() for c in members)
        for members in ((0, 1), (2, 3))
    ]
    users = [c for c in CUTS if module.engine.block("discriminator", c, 2) is one.block(2)]
    expected = sum(averages[clusters[c]] for c in users) / len(users)
    torch.testing.assert_close(one.block(2).state_dict()[key].double(), expected)
    assert_consistent(module)
    module.configure_optimizers()
    shared = next(iter(one.block(2).parameters()))
    copied = [next(iter(each.block(1).parameters())) for each in (one, other)]
    start = [p.detach().clone() for p in (shared, *copied)]
    averaged = next(iter(module.server.average.copies("generator")[0].block(2).parameters()))
    trained = next(iter(module.server.trained.copies("generator")[0].block(2).parameters()))
    old = averaged.clone()
    run_step(module, make_batch(CUTS, seed=9), 10**6)
    # One step of Adam, and of the average, not one for each cluster.
    for parameter, value in zip((shared, *copied), start, strict=True):
        assert 0 < (parameter - value).abs().max() <= 5e-4 * 1.01
    torch.testing.assert_close(averaged, 0.5 * old + 0.5 * trained.detach())


@pytest.mark.parametrize("engine", ENGINES)
def test_widened_copies_share_nothing_any_more_and_a_checkpoint_of_them_restores(engine):
    def make():
        return make_gan(CUTS, depth=5, engine=engine)

    module, clusters = make(), {0: 0, 1: 0, 2: 1, 3: 1}
    run_step(module, make_batch(CUTS))
    mix(module, clusters, dict.fromkeys(CUTS, 0.5), {"discriminator": [1]})
    mix(module, clusters, dict.fromkeys(CUTS, 0.5), True)
    for holding in module.server.holdings:
        for network in holding.network_names:
            one, other = holding.copies(network)
            assert not {*map(id, one.tensors())} & {*map(id, other.tensors())}
    assert_consistent(module)
    run_step(module, make_batch(CUTS, seed=1), 1)
    restored = restore(make(), save(module))
    for each in (module, restored):
        run_step(each, make_batch(CUTS, seed=2), 2)
    assert equal_states(state(module), state(restored))


def test_a_broken_client_does_not_enter_the_average():
    module = make_gan({0: [1] * 4, 1: [1] * 4, 2: [1] * 4})
    module.client(1).blocks("generator")[3][0].bias.data[0] = torch.nan
    assert [module.client(c).is_finite() for c in (0, 1, 2)] == [True, False, True]
    assert module.engine.observe().diverged == {1}
    mix(module, dict.fromkeys(range(3), 0), {0: 0.5, 1: 0.0, 2: 0.5})
    assert all(module.client(c).is_finite() for c in range(3))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("moments", ["keep", "average", "reset"])
def test_moments_are_kept_averaged_or_reset(moments, engine):
    cuts = {c: [1, 1, 1, 1] for c in range(3)}
    module = make_gan(cuts, engine=engine)
    for step in range(2):
        run_step(module, make_batch(cuts, seed=step), step)
    weights = {0: 0.2, 1: 0.8, 2: 1.0}

    def read():
        found = []
        for client in cuts:
            parameter = next(module.client(client).blocks("generator")[0].parameters())
            found.append(dict(moments_of(module, client, parameter)))
        return found

    before = copy.deepcopy(read())
    mix(module, {0: 0, 1: 0, 2: 1}, weights, moments=moments)
    after = read()
    assert all(int(each["step"]) == 2 for each in before)
    if moments == "reset":
        assert after[:2] == [{}, {}]
        return
    assert [int(each["step"]) for each in after] == [2, 2, 2]
    for name in ("exp_avg", "exp_avg_sq"):
        old = [each[name] for each in before]
        expected = old
        if moments == "average":
            mean = 0.2 * old[0] + 0.8 * old[1]
            expected = [mean, mean, old[2]]
        for got, wanted in zip(after, expected, strict=True):
            torch.testing.assert_close(got[name], wanted)


def test_steps_after_a_reset_are_as_long_as_first_ones():
    module = make_gan(CUTS, depth=5)
    for step in range(20):
        run_step(module, make_batch(CUTS, seed=step), step)
    mix(module, dict.fromkeys(CUTS, 0), dict.fromkeys(CUTS, 1 / 4), moments="reset")
    parameter = next(module.client(0).blocks("generator")[0].parameters())
    before = parameter.detach().clone()
    run_step(module, make_batch(CUTS, seed=20), 20)
    rate = module.method.learning_rates["generator"]
    assert 0.9 * rate < (parameter - before).abs().max() < 1.01 * rate


def server_parameter(module, client_id):
    return next(module.engine.block("generator", client_id, 2).parameters())


def test_a_client_that_changes_cluster_brings_its_weight_and_not_its_old_servers_blocks():
    cuts = {client: [1, 1, 1, 1] for client in range(6)}
    module = make_gan(cuts, depth=5)
    mix(module, {0: 0, 1: 0, 2: 1, 3: 0, 4: 1, 5: 1}, dict.fromkeys(cuts, 1 / 3))
    for step in range(3):
        run_step(module, make_batch(cuts, seed=step), step)
    first, second = (server_parameter(module, client) for client in (0, 4))
    before = [
        (p.detach().clone(), moments_of(module, c, p)["exp_avg"].clone())
        for c, p in ((0, first), (4, second))
    ]
    # Client 0 joins the other cluster, whose lowest number it now is.
    clusters = {0: 1, 1: 0, 2: 1, 3: 0, 4: 1, 5: 1}
    mix(module, clusters, {0: 0.1, 1: 0.5, 2: 0.3, 3: 0.5, 4: 0.3, 5: 0.3})
    expected = {0: before[0][0], 1: 0.1 * before[0][0] + 0.9 * before[1][0]}
    for client, cluster in clusters.items():
        parameter = server_parameter(module, client)
        torch.testing.assert_close(parameter.detach(), expected[cluster])
        assert torch.equal(moments_of(module, client, parameter)["exp_avg"], before[cluster][1])


def test_the_server_blocks_of_clusters_that_merge_are_averaged_like_the_clients():
    cuts = {client: [1, 1, 1, 1] for client in range(4)}
    module = make_gan(cuts, depth=5)
    mix(module, {0: 0, 1: 1, 2: 1, 3: 1}, {0: 1.0, 1: 1 / 3, 2: 1 / 3, 3: 1 / 3})
    for step in range(3):
        run_step(module, make_batch(cuts, seed=step), step)
    first, second = (server_parameter(module, client).detach().clone() for client in (0, 1))
    mix(module, dict.fromkeys(cuts, 0), {0: 0.4, 1: 0.2, 2: 0.2, 3: 0.2})
    assert module.server.trained.num_copies == 1
    merged = server_parameter(module, 2).detach()
    torch.testing.assert_close(merged, 0.4 * first + 0.6 * second)
    assert_consistent(module)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("moments", ["keep", "average", "reset"])
def test_a_diverged_client_recovers_with_the_average(moments, engine):
    # Client 3 is a cluster by itself, whose copy of block 1 at the server nobody has trained.
    large, small = [2, 1, 2, 1], [1, 1, 1, 1]
    cuts = {0: large, 1: large, 2: small, 3: large}
    clusters, weights = {0: 0, 1: 0, 2: 0, 3: 1}, {0: 0.25, 1: 0.25, 2: 0.5, 3: 1.0}
    module = make_gan(cuts, depth=5, on_nonfinite="drop", engine=engine)
    mix(module, clusters, weights)
    run_step(module, make_batch(cuts))
    for parameter in module.client(0).trained.segment("discriminator", "head").parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    module.client(0).step("discriminator")
    assert not module.client(0).is_finite()
    mix(module, clusters, {0: 0.0, 1: 0.5, 2: 0.5, 3: 1.0}, moments=moments)
    if moments == "average":
        held = [next(module.engine.block("discriminator", c, 1).parameters()) for c in (0, 1, 2)]
        first, *others = (
            moments_of(module, c, p, "discriminator")["exp_avg"] for c, p in enumerate(held)
        )
        assert all(torch.equal(first, other) for other in others)
    for step in range(1, 4):
        run_step(module, make_batch(cuts, seed=step), step)
    assert module.client(0).is_finite()
    assert module.engine.num_dropped[0] == 0


def test_a_moving_average_of_normalised_layers_has_the_norms_of_its_own_weights():
    class Averaging(WatchedGan):
        averaged = ("discriminator",)

        def __init__(self, **options):
            super().__init__(**options)
            self.averaged = ("discriminator",)

    def discriminator(shape):
        return ConditionalDiscriminator(shape, width=8, depth=5, spectral_norm=True)

    module = make_gan(
        CUTS, depth=5, discriminator=discriminator, method_class=Averaging, ema_decay=0.5
    )
    torch.manual_seed(0)
    for party in module.engine.all_parties().values():
        for parameter in party.trained.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
        for segment in party.trained.segments("discriminator"):
            segment.renew_norms(50)
    for _ in range(3):
        module.engine.update_averages(1000, module.engine.plan.client_ids)
    for client in CUTS:
        average = module.engine.whole_network("discriminator", client, "average").eval()
        weights = [weight for block in average for weight in find_spectral_norms(block)]
        assert len(weights) == 5
        for weight in weights:
            norm = torch.linalg.matrix_norm(weight().flatten(1), 2).item()
            assert norm == pytest.approx(1, abs=0.05)


def test_a_federation_counts_all_that_is_averaged():
    def count(ema_decay, moments="keep"):
        module = make_gan({c: [1, 1, 1, 1] for c in range(3)}, ema_decay=ema_decay)
        run_step(module, make_batch(range(3)))
        mix(module, {0: 0, 1: 0, 2: 1}, {0: 0.5, 1: 0.5, 2: 1.0}, moments=moments)
        traffic = module.wire.traffic
        assert traffic.total(client_id=2, kinds=["blocks"]) == 0
        return [
            traffic.total(direction=direction, kinds=["blocks"]) / 2
            for direction in ("uplink", "downlink")
        ]

    client = make_gan({0: [1, 1, 1, 1]}).client(0)
    sizes = {
        network: [
            [t for end in ("head", "tail") for t in each(client.trained.segment(network, end))]
            for each in (Segment.tensors, Segment.parameters)
        ]
        for network in NAMES
    }

    def num_bytes(which, network, floats=False):
        tensors = sizes[network][which]
        return sum(t.nbytes for t in tensors if t.is_floating_point() or not floats)

    # Counters go up with the rest, but nothing comes of them.
    up, down = (sum(num_bytes(0, n, floats) for n in NAMES) for floats in (False, True))
    parameters = sum(num_bytes(1, n) for n in NAMES)
    assert count(0.0) == [up, down]
    steps = 4 * sum(len(sizes[n][1]) for n in NAMES)
    assert count(0.0, "average") == [up + 2 * parameters + steps, down + 2 * parameters]
    average = [num_bytes(0, "generator", floats) for floats in (False, True)]
    assert count(0.9) == [up + average[0], down + average[1]]


def test_only_what_somebody_else_weighs_is_sent_and_only_what_changes_comes_back():
    wire = Recorder()
    cuts = {c: [1, 1, 1, 1] for c in range(3)}
    module = make_gan(cuts, wire=wire, ema_decay=0.0)
    mix(module, dict.fromkeys(cuts, 0), {0: 0.0, 1: 1.0, 2: 0.0})
    up = {m.client_id for m in wire.messages if m.direction == "uplink"}
    down = {m.client_id for m in wire.messages if m.direction == "downlink"}
    assert (up, down) == ({1}, {0, 2})
    assert {m.kind for m in wire.messages} == {"blocks"}
