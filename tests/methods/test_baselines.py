"""The methods that HuSCF-GAN is compared with: equal to a plain GAN, and what leaves a client."""

import copy
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from huscf.callbacks import ClusteredFederation
from huscf.errors import HuscfError, PlanError
from huscf.federation import (
    CflClusters,
    EachAlone,
    FeganWeights,
    IfcaClusters,
    OneCluster,
    UpdateClusters,
    draw_ring,
)
from huscf.methods import (
    FedGan,
    FeGan,
    FslGan,
    HflGan,
    HuscfGan,
    IfcaGan,
    IflGan,
    MdGan,
    PflGan,
    PooledGan,
    ProximalGan,
)
from huscf.methods.proximal_gan import ProximalAdam
from huscf.models import ConditionalDiscriminator, ConditionalGenerator
from huscf.split import ExplicitPlan, SavedPlan
from huscf.training import SplitModule
from tests.conftest import ENGINES, REPOSITORY, SHAPE, make_batch, run_step
from tests.engines.cases import Recorder, restore, save

NETWORKS = {
    "generator": partial(ConditionalGenerator, width=4, depth=5),
    "discriminator": partial(ConditionalDiscriminator, width=4, depth=5),
}
METHODS = (
    *(HuscfGan, FedGan, FeGan, FslGan, MdGan, PooledGan, ProximalGan),
    *(IfcaGan, IflGan, HflGan, PflGan),
)

#: What a method needs of the federation; others have one cluster and weights by samples.
FEDERATIONS = {
    FeGan: {"weighting": FeganWeights()},
    IfcaGan: {"rule": IfcaClusters(2)},
    HflGan: {"rule": UpdateClusters(2)},
    PflGan: {"rule": EachAlone()},
}
#: Small numbers of what a method draws.
OPTIONS = {PflGan: {"num_shared": 9, "num_compared": 12, "num_components": 4}}


def make(method_class, clients=3, engine="serial", plan=None, federation=None, **options):
    method = method_class(**NETWORKS, latent_dim=5, **OPTIONS.get(method_class, {}), **options)
    sizes = dict.fromkeys(range(clients), 6), {c: 60 + c for c in range(clients)}
    module = SplitModule(SHAPE, *sizes, method, plan and ExplicitPlan(plan), engine=engine)
    module.configure_optimizers()
    wanted = FEDERATIONS.get(method_class, {}) if federation is None else federation
    plain = {"rule": OneCluster(), "weighting": "samples", "moments": "reset"}
    module.federation = ClusteredFederation(**{**plain, **wanted})
    module.federation.begin(module)
    return module


def end_round(module):
    """A round's end as the callback makes it."""
    federation = module.federation
    federation.observe_batch(module, make_batch(module.clusters))
    return federation.apply(module, federation.decide(module))


def sgd(rate):
    return lambda network, parameters: torch.optim.SGD(parameters, lr=rate)


