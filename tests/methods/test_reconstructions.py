"""IFL-GAN, HFL-GAN, PFL-GAN and clusters that clients choose: closed forms, and what happens."""

import copy
from math import exp, log

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from huscf.engines.sharing import divide_evenly
from huscf.errors import HuscfError
from huscf.federation import IfcaClusters, UpdateClusters
from huscf.methods import Average, HflGan, HuscfGan, IfcaGan, IflGan, PflGan
from huscf.methods.averages import weigh_by_softmax
from huscf.methods.hfl_gan import GLOBAL, average_clusters
from huscf.methods.mean_discrepancy import mean_discrepancy
from huscf.methods.pfl_gan import find_components, gaussian_divergences, weigh_alike
from huscf.randomness import make_generator
from huscf.training.choosing import _measure_loss
from huscf.training.updates import send_updates
from tests.conftest import ENGINES, SHAPE, make_batch, run_step
from tests.methods.test_baselines import assert_close, end_round, make

BY_CHANGES = {"rule": UpdateClusters(2)}


def test_the_discrepancy_by_hand():
    """Points 0 and 1 against 0 and 3: squared distances 1, 0, 9, 1, 4, 9; their median is 1."""
    one, other = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]])
    within = (2 + 2 * exp(-1)) / 4 + (2 + 2 * exp(-9)) / 4
    between = (1 + exp(-9) + exp(-1) + exp(-4)) / 4
    assert float(mean_discrepancy(one, other)) == pytest.approx(within - 2 * between, abs=1e-6)
    assert float(mean_discrepancy(one, one)) == pytest.approx(0, abs=1e-6)
    stream = torch.Generator().manual_seed(0)
    near, alike, far = (torch.randn(64, 30, generator=stream) for _ in range(3))
    assert mean_discrepancy(near, far + 1) > 5 * mean_discrepancy(near, alike)
    constant = torch.zeros(3, 2)
    assert float(mean_discrepancy(constant, constant)) == pytest.approx(0, abs=1e-6)


def test_softmax_weights_by_hand():
    weights = weigh_by_softmax({0: log(3.0), 1: 0.0, 2: 5.0}, {0: 0.2, 1: 0.8, 2: 0.0})
    assert weights == pytest.approx({0: 0.75, 1: 0.25, 2: 0.0})


def test_generators_count_by_their_discrepancy_and_the_better_half_keeps_its_own():
    plain = Average(dict.fromkeys(range(4), 0), {0: 0.5, 1: 0.3, 2: 0.2, 3: 0.0})
    told = {"discrepancy": {0: log(4.0), 1: 0.0, 2: 0.0, 3: 9.0}}
    found = IflGan().average("generator", 0, plain, told)
    assert found.weights == pytest.approx({0: 2 / 3, 1: 1 / 6, 2: 1 / 6, 3: 0.0})
    assert found.keepers == {1, 2}, "who counts 0, as a client that has diverged, takes the average"
    assert IflGan().average("discriminator", 0, plain, told) == plain
    assert IflGan().average("generator", 0, plain, {}) == plain


@pytest.mark.parametrize("engine", ENGINES)
def test_a_round_of_ifl_gan_is_what_its_weights_say(engine):
    module = make(IflGan, 3, engine)
    run_step(module, make_batch(range(3)))
    own = [module.engine.whole_network("generator", c).state_dict() for c in range(3)]
    own = [{name: tensor.clone() for name, tensor in each.items()} for each in own]
    told = {c: module.client(c).remembered["discrepancy"] for c in range(3)}
    end_round(module)
    shares = torch.tensor([told[c] for c in range(3)], dtype=torch.float64).softmax(0)
    mean = sum(told.values()) / 3
    assert len({told[c] > mean for c in range(3)}) == 2, "the test sees both kinds"
    for client in range(3):
        assert not module.client(client).remembered, "it is told once"
        generator = module.engine.whole_network("generator", client)
        for name, parameter in generator.named_parameters():
            average = sum(shares[c] * own[c][name].double() for c in range(3)).float()
            expected = average if told[client] > mean else own[client][name]
            torch.testing.assert_close(parameter.detach(), expected, msg=name)


def test_what_a_client_tells_is_the_discrepancy_of_its_batch_and_its_fakes():
    module = make(IflGan, 1, "serial")
    module.engine.load_batches(batch := make_batch([0]), 0)
    private = dict(module.client(0).private)
    generator = module.engine.whole_network("generator", 0)
    with torch.no_grad():
        fakes = generator(private["noise"], private["labels"])
    expected = float(mean_discrepancy(private["samples"], fakes))
    run_step(make(IflGan, 1, "serial"), batch)
    again = make(IflGan, 1, "stacked")
    run_step(again, batch)
    assert again.client(0).remembered["discrepancy"] == pytest.approx(expected, rel=1e-4)


