"""Differential privacy: what is clipped, what noise is added, what is counted, what is refused."""

import itertools
import math
from functools import partial

import pytest
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, pld, rdp
from torch import nn

from huscf.engines import DifferentialPrivacy
from huscf.engines.private.accounting import Accountant, Exposure, keep_worst
from huscf.errors import CheckpointError, HuscfError
from huscf.methods import DiscriminatorAugmentation, FlowMatching, MdGan, Vae
from huscf.models import (
    ConditionalDiscriminator,
    ConditionalEncoder,
    ConditionalGenerator,
    Network,
    SampleShape,
    UNet,
    run_blocks,
)
from huscf.split import ExplicitPlan
from huscf.training import SplitModule
from huscf.wire import SERVER
from tests.conftest import SHAPE, make_batch, make_gan, run_step
from tests.engines.cases import (
    DoubleGan,
    Recorder,
    SgdGan,
    legal_cuts,
    restore,
    save,
    seen_gradients,
)

ONE = {0: [1, 1, 1, 1]}
CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2], 2: [1, 2, 2, 1]}


def make_private(cuts, noise=0.0, max_norm=1e6, options=None, **kwargs):
    """A small GAN under differential privacy, whose discriminator mixes no samples."""
    privacy = DifferentialPrivacy(noise, max_norm, 1e-3, **(options or {}))
    given = {"norm": "group", "fake_label_weights": [1, 1, 1], "engine": "serial", **kwargs}
    return make_gan(cuts, privacy=privacy, **given)


def make_other(method, cuts, wire=None):
    """A run of another method of which records are clipped to next to nothing."""
    sizes = dict.fromkeys(cuts, 6), dict.fromkeys(cuts, 60)
    privacy = DifferentialPrivacy(0.0, 1e-9, 1e-3)
    module = SplitModule(
        SHAPE, *sizes, method, ExplicitPlan(cuts), wire, engine="serial", privacy=privacy
    )
    module.configure_optimizers()
    return module


def list_sample_gradients(module, client_id, batch):
    """The gradients of each record and its fake by backward passes of their own: (R, P), names."""
    engine = module.engine
    engine.load_batches(batch, 0)
    client = engine.client(client_id)
    (phase,) = (p for p in module.method.phases(0) if client.noted & set(p.trains))
    whole = {n: engine.whole_network(n, client_id) for n in engine.networks}
    outputs = {}
    for item in phase.passes:
        if item.name in client.free_passes:
            blocks = dict(enumerate(whole[item.network]))
            inputs = item.read_inputs(client.view(item), outputs)
            outputs[item.name] = {k: v.detach() for k, v in run_blocks(blocks, inputs).items()}
    client.outputs = dict(outputs)
    parameters = [p for name in phase.trains for p in whole[name].parameters()]
    rows = []
    for row in range(client.num_rows):
        made, loss = {}, torch.zeros(())
        for item in phase.passes:
            if item.name in client.free_passes:
                continue
            own = {name: tensor[row : row + 1] for name, tensor in client.view(item).items()}
            given = {
                name: {k: v[row : row + 1] for k, v in written.items()}
                for name, written in client.view_outputs(item).items()
            }
            inputs = item.read_inputs(own, {**given, **made})
            made[item.name] = run_blocks(dict(enumerate(whole[item.network])), inputs)
            if item.loss is not None:
                loss = loss + item.loss(made[item.name], own)
        found = torch.autograd.grad(loss, parameters)
        rows.append(torch.cat([each.flatten() for each in found]))
    client.clear_batch()
    engine.server.forget_runs()
    return torch.stack(rows), parameters


def clipped_norms(wire, client_id, norm):
    """The norms that clipping to next to nothing tells."""
    (factors,) = (
        m.tensors["factors"] for m in wire.messages if m.kind == "norms" and m.sender == client_id
    )
    return norm / factors


# Clipping


