"""Flow matching, the autoencoder and FedGAN equal their uncut networks, for every legal cut."""

import copy
import itertools
from functools import partial

import pytest
import torch

from huscf.callbacks import ClusteredFederation
from huscf.engines import Mixture
from huscf.errors import HuscfError, PlanError
from huscf.federation import OneCluster
from huscf.methods import FedGan, FlowMatching, HuscfGan, Vae
from huscf.models import (
    LABELS,
    MAIN,
    ConditionalDiscriminator,
    ConditionalEncoder,
    ConditionalGenerator,
    SampleShape,
    UNet,
    run_blocks,
)
from huscf.split import ExplicitPlan, find_crossing
from huscf.training import SplitModule
from tests.conftest import ENGINES, REPOSITORY, SHAPE, make_batch, run_step
from tests.methods.test_baselines import crossings

HALVES = [(h, t) for h in range(1, 5) for t in range(1, 5) if h + t < 5]
NETWORKS = {
    "generator": partial(ConditionalGenerator, width=4, depth=5),
    "discriminator": partial(ConditionalDiscriminator, width=4, depth=5),
}


def sgd(network, parameters):
    """One step moves a parameter by its gradient."""
    return torch.optim.SGD(parameters, lr=1.0)


def make_flow(**options):
    return FlowMatching(partial(UNet, width=8), **options)


def make_vae():
    parts = partial(ConditionalEncoder, width=4), partial(ConditionalGenerator, width=4)
    return Vae(*parts, latent_dim=5)


def make_fedgan():
    return FedGan(**NETWORKS, latent_dim=5)


def make(method, cuts, engine="stacked", **options):
    plan = None if cuts is None else ExplicitPlan(cuts)
    clients = range(4) if cuts is None else cuts
    sizes = dict.fromkeys(clients, 6), dict.fromkeys(clients, 60)
    module = SplitModule(SHAPE, *sizes, method, plan, engine=engine, **options)
    module.configure_optimizers()
    return module


def train_uncut(module, client, batch):
    """Return whole networks after one step of the method's one phase, from its definition."""
    module.engine.load_batches({client: batch}, 0)
    private = module.client(client).private
    module.client(client).clear_batch()
    (phase,) = module.method.phases(0)
    whole = {n: copy.deepcopy(module.engine.whole_network(n, client)) for n in phase.trains}
    outputs, loss = {}, 0.0
    for item in phase.passes:
        blocks = dict(enumerate(whole[item.network]))
        outputs[item.name] = run_blocks(blocks, item.read_inputs(private, outputs))
        loss = loss + item.loss(outputs[item.name], private)
    loss.backward()
    for network in whole.values():
        torch.optim.SGD(network.parameters(), lr=1.0).step()
    return whole, loss.item()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make_method", [make_flow, make_vae])