def test_clusters_averages_are_averaged_by_their_mean_discrepancy():
    plain = Average({0: 0, 1: 0, 2: 1, 3: 1}, {0: 0.25, 1: 0.75, 2: 0.5, 3: 0.5})
    found = average_clusters(plain, {0: 0.0, 1: 2 * log(3.0), 2: 0.0})
    # Means log 3 and 0: shares 3/4 and 1/4.
    expected = {0: 0.1875, 1: 0.5625, 2: 0.125, 3: 0.125}
    assert found.weights == pytest.approx(expected) and set(found.clusters.values()) == {0}


def test_the_second_generator_alone_crosses_clusters_and_only_every_few_rounds():
    method = HflGan(global_every_n_rounds=2)
    plain = Average({0: 0, 1: 1}, {0: 1.0, 1: 1.0})
    told = {"discrepancy": {0: 1.0, 1: 1.0}}
    assert method.average(GLOBAL, 0, plain, told) == plain
    assert method.average("generator", 1, plain, told) == plain
    assert method.average("discriminator", 1, plain, told) == plain
    assert method.average(GLOBAL, 1, plain, told).weights == pytest.approx({0: 0.5, 1: 0.5})


@pytest.mark.parametrize("engine", ENGINES)
def test_a_round_of_hfl_gan_mixes_at_two_levels(engine):
    module = make(HflGan, 4, engine, global_every_n_rounds=1)
    run_step(module, make_batch(range(4)))
    end_round(module)
    clusters = module.clusters
    assert len(set(clusters.values())) == 2
    states = {
        network: [module.engine.whole_network(network, c).state_dict() for c in range(4)]
        for network in ("generator", "discriminator", GLOBAL)
    }

    def are_equal(network, left, right):
        pairs = zip(states[network][left].values(), states[network][right].values(), strict=True)
        return all(torch.equal(a, b) for a, b in pairs)

    for other in range(1, 4):
        assert are_equal(GLOBAL, 0, other)
        for network in ("generator", "discriminator"):
            assert are_equal(network, 0, other) == (clusters[0] == clusters[other])


def test_hfl_gans_discriminator_weighs_both_fakes_half():
    judge, fool = HflGan().phases(0)
    assert judge.trains == ("discriminator",) and fool.trains == ("generator", GLOBAL)
    logits = torch.tensor([0.3, -1.0])
    losses = {p.name: p.loss({"x": logits}, {}) for p in judge.passes if p.loss is not None}
    assert losses["fake"] == losses["global fake"]
    plain = HflGan()._judge_fakes({"x": logits}, {})
    assert losses["fake"] == pytest.approx(0.5 * float(plain))
    two = HflGan().build_networks(SHAPE)
    assert not torch.equal(*(next(two[n].parameters()) for n in ("generator", GLOBAL)))


def test_the_divergence_of_normal_fits_equals_pytorchs():
    stream = torch.Generator().manual_seed(3)
    mixes = [torch.randn(4, 4, generator=stream, dtype=torch.float64) for _ in range(3)]
    features = [
        torch.randn(50, 4, generator=stream).double() @ mix + k for k, mix in enumerate(mixes)
    ]
    found = gaussian_divergences(features)
    fits = []
    for rows in features:
        covariance = rows.T.cov()
        covariance = 0.9 * covariance + 0.1 * covariance.trace() / 4 * torch.eye(4).double()
        fits.append(MultivariateNormal(rows.mean(0), covariance))
    expected = torch.tensor([[float(kl_divergence(p, q)) for q in fits] for p in fits]).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_alike_clients_give_more_and_nobody_gives_to_itself():
    divergences = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 3.0], [3.0, 3.0, 0.0]]).double()
    weights = weigh_alike(divergences, 1.0)
    # The median is 3: shares exp(-1/3) and exp(-1).
    share = exp(-1 / 3) / (exp(-1 / 3) + exp(-1))
    assert weights[0].tolist() == pytest.approx([0, share, 1 - share])
    assert weights[2].tolist() == pytest.approx([0.5, 0.5, 0])
    # Shares below a tenth of 1 / 3 are left out.
    assert weigh_alike(divergences, 0.1)[0].tolist() == pytest.approx([0, 1, 0])
    assert weigh_alike(torch.zeros(2, 2).double()).tolist() == [[0, 1], [1, 0]]