@pytest.mark.parametrize("conditioning", ["plane", "both"])
def test_norms_are_those_of_single_samples_for_every_legal_cut_of_a_gan(conditioning):
    discriminator = partial(
        ConditionalDiscriminator, width=4, depth=5, norm="group", conditioning=conditioning
    )
    options = {"depth": 5, "method_class": SgdGan, "discriminator": discriminator}
    for each in [c for c in legal_cuts(5) if c[:2] == [1, 1]]:
        module = make_private({0: each}, max_norm=1e-9, wire=Recorder(), **options)
        batch = make_batch([0], size=5)
        expected, _ = list_sample_gradients(module, 0, batch)
        run_step(module, batch)
        found = clipped_norms(module.wire, 0, 1e-9)
        torch.testing.assert_close(found, expected.norm(dim=1), rtol=1e-5, atol=1e-7, msg=f"{each}")


@pytest.mark.parametrize("name", ["flow", "vae"])
def test_norms_are_those_of_single_samples_for_every_legal_cut_of_other_methods(name):
    halves = [(h, t) for h in range(1, 5) for t in range(1, 5) if h + t < 5]
    if name == "flow":
        cuts, make = [*map(list, halves)], lambda: FlowMatching(partial(UNet, width=8))
    else:
        parts = (
            partial(ConditionalEncoder, width=4, norm="group"),
            partial(ConditionalGenerator, width=4, norm="group"),
        )
        make = lambda: Vae(*parts, latent_dim=5)  # noqa: E731
        cuts = [[*one, *other] for one, other in itertools.product(halves, repeat=2)][::4]
    for each in cuts:
        module = make_other(make(), {0: each}, Recorder())
        batch = make_batch([0], size=4)
        expected, _ = list_sample_gradients(module, 0, batch)
        run_step(module, batch)
        found = clipped_norms(module.wire, 0, 1e-9)
        torch.testing.assert_close(found, expected.norm(dim=1), rtol=1e-5, atol=1e-7, msg=f"{each}")


@pytest.mark.parametrize("size", [0, 1, 4, 6, 9])
def test_the_gradient_is_the_sum_of_clipped_ones_over_the_expected_number(size):
    module = make_private({0: [1, 1, 2, 1]}, max_norm=0.5, method_class=SgdGan)
    batch = make_batch([0], size=size)
    each, parameters = list_sample_gradients(module, 0, batch)
    factors = (0.5 / each.norm(dim=1)).clamp(max=1)
    assert size < 4 or (factors < 1).sum() > 0
    expected = (factors @ each) / 6 if size else torch.zeros_like(each[0])
    run_step(module, batch)
    found = torch.cat([module.method.seen[p].flatten() for p in parameters])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert size == 0 or expected.norm() > 0.01


def test_the_server_adds_clients_up_by_their_shares():
    options = {"client_sizes": {0: 20, 1: 60, 2: 40}, "server_gradient": "samples"}
    module = make_private(CUTS, max_norm=0.5, method_class=SgdGan, **options)
    batch = make_batch(CUTS)
    expected = {}
    for client, share in {0: 1 / 6, 1: 1 / 2, 2: 1 / 3}.items():
        each, parameters = list_sample_gradients(module, client, {client: batch[client]})
        total = (0.5 / each.norm(dim=1)).clamp(max=1) @ each / 6
        sizes = [p.numel() for p in parameters]
        at_server = set(module.server.parameters())
        for parameter, own in zip(parameters, total.split(sizes), strict=True):
            weight = share if parameter in at_server else 1.0
            expected[parameter] = expected.get(parameter, 0.0) + weight * own
    run_step(module, batch)
    for parameter, wanted in expected.items():
        found = module.method.seen[parameter].flatten()
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cuts", [ONE, CUTS])
def test_without_noise_and_clipping_a_step_is_the_plain_one(cuts, double_precision):
    # With all of a client's records in a batch every fake has its record.
    options = {"client_sizes": dict.fromkeys(cuts, 6), "method_class": DoubleGan, "lr": 0.1}
    private = make_private(cuts, **options)
    given = {"norm": "group", "engine": "serial", "fake_label_weights": [1, 1, 1]}
    plain = make_gan(cuts, **given, **options)
    before = {n: t.clone() for n, t in plain.parties.state_dict().items()}
    for step in range(3):
        batch = make_batch(cuts, step)
        one, other = run_step(plain, batch, step), run_step(private, batch, step)
        assert one == pytest.approx(other, abs=1e-5)
    after = private.parties.state_dict()
    for name, value in plain.parties.state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_what_crosses_is_one_number_a_sample_and_party():
    module = make_private(ONE, wire=Recorder())
    run_step(module, make_batch(ONE, size=4))
    found = [m for m in module.wire.messages if m.kind == "norms"]
    assert [(m.sender, m.receiver) for m in found] == [(SERVER, 0), (0, SERVER)]
    assert [tuple(t.shape) for m in found for t in m.tensors.values()] == [(4,), (4,)]