def test_a_split_step_equals_the_uncut_one_for_every_legal_cut(monkeypatch, make_method, engine):
    count = len(make_method().build_networks(SHAPE))
    cuts = [sum(halves, ()) for halves in itertools.product(HALVES, repeat=count)]
    for each in cuts if count == 1 else cuts[:: len(cuts) // 9]:
        method = make_method()
        monkeypatch.setattr(method, "make_optimizer", sgd)
        module = make(method, {0: list(each)}, engine)
        batch = make_batch([0])
        expected, loss = train_uncut(module, 0, batch[0])
        losses = run_step(module, batch)
        assert sum(losses.values()) == pytest.approx(loss, abs=1e-5)
        for name, network in expected.items():
            own = module.engine.whole_network(name, 0).state_dict()
            for key, value in network.state_dict().items():
                torch.testing.assert_close(
                    own[key], value, rtol=1e-5, atol=1e-5, msg=f"{each} {key}"
                )


@pytest.mark.parametrize("make_method", [make_flow, make_vae, make_fedgan])
def test_engines_agree(monkeypatch, make_method):
    modules, states = [], []
    for engine in ENGINES:
        method = make_method()
        monkeypatch.setattr(method, "make_optimizer", lambda n, p: torch.optim.SGD(p, lr=0.01))
        count = len(method.build_networks(SHAPE))
        halves = [[1, 1], [2, 1], [1, 2], [1, 1]]
        cuts = None if isinstance(method, FedGan) else {c: halves[c] * count for c in range(4)}
        module = make(method, cuts, engine)
        for step in range(3):
            run_step(module, make_batch(range(4), step), step)
        states.append(copy.deepcopy(module.state_dict()))
        clusters, weights = {0: 0, 1: 0, 2: 1, 3: 1}, {0: 0.25, 1: 0.75, 2: 0.5, 3: 0.5}
        module.engine.mix(Mixture(clusters, weights))
        modules.append(module)
    # Of the server's norms, which the VAE has, running statistics depend on the order in which
    # clients pass; a round mixes the clients' with them.
    left_out = ("parties.server", "parties") if isinstance(modules[0].method, Vae) else ("-", "-")
    for each, where in zip((states, [m.state_dict() for m in modules]), left_out, strict=True):
        one, other = each
        for key, value in one.items():
            if not (key.startswith(where) and "running_" in key):
                torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-5, msg=key)
    traffic = [module.wire.traffic.num_bytes for module in modules]
    assert traffic[0] == traffic[1]
    drawn = modules[1].sample(0, torch.arange(3), torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 1, 8, 8) and drawn.isfinite().all()


def test_skips_between_equal_ends_and_labels_never_cross():
    blocks = list(UNet(SampleShape(1, 28, 10), 16, num_bottom=2))
    assert len(blocks) == 6
    assert find_crossing(blocks, 2, 2).home == ("skip1", "time", "skip0", LABELS)
    for head, tail in itertools.product(range(1, 5), repeat=2):
        if head + tail < len(blocks):
            crossing = find_crossing(blocks, head, tail)
            assert LABELS not in (*crossing.up, *crossing.down)
            assert "skip0" not in (*crossing.up, *crossing.down)
            assert ("skip1" in (*crossing.up, *crossing.down)) == ((head >= 2) != (tail >= 2))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("method", "cuts"),
    [
        (make_flow(ema_decay=0.0), {0: [1, 1], 1: [1, 1], 2: [2, 2]}),
        (make_vae(), {client: [1, 1, 1, 1] for client in range(3)}),
    ],
)
def test_what_leaves_a_client_is_what_the_documents_say(method, cuts, engine):
    module = make(method, cuts, engine)
    run_step(module, make_batch(range(3)))
    federation = ClusteredFederation(rule=OneCluster(), weighting="samples")
    federation.begin(module)
    federation.apply(module, federation.decide(module))
    row = f"| {type(method).__name__} | {crossings(module)} |"
    assert row in (REPOSITORY / "docs" / "methods.md").read_text()


def test_labels_that_would_cross_are_refused():
    module = make(make_flow(), {0: [1, 1]})
    assert {key.kind for key in module.wire.traffic.num_bytes} == set()
    run_step(module, make_batch([0]))
    assert {key.kind for key in module.wire.traffic.num_bytes} == {"activations", "gradients"}
    for cuts, name in (([0, 1], "denoiser_head"), ([1, 0], "denoiser_tail"), ([3, 2], "denoiser")):
        with pytest.raises(PlanError, match=f"client 0: {name}"):
            make(make_flow(), {0: cuts})