def test_principal_components_keep_distances():
    stream = torch.Generator().manual_seed(0)
    samples = [torch.randn(6, 1, 2, 2, generator=stream) for _ in range(2)]
    parts = torch.cat(find_components(samples, 9))
    assert parts.shape == (12, 4)
    rows = torch.cat(samples).flatten(1).double()
    torch.testing.assert_close(
        torch.cdist(parts, parts), torch.cdist(rows, rows), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("shares", "count", "wanted"),
    [([0.5, 0.25, 0.25], 8, [4, 2, 2]), ([1 / 3] * 3, 4, [2, 1, 1]), ([0.0, 1.0], 5, [0, 5])],
)
def test_samples_are_shared_out_whole(shares, count, wanted):
    assert divide_evenly(shares, count) == wanted


@pytest.mark.parametrize("engine", ENGINES)
def test_pfl_gan_sends_samples_of_alike_clients_and_trains_on_them(engine):
    module = make(PflGan, 3, engine)
    batch = {c: (samples, labels % 2) for c, (samples, labels) in make_batch(range(3)).items()}
    run_step(module, batch)
    federation = module.federation
    federation.observe_batch(module, batch)
    before = [dict(module.client(c).state_dict()) for c in range(3)]
    before = [{n: t.clone() for n, t in each.items()} for each in before]
    federation.apply(module, federation.decide(module))
    for client in range(3):
        samples, labels = module.client(client).shared
        assert samples.shape == (9, 1, 8, 8) and samples.dtype == torch.uint8
        assert set(labels.tolist()) == {0, 1}, "of the classes that the givers have"
        for name, tensor in module.client(client).state_dict().items():
            assert torch.equal(tensor, before[client][name]), "nothing is averaged"
        down = module.wire.traffic.total(client, "downlink")
        assert down == samples.numel() + 8 * len(labels)
        up = module.wire.traffic.total(client, "uplink", ["blocks"])
        assert up == sum(
            t.nbytes
            for t in module.engine.sampling_network("generator", client).state_dict().values()
        )
    module.engine.load_batches(batch, 1)
    private = module.client(0).private
    assert torch.equal(private["labels"][:3], batch[0][1][3:]), "half of them its own"
    shared = module.client(0).shared[0].float() / 127.5 - 1
    for sample in private["samples"][3:]:
        assert (shared == sample).flatten(1).all(1).any()


def test_who_has_diverged_or_nothing_shares_nothing():
    module = make(PflGan, 3)
    run_step(module, make_batch(range(3)))
    with torch.no_grad():
        next(module.client(1).parameters()).fill_(float("nan"))
    module.engine.share("generator", {0: (1, 1, 0), 1: (1, 1, 1), 2: (0, 0, 4)}, 0)
    assert [module.client(c).shared is not None for c in range(3)] == [True, False, True]
    assert set(module.client(0).shared[1].tolist()) == {2}
    assert set(module.client(2).shared[1].tolist()) == {0, 1}
    alone = make(PflGan, 2)
    alone.engine.share("generator", {0: (1, 0, 0)}, 0)
    assert alone.client(0).shared is None and not alone.wire.traffic.num_bytes


# Clusters that clients choose


def make_choosers(engine="serial"):
    module = make(IfcaGan, 4, engine, {c: [1, 1 + c % 2, 1 + c % 2, 1] for c in range(4)})
    module.engine.set_clusters({0: 0, 1: 0, 2: 1, 3: 1})
    for step in range(3):
        run_step(module, make_batch(range(4), step), step)
    module.federation.apply(module, module.federation.decide(module))
    return module


@pytest.mark.parametrize("engine", ENGINES)
def test_clients_go_on_with_the_cluster_that_fits_them(monkeypatch, engine):
    module = make_choosers(engine)
    before = {
        (network, cluster): {
            n: t.clone() for n, t in module.engine.whole_network(network, c).state_dict().items()
        }
        for network in ("generator", "discriminator")
        for cluster, c in ((0, 0), (1, 2))
    }
    losses = {0: {0: 1.0, 1: 0.5}, 1: {0: 1, 1: 2}, 2: {0: 1, 1: 0}, 3: {0: 1, 1: 2}}
    known = dict(module.clusters)
    measure = lambda module, client, model, *_: losses[client][known[model]]  # noqa: E731
    monkeypatch.setattr("huscf.training.choosing._measure_loss", measure)
    module.federation.observe_batch(module, make_batch(range(4)))
    assert module.clusters == {0: 1, 1: 0, 2: 1, 3: 0}
    for (network, cluster), expected in before.items():
        for client, chosen in module.clusters.items():
            if chosen == cluster:
                whole = module.engine.whole_network(network, client)
                for name, tensor in whole.state_dict().items():
                    assert torch.equal(tensor, expected[name]), (network, client, name)
    told = [k.client_id for k in module.wire.traffic.num_bytes if k.kind == "figures"]
    assert sorted(told) == [0, 1, 2, 3]
    losses[0] = {0: 0.0, 1: 9.0}
    module.federation.observe_batch(module, make_batch(range(4)))
    assert module.clusters[0] == 1, "a round's first step alone lets them choose"
    run_step(module, make_batch(range(4)), 3)