def test_the_generator_s_step_follows_from_no_record_and_not_from_their_number():
    found = []
    for seed, size in ((0, 6), (1, 6), (2, 3), (3, 0)):
        module = make_private(CUTS, max_norm=1.0, method_class=SgdGan)
        run_step(module, make_batch(CUTS, seed, size))
        gradients = seen_gradients(module)
        found.append({n: g for n, g in gradients.items() if "generator" in n})
    assert len(found[0]) > 10
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())


def test_a_record_s_partner_does_not_follow_from_the_others():
    module = make_private(ONE, client_sizes={0: 60})
    client, counts = module.client(0), torch.zeros(6)
    for seed in range(300):
        client.draw_partners(2, 60, torch.Generator().manual_seed(seed))
        counts += torch.bincount(client.partners, minlength=6)
        few = client.partners
        client.draw_partners(5, 60, torch.Generator().manual_seed(seed))
        assert torch.equal(client.partners[:2], few)
    assert counts.sum() == 600 and (counts - 100).abs().max() < 40


# Noise


def read_noise(module, batch, steps):
    """What noise adds to the gradients of discriminators: by parameter, (steps, ...)."""
    plain, noisy = (make() for make in module)
    found = {}
    for step in range(steps):
        run_step(plain, batch, step)
        run_step(noisy, batch, step)
        names = {p: n for n, p in noisy.parties.named_parameters()}
        of_plain = seen_gradients(plain)
        for parameter, gradient in noisy.method.seen.items():
            name = names[parameter]
            if "discriminator" in name:
                found.setdefault(name, []).append(gradient - of_plain[name])
    return {name: torch.stack(each) for name, each in found.items()}


@pytest.mark.parametrize("server_gradient", ["uniform", "samples"])
def test_noise_has_the_stated_variance(server_gradient):
    sizes = {0: 60, 1: 90, 2: 30}
    options = {"client_sizes": sizes, "method_class": SgdGan, "server_gradient": server_gradient}
    makers = [partial(make_private, CUTS, n, 2.0, **options) for n in (0.0, 1.5)]
    noise = read_noise(makers, make_batch(CUTS, size=3), 4)
    share = 0.5 if server_gradient == "samples" else 1 / 3
    every = []
    for name, values in noise.items():
        scale = 1.5 * 2.0 / 6 * (share if ".server." in f".{name}" else 1.0)
        every.append((values / scale).flatten())
        assert abs(every[-1].mean()) < 5 / math.sqrt(values.numel()), name
    drawn = torch.cat(every)
    assert len(drawn) > 5_000
    assert drawn.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * len(drawn)))
    for each in every:
        assert each.std().item() == pytest.approx(1, abs=6 / math.sqrt(2 * len(each)))


def test_noise_differs_by_party_and_step_and_only_the_private_phase_has_any():
    makers = [partial(make_private, CUTS, n, 1.0, method_class=SgdGan) for n in (0.0, 1.0)]
    noise = read_noise(makers, make_batch(CUTS), 2)
    name = "trained.discriminator_head.blocks.0.embedding.weight"
    one, other = (noise[f"clients.{client}.{name}"] for client in (0, 1))
    vectors = [one[0], one[1], other[0], other[1]]
    for a, b in itertools.combinations(vectors, 2):
        cosine = nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)
        assert abs(cosine) < 5 / math.sqrt(a.numel())
    plain, noisy = (make() for make in makers)
    for module in (plain, noisy):
        run_step(module, make_batch(CUTS))
    of_plain, of_noisy = seen_gradients(plain), seen_gradients(noisy)
    assert all(torch.equal(of_noisy[n], g) for n, g in of_plain.items() if "generator" in n)