def test_guidance_follows_the_label_and_one_pass_is_enough_without():
    calls = []

    def run(name, inputs):
        calls.append(inputs[LABELS].tolist())
        return {MAIN: inputs[LABELS].view(-1, 1, 1, 1) * torch.ones(2, 1, 8, 8)}

    method = make_flow(guidance=2.0, num_steps=1)
    method.build_networks(SHAPE)
    stream = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = method.sample(run, torch.tensor([0, 1]), stream)
    # Class 3 stands for none: v = 3 + 2 (y - 3).
    velocity = torch.tensor([-3.0, -1.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(drawn, (noise + velocity).clamp(-1, 1))
    assert calls == [[0, 1], [3, 3]]
    calls.clear()
    plain = make_flow(guidance=1.0, num_steps=3)
    plain.build_networks(SHAPE)
    plain.sample(run, torch.tensor([0, 1]), stream)
    assert calls == [[0, 1]] * 3
    calls.clear()
    between = make_flow(guidance=2.0, guidance_from=0.25, guidance_until=0.75, num_steps=4)
    between.build_networks(SHAPE)
    between.sample(run, torch.tensor([0, 1]), stream)
    assert calls == [[0, 1], [0, 1], [3, 3], [0, 1], [3, 3], [0, 1]]


@pytest.mark.parametrize("path", ["straight", "cosine"])
def test_samples_are_trained_along_a_path_from_noise_to_them(path):
    method = make_flow(path=path)
    method.build_networks(SHAPE)
    side = SHAPE.image_size
    samples = torch.full((50, SHAPE.channels, side, side), 255, dtype=torch.uint8)

    def streams(purpose):
        return torch.Generator().manual_seed(3)

    private = method.prepare(samples, torch.zeros(50, dtype=torch.int64), streams, 0)
    time = private["time"].view(-1, 1, 1, 1)
    noise = torch.randn(50, SHAPE.channels, side, side, generator=streams("training noise"))
    angle = time * torch.pi / 2
    # Where a path goes by hand, and how fast: the derivative by time, white samples being 1.
    at, speed = {
        "straight": ((1 - time) * noise + time, 1 - noise),
        "cosine": (
            angle.cos() * noise + angle.sin(),
            torch.pi / 2 * (angle.cos() - angle.sin() * noise),
        ),
    }[path]
    torch.testing.assert_close(private["noised"], at)
    torch.testing.assert_close(private["velocity"], speed)


@pytest.mark.parametrize("path", ["straight", "cosine"])
def test_drawing_by_the_exact_velocity_finds_the_only_sample(path):
    method = make_flow(path=path, guidance=1.0, num_steps=200)
    method.build_networks(SHAPE)

    def run(name, inputs):
        place, time = inputs[MAIN].double(), inputs["time"].double().view(-1, 1, 1, 1)
        angle = time * torch.pi / 2
        sample = 0.25
        if path == "straight":
            return {MAIN: (sample - place) / (1 - time)}
        noise = (place - angle.sin() * sample) / angle.cos()
        return {MAIN: torch.pi / 2 * (angle.cos() * sample - angle.sin() * noise)}

    drawn = method.sample(run, torch.tensor([0, 1]), torch.Generator().manual_seed(1))
    assert (drawn - 0.25).abs().max() < 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": "winding"}, "path is 'winding', must be one of straight, cosine"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"label_dropout": 0.0}, "set label_dropout above 0"),
        ({"label_dropout": 1.0}, "label_dropout is 1.0"),
        ({"guidance": float("inf")}, "guidance is inf"),
        ({"guidance_from": 0.5, "guidance_until": 0.5}, "guidance_from is 0.5 and guidance_until"),
        ({"guidance_until": 1.5}, "guidance_until 1.5, must be times from 0 to 1"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"betas": (0.9, 1.0)}, "betas is"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, words):
    with pytest.raises(HuscfError, match=words):
        make_flow(**options)


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(HuscfError, match="image_size 30 must be a multiple of 4"):
        UNet(SampleShape(1, 30, 10))
    with pytest.raises(HuscfError, match="multiple of 8"):
        UNet(SampleShape(1, 28, 10), width=12)


def test_the_autoencoders_latent_never_leaves_the_client():
    cuts = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2]}
    module = make(make_vae(), cuts)
    run_step(module, make_batch(cuts))
    topics = {key.topic for key in module.wire.traffic.num_bytes}
    assert topics == {"encoder_head", "encoder_tail", "decoder_head", "decoder_tail"}
    crossing = module.client(0).crossings["encoder"]
    assert (crossing.up, crossing.down) == ((MAIN,), (MAIN,))
    with pytest.raises(PlanError, match="encoder_tail is 0"):
        make(make_vae(), {0: [1, 0, 1, 1]})


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"noise_std": 0.0}, {"latent_dim": 0}])
def test_an_autoencoder_refuses_numbers_that_make_no_sense(options):
    with pytest.raises(HuscfError, match=next(iter(options))):
        Vae(**options)