def assert_close(network, expected):
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(network.state_dict()[key], value, rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method_class", [MdGan, FslGan])
def test_with_one_client_a_server_generator_is_a_centralised_gan(monkeypatch, method_class, engine):
    module = make(method_class, 1, engine)
    monkeypatch.setattr(module.method, "make_optimizer", sgd(0.5))
    module.engine.make_optimizers()
    batch = make_batch([0])
    whole = {n: copy.deepcopy(module.engine.whole_network(n, 0)) for n in NETWORKS}
    losses = run_step(module, batch)

    # From the definition: one step of the discriminator, then one of the generator.
    monkeypatch.undo()
    module.engine.load_batches(batch, 0)
    drawn, private = dict(module.server.drawn[0]), dict(module.client(0).private)
    generator, discriminator = whole["generator"], whole["discriminator"]
    ones, zeros = torch.ones(6), torch.zeros(6)
    with torch.no_grad():
        shown = generator(drawn["shown noise"], drawn["shown labels"])
    judged = discriminator(shown, drawn["shown labels"]).flatten()
    loss = binary_cross_entropy_with_logits(judged, zeros)
    real = discriminator(private["samples"], private["labels"]).flatten()
    loss = loss + binary_cross_entropy_with_logits(real, ones)
    loss.backward()
    torch.optim.SGD(discriminator.parameters(), lr=0.5).step()
    fakes = generator(drawn["trained on noise"], drawn["trained on labels"])
    fooled = discriminator(fakes, drawn["trained on labels"]).flatten()
    wanted = binary_cross_entropy_with_logits(fooled, ones)
    wanted.backward()
    torch.optim.SGD(generator.parameters(), lr=0.5).step()
    expected = {"discriminator": loss.item(), "generator": wanted.item()}
    assert losses == pytest.approx(expected, abs=1e-5)
    for name, network in whole.items():
        assert_close(module.engine.whole_network(name, 0), network)


def test_the_generators_gradient_is_the_mean_of_the_clients_feedback(monkeypatch):
    """With one batch for all and equal discriminators, many clients give what one gives."""
    for name in ("serial", "stacked"):
        one, many = (make(FslGan, count, name) for count in (1, 3))
        for module in (one, many):
            monkeypatch.setattr(module.method, "make_optimizer", sgd(0.5))
            module.engine.make_optimizers()
        own = make_batch([0])[0]
        run_step(one, {0: own})
        run_step(many, dict.fromkeys(range(3), own))
        for key, value in one.engine.whole_network("generator", 0).named_parameters():
            found = many.engine.whole_network("generator", 2).get_parameter(key)
            torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6, msg=key)


def test_clients_take_the_servers_batches_in_turn():
    module = make(MdGan, 4, num_batches=3)
    module.engine.load_batches(make_batch(range(4)), 0)
    drawn = module.server.drawn
    for left, right in ((0, 3), (0, 2), (1, 0), (2, 1)):
        name = "trained on" if (left, right) == (0, 3) else "shown"
        assert torch.equal(drawn[left]["trained on noise"], drawn[right][f"{name} noise"])
    assert not torch.equal(drawn[0]["trained on noise"], drawn[1]["trained on noise"])
    # ln 4 is below 2: so many there are at least, so that the two batches differ.
    assert not torch.equal(drawn[0]["trained on noise"], drawn[0]["shown noise"])
    asked = []
    MdGan().draw(5, 100, 2, lambda name: asked.append(name) or torch.Generator(), 0)
    assert asked == ["batch 0", "batch 1"], "ln 100 is 5 when rounded up"


@pytest.mark.parametrize("engine", ENGINES)
def test_discriminators_go_round_from_client_to_client(engine):
    module = make(MdGan, 3, engine)
    run_step(module, make_batch(range(3)))
    before = [copy.deepcopy(module.engine.whole_network("discriminator", c)) for c in range(3)]
    generator = copy.deepcopy(module.engine.whole_network("generator", 0))
    moved = module.wire.traffic.total(kinds=["blocks"])
    mixture = end_round(module)
    givers = mixture.givers["discriminator"]
    assert moved == 0 and sorted(givers.values()) == [0, 1, 2]
    for client, giver in givers.items():
        assert client != giver
        assert_close(module.engine.whole_network("discriminator", client), before[giver])
    assert_close(module.engine.whole_network("generator", 1), generator)
    size = sum(t.nbytes for t in before[0].state_dict().values())
    for client in range(3):
        for direction in ("uplink", "downlink"):
            assert module.wire.traffic.total(client, direction, ["blocks"]) == size
        assert not module.client(client).optimizers["discriminator"].state


def test_a_ring_reaches_clients_that_were_absent():
    """Who has not trained shares memory with others, which a swap must leave alone."""
    module = make(MdGan, 4)
    run_step(module, make_batch([0, 1]))
    before = [copy.deepcopy(module.engine.whole_network("discriminator", c)) for c in range(4)]
    givers = end_round(module).givers["discriminator"]
    for client, giver in givers.items():
        assert_close(module.engine.whole_network("discriminator", client), before[giver])
    run_step(module, make_batch(range(4)), 1)