class StillGan(SgdGan):
    """Whose fakes are always the same, so that noise alone hides a record."""

    def prepare(self, *args):
        private = super().prepare(*args)
        still = {name: torch.zeros_like(private[name]) for name in ("noise", "fake_labels")}
        return {**private, **still}


def test_a_canary_is_found_as_often_as_the_noise_allows_and_not_more():
    """One step on all records: whether one was there shifts a Gaussian by 1 / noise_multiplier."""
    size, rounds = 6, 100
    options = {"client_sizes": {0: 2 * size}, "method_class": StillGan}
    batch = make_batch([0], size=size)
    canary = (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([2]))
    present = {0: tuple(torch.cat(each) for each in zip(batch[0], canary, strict=True))}
    reference = make_private(ONE, 0.0, 0.1, **options)
    each, _ = list_sample_gradients(reference, 0, present)
    assert each[-1].norm() > 0.1  # so that its share is as large as clipping allows
    direction = each[-1] / each[-1].norm()

    def attack(noise, count):
        module = make_private(ONE, noise, 0.1, **options)
        parameters = list_sample_gradients(module, 0, present)[1]
        found = []
        for step in range(2 * count):
            run_step(module, present if step % 2 else batch, step)
            update = torch.cat([module.method.seen[p].flatten() for p in parameters])
            found.append(float(update @ direction))
        absent, there = torch.tensor(found[::2]), torch.tensor(found[1::2])
        return float((there[:, None] > absent[None]).float().mean())

    assert attack(0.0, 5) == 1.0  # without noise it finds the canary every time
    expected = 0.5 * (1 + math.erf(1 / 2))  # P(N(1, 1) > N(0, 1)) at noise_multiplier 1
    auroc = attack(1.0, rounds)
    assert abs(auroc - expected) < 0.1
    assert attack(10.0, rounds) < 0.63


# Accounting


