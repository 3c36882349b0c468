"""The core: every engine equals the uncut networks, for every legal cut."""

import itertools
from functools import partial

import pytest
import torch

from huscf.errors import PlanError
from huscf.methods import DiscriminatorAugmentation
from huscf.models import ConditionalDiscriminator, ConditionalGenerator
from tests.conftest import ENGINES, make_batch, make_gan, run_step
from tests.engines.cases import (
    NAMES,
    FreeGan,
    SgdGan,
    WatchedGan,
    WatchedLoss,
    assert_equals_uncut,
    copy_networks,
    halves,
    legal_cuts,
    load,
    seen_gradients,
    sgd,
    uncut_step,
)

#: What the paper's networks do not have.
OTHER_FORMS = {
    "generator": partial(ConditionalGenerator, width=4, depth=4, norm="none", upsampling="nearest"),
    "discriminator": partial(
        ConditionalDiscriminator,
        width=4,
        depth=4,
        norm="none",
        conditioning="both",
        minibatch_std=True,
    ),
}
CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2], 2: [1, 3, 2, 2], 3: [3, 1, 3, 1]}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("depth", "mismatched_weight"), [(4, 0.0), (4, 1.0), (6, 0.0)])
def test_one_client_equals_the_uncut_networks_for_every_legal_cut(depth, mismatched_weight, engine):
    cuts = legal_cuts(depth)
    assert len(cuts) == {4: 9, 6: 100}[depth]
    for each in cuts:
        module = make_gan(
            {0: each},
            depth=depth,
            mismatched_weight=mismatched_weight,
            engine=engine,
            method_class=WatchedGan,
            loss=WatchedLoss(),
        )
        assert_equals_uncut(module, make_batch([0]), msg=f"{each}")
        assert len(module.method.loss.logits) == 3 + (mismatched_weight > 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_augmented_steps_equal_those_of_the_uncut_networks(engine):
    augmentation = DiscriminatorAugmentation(("translation", "cutout", "colour", "flip"), 0.7)
    for each in legal_cuts(4):
        module = make_gan(
            {0: each},
            mismatched_weight=1.0,
            augmentation=augmentation,
            engine=engine,
            method_class=WatchedGan,
            loss=WatchedLoss(),
        )
        assert_equals_uncut(module, make_batch([0]), msg=f"{each}")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "form",
    [
        {"conditioning": "projection"},
        {"minibatch_std": False},
        {"conditioning": "plane"},
        {},
    ],
)
def test_other_forms_of_the_networks_equal_the_uncut_ones(engine, form):
    discriminator = partial(OTHER_FORMS["discriminator"], **form)
    forms = {**OTHER_FORMS, "discriminator": discriminator}
    for each in legal_cuts(4):
        module = make_gan(
            {0: each}, **forms, engine=engine, method_class=WatchedGan, loss=WatchedLoss()
        )
        assert_equals_uncut(module, make_batch([0]), msg=f"{each}")


@pytest.mark.parametrize("engine", ENGINES)
def test_every_placement_equals_the_uncut_networks_where_a_method_allows_all(engine):
    corners = [(0, 0), (4, 0), (0, 4), (1, 1)]
    every = halves(4, least=0)
    assert len(every) == 15
    pairs = {*itertools.product(every, corners), *itertools.product(corners, every)}
    for each in ([*g, *d] for g, d in sorted(pairs)):
        module = make_gan(
            {0: each}, method_class=FreeGan, lr=0.1, loss=WatchedLoss(), engine=engine
        )
        assert_equals_uncut(module, make_batch([0]), sgd(0.1), msg=f"{each}")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        ([0, 1, 1, 1], "client 0: generator_head is 0, must be at least 1 block"),
        ([1, 1, 1, 0], "client 0: discriminator_tail is 0, must be at least 1 block"),
        ([1, 3, 1, 1], r"client 0: generator_head 1 \+ generator_tail 3 leave the server no block"),
    ],
)
def test_the_paper_s_method_refuses_cuts_at_the_edges_in_one_line(cuts, message, engine):
    with pytest.raises(PlanError, match=message) as caught:
        make_gan({0: cuts}, engine=engine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("cuts", "options"),
    [(CUTS, {"depth": 5}), ({c: [1, 1, 1, 1] for c in range(4)}, OTHER_FORMS)],
    ids=["usual", "other_forms"],
)
def test_many_clients_get_their_own_gradients_and_the_server_the_mean(cuts, options, engine):
    module = make_gan(cuts, **options, method_class=SgdGan, engine=engine)
    batch = make_batch(cuts)
    private, networks = load(module, batch), copy_networks(module, batch)
    results = {c: uncut_step(networks[c], private[c], sgd(0.0)) for c in cuts}
    losses = run_step(module, batch)
    for name in NAMES:
        mean = sum(r[0][name] for r in results.values()) / 4
        assert losses[name] == pytest.approx(mean, abs=1e-5)
    assert_gradients(module, results, dict.fromkeys(cuts, 0.25))