def test_a_ring_leaves_nobody_its_own_and_loses_nothing():
    clusters = {0: 0, 1: 1, 2: 0, 3: 0, 7: 1, 9: 2}
    for seed in range(20):
        givers = draw_ring(clusters, np.random.default_rng(seed))
        assert sorted(givers.values()) == sorted(givers) == sorted(clusters)
        assert all(clusters[c] == clusters[g] for c, g in givers.items())
        assert [c for c, g in givers.items() if c == g] == [9]
        assert givers[1] == 7 and givers[7] == 1


def test_the_proximal_step_by_hand():
    """Second step: gradient g + mu (w - w_0), then Adam's own arithmetic."""
    start = torch.tensor([1.0, -2.0])
    prox, plain = (torch.nn.Parameter(start.clone()) for _ in range(2))
    one = ProximalAdam([prox], 0.5, lr=0.1, betas=(0.5, 0.999))
    other = torch.optim.Adam([plain], lr=0.1, betas=(0.5, 0.999))
    for step in range(3):
        gradient = torch.tensor([1.0, 3.0]) * (step + 1)
        prox.grad = gradient.clone()
        plain.grad = gradient + 0.5 * (plain.detach() - start)
        one.step()
        other.step()
        torch.testing.assert_close(prox, plain)
    assert torch.equal(one.state[prox]["anchor"], start)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_proximal_term_of_zero_is_fedgan_and_a_large_one_holds_back(engine):
    batches = [make_batch(range(2), seed) for seed in range(3)]
    drift = []
    for method_class, options in (
        (FedGan, {}),
        (ProximalGan, {"mu": 0.0}),
        (ProximalGan, {"mu": 30.0}),
    ):
        module = make(method_class, 2, engine, **options)
        for step, batch in enumerate(batches):
            run_step(module, batch, step)
        drift.append(module.client(0).state_dict())
    for key, value in drift[0].items():
        torch.testing.assert_close(drift[1][key], value, rtol=0, atol=0, msg=key)
    assert any(not torch.equal(drift[2][key], value) for key, value in drift[0].items())
    end_round(module)
    assert not module.client(0).optimizers["generator"].state, "anchors begin anew"


def test_what_a_proximal_gan_needs_of_the_federation_is_said():
    module = make(ProximalGan, 2)
    federation = ClusteredFederation(rule=OneCluster())
    with pytest.raises(HuscfError, match=r"moments is keep, and ProximalGan needs reset"):
        federation.begin(module)


def crossings(module):
    """What has crossed, as a row of docs/methods.md: up and down, kinds and places."""
    found = {"uplink": [], "downlink": []}
    for key in sorted(module.wire.traffic.num_bytes):
        entry = f"{key.kind}: {key.topic}"
        if entry not in found[key.direction]:
            found[key.direction].append(entry)
    return " | ".join(", ".join(sorted(each)) or "nothing" for each in found.values())