def gaussian_delta(epsilon, sigma):
    """Source: Balle and Wang 2018, theorem 8; the Gaussian mechanism, exactly."""

    def below(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    a, b = 1 / (2 * sigma), epsilon * sigma
    return below(a - b) - math.exp(epsilon) * below(-a - b)


@pytest.mark.parametrize(("sigma", "steps"), [(2.0, 1), (4.0, 9), (10.0, 100)])
def test_epsilon_is_that_of_theory_where_every_record_is_in_every_batch(sigma, steps):
    accountant = Accountant(DifferentialPrivacy(sigma, delta=1e-5))
    epsilon = accountant.epsilon([Exposure(1.0, steps)])
    assert 0.9e-5 < gaussian_delta(epsilon, sigma / math.sqrt(steps)) < 1.0001e-5
    rough = Accountant(DifferentialPrivacy(sigma, delta=1e-5, accountant="rdp"))
    assert epsilon <= rough.epsilon([Exposure(1.0, steps)]) < 1.5 * epsilon


def test_epsilon_of_a_run_is_the_library_s():
    module = make_private(CUTS, 1.3, 1.0, client_sizes={0: 60, 1: 24, 2: 60})
    for step in range(3):
        run_step(module, make_batch([0, 1] if step else [0, 1, 2], step), step)
    event = PoissonSampledDpEvent(6 / 24, GaussianDpEvent(1.3))
    expected = pld.PLDAccountant().compose(event, 3).get_epsilon(1e-3)
    found = module.engine.figures()
    assert found == {"privacy/epsilon": pytest.approx(expected, rel=1e-9), "privacy/delta": 1e-3}
    assert module.engine.budget.num_steps == {0: 3, 1: 3, 2: 1}


def test_a_published_value():
    """60 epochs on MNIST, noise 1.1, batches of 256 of 60,000, delta 1e-5: below 3."""
    options = DifferentialPrivacy(1.1, delta=1e-5, accountant="rdp")
    epsilon = Accountant(options).epsilon([Exposure(256 / 60_000, 60 * 60_000 // 256)])
    event = PoissonSampledDpEvent(256 / 60_000, GaussianDpEvent(1.1))
    library = rdp.RdpAccountant().compose(event, 14_062).get_epsilon(1e-5)
    assert epsilon == pytest.approx(library, rel=0.02) and 2.5 < epsilon < 3.0


def test_only_the_most_exposed_are_asked_of():
    every = [
        Exposure(0.1, 5),
        Exposure(0.2, 5),
        Exposure(0.2, 3),
        Exposure(0.1, 9),
        Exposure(0.05, 9),
    ]
    assert keep_worst(every) == [Exposure(0.2, 5), Exposure(0.1, 9)]


def test_the_last_step_is_the_last_within_the_budget():
    options = {"max_epsilon": 3.0, "accountant": "rdp"}
    module = make_private(ONE, 1.0, 1.0, options)
    engine, step = module.engine, 0
    engine.begin()
    while not engine.is_spent():
        run_step(module, make_batch([0], step, 2), step)
        step += 1
    assert step > 3
    assert engine.figures()["privacy/epsilon"] <= 3.0
    more = Accountant(engine.privacy).epsilon([Exposure(0.1, step + 1)])
    assert more > 3.0
    with pytest.raises(HuscfError, match=r"max_epsilon 3\.0: another step would exceed it"):
        run_step(module, make_batch([0]), step)
    assert engine.budget.num_steps == {0: step}
    with pytest.raises(HuscfError, match=r"of which .* is spent"):
        engine.begin()


# Checkpoints


def test_a_resumed_run_equals_one_that_went_on_bit_for_bit():
    def go_on(module, steps):
        for step in steps:
            run_step(module, make_batch(CUTS, step, size=3 + step), step)
        return module

    whole = go_on(make_private(CUTS, 1.0, 1.0), range(4))
    half = save(go_on(make_private(CUTS, 1.0, 1.0), range(2)))
    resumed = go_on(restore(make_private(CUTS, 1.0, 1.0), half), range(2, 4))
    one, other = whole.parties.state_dict(), resumed.parties.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert resumed.engine.figures() == whole.engine.figures()
    assert resumed.engine.budget.num_steps == dict.fromkeys(CUTS, 4)


def test_steps_that_nobody_counted_are_not_gone_on_with():
    plain = make_gan(ONE, norm="group", engine="serial", fake_label_weights=[1, 1, 1])
    with pytest.raises(CheckpointError, match="private_steps"):
        restore(make_private(ONE), save(plain))


# Refusals


class Dropping(Network):
    """A discriminator that draws in training."""

    def __init__(self, shape):
        blocks = list(ConditionalDiscriminator(shape, width=4, depth=4, norm="none"))
        super().__init__([blocks[0], nn.Sequential(blocks[1], nn.Dropout(0.5)), *blocks[2:]])


class Centred(nn.Module):
    """Takes the mean of the batch away."""

    def forward(self, values):
        return values - 0.9 * values.mean(0, keepdim=True)


class Mixing(Network):
    """A discriminator whose layer, of which nobody knows, mixes samples."""

    def __init__(self, shape):
        blocks = list(ConditionalDiscriminator(shape, width=4, depth=4, norm="none"))
        super().__init__([blocks[0], nn.Sequential(blocks[1], Centred()), *blocks[2:]])


class CentredLogit(nn.Module):
    """Knows of a sample what the others of its label have not."""

    reads = ("x", "labels")

    def __init__(self, logit):
        super().__init__()
        self.logit = logit

    def forward(self, values, labels):
        means = [values[labels == label].mean(0) for label in labels]
        return self.logit(values - 0.5 * torch.stack(means))


class MixingWithinLabels(Network):
    """A discriminator whose layer, of which nobody knows, mixes the samples of a label."""

    def __init__(self, shape):
        blocks = list(ConditionalDiscriminator(shape, width=4, depth=4, norm="none"))
        super().__init__([*blocks[:3], CentredLogit(blocks[3])])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "batch"}, "block 0 of the discriminator has BatchNorm2d.*norm"),
        ({"fake_label_weights": None}, "in 2 phases.*fake_label_weights"),
        ({"mismatched_weight": 1.0}, "wrong_labels.*mismatched_weight 0"),
        ({"head_penalty": 1.0}, "head_penalty to 0"),
        (
            {"augmentation": DiscriminatorAugmentation(adaptive=True)},
            "augmentation.adaptive to false",
        ),
        ({"on_nonfinite": "drop"}, "on_nonfinite"),
        ({"engine": "stacked"}, "model.engine: stacked.*serial"),
        ({"discriminator": Dropping}, "others of its batch, or from random numbers"),
        ({"discriminator": Mixing}, "others of its batch"),
        (
            {
                "discriminator": partial(
                    ConditionalDiscriminator, width=4, depth=4, norm="none", spectral_norm=True
                )
            },
            "spectral_norm",
        ),
        (
            {
                "discriminator": partial(
                    ConditionalDiscriminator, width=4, depth=4, norm="none", minibatch_std=True
                )
            },
            "block 3 of the discriminator has MinibatchStd.*minibatch_std set to false",
        ),
    ],
)
def test_what_cannot_be_private_is_refused_in_one_line(options, message):
    with pytest.raises(HuscfError, match=message) as caught:
        make_private(ONE, **options)
    assert "\n" not in str(caught.value)