@pytest.mark.parametrize("engine", ENGINES)
def test_shares_by_samples_scale_the_servers_gradient_only(engine):
    cuts = {0: [1, 1, 1, 1], 1: [1, 1, 1, 1]}
    options = {"client_sizes": {0: 30, 1: 90}, "server_gradient": "samples"}
    module = make_gan(cuts, method_class=SgdGan, engine=engine, **options)
    batch = make_batch(cuts)
    private, networks = load(module, batch), copy_networks(module, batch)
    results = {c: uncut_step(networks[c], private[c], sgd(0.0)) for c in cuts}
    run_step(module, batch)
    assert_gradients(module, results, {0: 0.25, 1: 0.75})


def assert_gradients(module, results, shares):
    """Clients have the gradients of their own losses, the server those of the weighted mean."""
    seen, shared, num_own = module.method.seen, {}, 0
    holds = module.engine.processes.holds
    for client, (_, expected, _) in results.items():
        for name in NAMES:
            gradients = iter(expected[name])
            own = module.client(client).blocks(name)
            for index in range(module.plan.num_blocks(name)):
                for parameter in module.engine.block(name, client, index).parameters():
                    gradient = next(gradients)
                    if index in own and holds(client):
                        num_own += 1
                        torch.testing.assert_close(seen[parameter], gradient, rtol=1e-4, atol=1e-6)
                    elif index not in own:
                        known = shared.get(parameter, 0)
                        shared[parameter] = known + shares[client] * gradient
    assert shared and num_own
    for parameter, gradient in shared.items():
        torch.testing.assert_close(seen[parameter], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_phase_gives_gradients_to_what_it_trains_alone(engine):
    class OnePhase(SgdGan):
        which = 0

        def phases(self, step):
            return super().phases(step)[self.which : self.which + 1]

    for which, trained in enumerate(("discriminator", "generator")):
        OnePhase.which = which
        module = make_gan({0: [1, 1, 1, 1]}, method_class=OnePhase, engine=engine)
        run_step(module, make_batch([0]))
        names = [n for n, _ in module.parties.named_parameters() if f".trained.{trained}" in n]
        assert sorted(seen_gradients(module)) == sorted(names)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_frees_what_was_kept_of_passes(engine):
    module = make_gan(CUTS, depth=5, engine=engine)
    run_step(module, make_batch(CUTS))
    for party in module.engine.all_parties().values():
        assert not party._runs
    assert all(not module.client(c).private and not module.client(c).outputs for c in CUTS)


def test_gradients_are_freed_before_a_network_is_trained_anew():
    module = make_gan({0: [1, 1, 1, 1], 1: [1, 1, 1, 1]}, engine="stacked")
    run_step(module, make_batch([0, 1]))
    before = [p.detach().clone() for p in module.client(0).trained.parameters()]
    run_step(module, make_batch([1]), step=1)
    assert all(parameter.grad is None for parameter in module.client(0).parameters())
    after = list(module.client(0).trained.parameters())
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