#: What leaves a client, and what comes to it: kind and place, of a step and a round's end.
LEAKS = {
    HuscfGan: (
        "activations: discriminator_head, activations: generator_head, blocks: discriminator, "
        "blocks: generator, gradients: discriminator_tail, gradients: generator_tail | "
        "activations: discriminator_tail, activations: generator_tail, blocks: discriminator, "
        "blocks: generator, gradients: discriminator_head, gradients: generator_head"
    ),
    FedGan: "blocks: discriminator, blocks: generator | blocks: discriminator, blocks: generator",
    FeGan: (
        "blocks: discriminator, blocks: generator, label_counts: labels | "
        "blocks: discriminator, blocks: generator"
    ),
    ProximalGan: (
        "blocks: discriminator, blocks: generator | blocks: discriminator, blocks: generator"
    ),
    MdGan: (
        "blocks: discriminator, gradients: generator_tail | "
        "blocks: discriminator, inputs: drawn, outputs: generator_tail"
    ),
    FslGan: (
        "blocks: discriminator, gradients: generator_tail | "
        "blocks: discriminator, inputs: drawn, outputs: generator_tail"
    ),
    IfcaGan: (
        "activations: discriminator_head, activations: generator_head, blocks: discriminator, "
        "blocks: generator, figures: chosen cluster, gradients: discriminator_tail, "
        "gradients: generator_tail | "
        "activations: discriminator_tail, activations: generator_tail, blocks: discriminator, "
        "blocks: generator, gradients: discriminator_head, gradients: generator_head"
    ),
    IflGan: (
        "blocks: discriminator, blocks: generator, figures: told | "
        "blocks: discriminator, blocks: generator"
    ),
    HflGan: (
        "blocks: discriminator, blocks: discriminator change, blocks: generator, "
        "blocks: global_generator, figures: told | "
        "blocks: discriminator, blocks: generator, blocks: global_generator"
    ),
    PflGan: "blocks: generator, label_counts: labels | outputs: shared samples",
    PooledGan: (
        "gradients: discriminator_tail, gradients: generator_tail, inputs: discriminator_head, "
        "inputs: generator_head | gradients: discriminator_head, gradients: generator_head, "
        "outputs: discriminator_tail, outputs: generator_tail"
    ),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method_class", METHODS)
def test_what_leaves_a_client(method_class, engine):
    is_cut = method_class in (HuscfGan, IfcaGan)
    plan = {c: [1, 1, 1, 1] for c in range(3)} if is_cut else None
    module = make(method_class, 3, engine, plan, ema_decay=0.0)
    for step in range(2):
        run_step(module, make_batch(range(3)), step)
        end_round(module)
    assert crossings(module) == LEAKS[method_class]
    assert {key.kind for key in module.wire.traffic.num_bytes} <= module.method.kinds
    page = (REPOSITORY / "docs" / "methods.md").read_text()
    assert f"| {method_class.__name__} | {LEAKS[method_class]} |" in page


def test_what_leaves_a_client_where_the_server_compares_what_rounds_change():
    rule = {"rule": CflClusters(0.1)}
    module = make(HuscfGan, 3, "serial", {c: [1, 1, 1, 1] for c in range(3)}, rule, ema_decay=0.0)
    run_step(module, make_batch(range(3)))
    end_round(module)
    up, down = LEAKS[HuscfGan].split(" | ")
    leak = up.replace(", blocks: g", ", blocks: discriminator change, blocks: g") + " | " + down
    assert crossings(module) == leak
    assert f"| HuscfGan with CflClusters | {leak} |" in (REPOSITORY / "docs/methods.md").read_text()


def test_no_real_sample_or_label_leaves_a_client_of_md_gan():
    method = MdGan(**NETWORKS, latent_dim=5)
    sizes = dict.fromkeys(range(2), 6), dict.fromkeys(range(2), 60)
    module = SplitModule(SHAPE, *sizes, method, wire=(wire := Recorder()), engine="serial")
    module.configure_optimizers()
    batch = make_batch(range(2))
    module.engine.load_batches(batch, 0)
    kept = [
        t
        for c in range(2)
        for n, t in module.client(c).private.items()
        if n in ("samples", "labels")
    ]
    wire.messages.clear()
    run_step(module, batch)
    sent = [t for m in wire.messages for t in m.tensors.values()]
    assert not any(
        s.shape == t.shape and torch.equal(s.float(), t.float()) for s in sent for t in kept
    )
    up = [m for m in wire.messages if m.direction == "uplink"]
    # One gradient of a batch of samples, b x d floats, and nothing else.
    assert [(m.kind, m.num_bytes) for m in up] == [("gradients", 6 * 8 * 8 * 4)] * 2
    down = [m for m in wire.messages if m.direction == "downlink" and m.client_id == 0]
    assert sum(m.num_bytes for m in down) == 2 * 6 * 8 * 8 * 4 + 2 * 6 * 8


@pytest.mark.parametrize("method_class", METHODS)
def test_engines_agree(monkeypatch, method_class):
    modules = [make(method_class, 3, engine) for engine in ENGINES]
    for module in modules:
        monkeypatch.setattr(module.method, "make_optimizer", sgd(0.01))
        module.engine.make_optimizers()
        for step in range(4):
            run_step(module, make_batch(range(3), step), step)
            if step == 1:
                end_round(module)
    one, other = (module.state_dict() for module in modules)
    for key, value in one.items():
        # Norms at the server follow clients in another order; see tests/engines/test_agreement.py.
        if not ("server" in key and "running_" in key):
            torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-5, msg=key)
    assert modules[0].wire.traffic.num_bytes == modules[1].wire.traffic.num_bytes