@pytest.mark.parametrize("engine", ENGINES)
def test_fedgan_of_one_client_is_a_gan_of_its_own(monkeypatch, engine):
    """The same step as HuSCF-GAN's, whose cuts change nothing; nothing crosses."""
    monkeypatch.setattr(HuscfGan, "make_optimizer", lambda self, n, p: torch.optim.SGD(p, lr=0.1))
    alone = make(make_fedgan(), {0: [3, 2, 4, 1]}, engine)
    split = make(HuscfGan(**NETWORKS, latent_dim=5), {0: [1, 1, 2, 1]}, engine)
    batch = make_batch([0])
    for module in (alone, split):
        run_step(module, batch)
    assert alone.wire.traffic.total() == 0
    for name in NETWORKS:
        one, other = (m.engine.whole_network(name, 0).state_dict() for m in (alone, split))
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-6, msg=key)


def test_fedgan_averages_whole_networks_over_the_wire(monkeypatch):
    """One step each from common weights, then the mean: gradient averaging."""
    monkeypatch.setattr(FedGan, "make_optimizer", lambda self, n, p: torch.optim.SGD(p, lr=0.1))
    module = make(make_fedgan(), None)
    assert module.plan.clients[0].cuts.as_list() == [4, 1, 4, 1]
    before = copy.deepcopy(module.engine.whole_network("discriminator", 0))
    run_step(module, make_batch(range(4)))
    moved = [list(module.engine.whole_network("discriminator", c).parameters()) for c in range(4)]
    shares = {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}
    expected = [
        start + sum(shares[c] * (own - start) for c, own in enumerate(each))
        for start, *each in zip(before.parameters(), *moved, strict=True)
    ]
    expected = [value.detach().clone() for value in expected]
    module.engine.mix(Mixture(dict.fromkeys(range(4), 0), shares))
    for client in range(4):
        network = module.engine.whole_network("discriminator", client)
        for parameter, value in zip(network.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter, value, rtol=1e-5, atol=1e-6)
    assert {key.kind for key in module.wire.traffic.num_bytes} == {"blocks"}
    with pytest.raises(PlanError, match="leaves it at most 0"):
        make(make_fedgan(), {0: [1, 1, 1, 1]})


@pytest.mark.parametrize("make_method", [make_flow, lambda: HuscfGan(**NETWORKS)])
def test_clients_of_a_cluster_draw_alike_after_a_round_until_they_train(make_method):
    method = make_method()
    count = len(method.build_networks(SHAPE))
    cuts = {c: [1 + c % 2, 1] * count for c in range(4)}
    module = make(method, cuts)
    clusters, equal = {0: 0, 1: 0, 2: 1, 3: 1}, dict.fromkeys(range(4), 0.5)
    run_step(module, make_batch(range(4)))
    assert [c for c in range(4) if module.draws_alike(1, c)] == [1]
    module.engine.mix(Mixture(clusters, equal))
    assert [c for c in range(4) if module.draws_alike(1, c)] == [0, 1]
    labels = torch.arange(3)
    draw = [module.sample(c, labels, torch.Generator().manual_seed(0)) for c in range(3)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    run_step(module, make_batch(range(4)), 1)
    assert not module.draws_alike(0, 1)