def test_the_loss_under_a_cluster_is_how_far_its_samples_are():
    module = make_choosers()
    samples, labels = make_batch([3])[3]
    for model in (0, 2):
        found = _measure_loss(module, 3, model, samples, labels)
        generator = module.engine.whole_network("generator", model, "average").eval()
        stream = make_generator(module.seed, "choice of clusters", 3, module.num_rounds)
        with torch.no_grad():
            drawn = generator(torch.randn(6, 5, generator=stream), labels)
        expected = mean_discrepancy(samples / 127.5 - 1, drawn)
        assert found == pytest.approx(float(expected), rel=1e-5)


def test_a_client_leaves_for_the_cluster_that_draws_samples_like_its_own():
    """Generators of bright and dark samples; one client's data are of the other kind."""
    module = make(IfcaGan, 4, "stacked", {c: [1, 1, 1, 1] for c in range(4)}, ema_decay=0.0)
    module.engine.set_clusters({0: 0, 1: 0, 2: 1, 3: 1})
    run_step(module, make_batch(range(4)))
    module.federation.apply(module, module.federation.decide(module))
    with torch.no_grad():
        for client, shift in ((0, 2.0), (1, 2.0), (2, -2.0), (3, -2.0)):
            *_, bias = module.engine.whole_network("generator", client)[-1].parameters()
            bias += shift
    batch = {
        c: (samples // 4 + (190 if c == 0 else 0), labels)
        for c, (samples, labels) in make_batch(range(4)).items()
    }
    module.federation.observe_batch(module, batch)
    assert module.clusters == {0: 0, 1: 1, 2: 1, 3: 1}
    assert_close(
        module.engine.whole_network("generator", 1), module.engine.whole_network("generator", 2)
    )


def test_clients_that_may_not_tell_cannot_choose():
    with pytest.raises(
        HuscfError, match=r"HuscfGan lets no figures cross: .* huscf\.methods\.Ifca"
    ):
        make(HuscfGan, 2, federation={"rule": IfcaClusters(2)})


def test_new_cuts_begin_new_changes():
    """Other blocks are compared then: a round goes by before clients are."""
    module = make(HuscfGan, 3, plan={c: [1, 1, 1, 1] for c in range(3)}, federation=BY_CHANGES)
    run_step(module, make_batch(range(3)))
    assert len(module.federation.decide(module).clusters) == 3
    end_round(module)
    sent = module.wire.traffic.total(kinds=["blocks"])
    module.engine.apply_plan(make(HuscfGan, 3, plan={c: [1, 1, 2, 1] for c in range(3)}).plan)
    run_step(module, make_batch(range(3)), 1)
    assert send_updates(module.federation._compared, module) == {}
    end_round(module)
    run_step(module, make_batch(range(3)), 2)
    assert sorted(send_updates(module.federation._compared, module)) == [0, 1, 2]
    assert module.wire.traffic.total(kinds=["blocks"]) > sent


def test_a_change_is_what_a_round_has_made_of_blocks_that_all_hold():
    module = make(HuscfGan, 2, plan={0: [1, 1, 1, 1], 1: [1, 1, 2, 1]}, federation=BY_CHANGES)
    first = {i: copy.deepcopy(module.client(1).blocks("discriminator")[i]) for i in (0, 4)}
    run_step(module, make_batch([1]))
    found = send_updates(module.federation._compared, module)
    assert list(found) == [1], "who was away has changed nothing"
    now = module.client(1).blocks("discriminator")
    expected = [
        (p - q).detach().flatten()
        for i in (0, 4)
        for p, q in zip(now[i].parameters(), first[i].parameters(), strict=True)
    ]
    assert found[1] == pytest.approx(torch.cat(expected).double().numpy(), abs=1e-7)
    sent = module.wire.traffic.total(1, "uplink", ["blocks"])
    assert sent == 4 * len(found[1]), "in single precision"


@pytest.mark.parametrize(
    ("method_class", "options"),
    [
        (PflGan, {"num_shared": 0}),
        (PflGan, {"num_compared": 1}),
        (PflGan, {"num_components": 0}),
        (PflGan, {"temperature": 0.0}),
        (HflGan, {"global_every_n_rounds": 0}),
    ],
)
def test_numbers_that_make_no_sense_are_refused(method_class, options):
    with pytest.raises(HuscfError, match=next(iter(options))):
        method_class(**options)