@pytest.mark.parametrize("method_class", METHODS)
def test_resuming_is_bit_exact(method_class):
    batches = [make_batch(range(3), seed) for seed in range(4)]
    whole = make(method_class, 3, "stacked")
    for step, batch in enumerate(batches):
        if step == 2:
            end_round(whole)
            checkpoint = save(whole)
            decided = copy.deepcopy(whole.federation.state_dict())
        run_step(whole, batch, step)
    end_round(whole)
    resumed = restore(make(method_class, 3, "stacked"), checkpoint)
    resumed.federation.load_state_dict(decided)
    for step in (2, 3):
        run_step(resumed, batches[step], step)
    end_round(resumed)
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=0, atol=0, msg=key)
    assert whole.wire.traffic.num_bytes == resumed.wire.traffic.num_bytes


def test_a_checkpoint_of_another_method_is_refused():
    with pytest.raises(HuscfError, match="of method MdGan, here FslGan"):
        restore(make(FslGan), save(make(MdGan)))
    with pytest.raises(HuscfError, match="of method FedGan, here PflGan"):
        restore(make(PflGan), save(make(FedGan)))


@pytest.mark.parametrize(
    ("method_class", "cuts", "words"),
    [
        (MdGan, [1, 0, 4, 1], "generator_head 1 .* lie at the client, .* at most 0"),
        (MdGan, [0, 0, 2, 1], "leave the server 2 blocks of the 5-block discriminator"),
        (PooledGan, [0, 0, 1, 0], "discriminator_head 1 .* at most 0"),
        (ProximalGan, [1, 1, 4, 1], "at most 0; raise one of them"),
    ],
)
def test_a_placement_that_a_method_does_not_allow_is_named(method_class, cuts, words):
    with pytest.raises(PlanError, match=f"client 1: .*{words}"):
        plan = {0: make(method_class).plan.clients[0].cuts.as_list(), 1: cuts}
        make(method_class, 2, plan=plan)


def test_a_plan_of_another_methods_networks_is_named(tmp_path):
    path = tmp_path / "plan.yaml"
    make(HflGan, 2).plan.save(path)
    sizes = dict.fromkeys(range(2), 6), dict.fromkeys(range(2), 60)
    words = "plan.yaml: the plan is for .* a global_generator of 5 blocks, these networks are a gen"
    with pytest.raises(PlanError, match=words):
        SplitModule(SHAPE, *sizes, MdGan(**NETWORKS, latent_dim=5), SavedPlan(str(path)))


@pytest.mark.parametrize(
    ("method_class", "options"), [(MdGan, {"num_batches": 0}), (ProximalGan, {"mu": -1.0})]
)
def test_numbers_that_make_no_sense_are_refused(method_class, options):
    with pytest.raises(HuscfError, match=next(iter(options))):
        method_class(**options)


def test_blocks_and_a_moving_average_follow_their_holders():
    """The generator's average lies where the generator does, and is drawn from."""
    module = make(MdGan, 2)
    for step, _ in pairwise(range(3)):
        run_step(module, make_batch(range(2), step), step)
    average = module.engine.whole_network("generator", 0, "average")
    assert module.server.average.segments("generator")[0].indices == [0, 1, 2, 3, 4]
    assert any(
        (a != b).any()
        for a, b in zip(
            average.parameters(),
            module.engine.whole_network("generator", 0).parameters(),
            strict=True,
        )
    )
    drawn = module.sample(1, torch.arange(3), torch.Generator().manual_seed(0))
    noise = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    average.eval()
    with torch.no_grad():
        torch.testing.assert_close(drawn, average(noise, torch.arange(3)))