def test_what_mixes_the_samples_of_a_label_is_refused_though_labels_are_many():
    with pytest.raises(HuscfError, match="others of its batch"):
        make_private(
            ONE,
            shape=SampleShape(1, 8, 100),
            fake_label_weights=[1] * 100,
            discriminator=MixingWithinLabels,
        )


def test_methods_whose_server_draws_are_refused_by_name():
    networks = {
        "generator": partial(ConditionalGenerator, width=4, depth=4),
        "discriminator": partial(ConditionalDiscriminator, width=4, depth=4, norm="group"),
    }
    with pytest.raises(HuscfError, match="MdGan reads a client's records in 2 phases"):
        SplitModule(
            SHAPE,
            {0: 6},
            {0: 60},
            MdGan(**networks),
            engine="serial",
            privacy=DifferentialPrivacy(delta=1e-5),
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epsilon": 3.0}, "privacy.delta: an epsilon says nothing without it"),
        ({"delta": 1.5}, "privacy.delta is 1.5"),
        ({"delta": 1e-5, "max_grad_norm": 0.0}, "max_grad_norm is 0"),
        ({"delta": 1e-5, "noise_multiplier": float("nan")}, "noise_multiplier is nan"),
        ({"delta": 1e-5, "noise_multiplier": 0.0, "max_epsilon": 1.0}, "without noise"),
    ],
)
def test_options_that_say_nothing_are_refused(options, message):
    with pytest.raises(HuscfError, match=message):
        DifferentialPrivacy(**options)


def test_a_budget_that_the_first_step_would_exceed_and_a_large_delta_are_refused():
    options = {"max_epsilon": 0.01}
    with pytest.raises(HuscfError, match=r"max_epsilon is 0.01, of which 0 is spent, and the next"):
        make_private(ONE, 1.0, 1.0, options).engine.begin()
    with pytest.raises(HuscfError, match=r"delta is 0.001, and must be far below 0.0005"):
        make_private(ONE, 1.0, client_sizes={0: 2000}).engine.begin()


def test_a_record_whose_gradient_is_not_finite_is_named():
    module = make_private(ONE)
    next(module.client(0).trained.segment("discriminator", "tail").parameters()).data.fill_(1e30)
    with pytest.raises(HuscfError, match="client 0"):
        run_step(module, make_batch(ONE))


def test_the_server_compares_clients_by_nothing_that_it_has_seen():
    module = make_private(CUTS)
    run_step(module, make_batch(CUTS))
    seen = module.engine.observe()
    assert seen.summary is None and not seen.present
