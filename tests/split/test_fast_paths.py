"""Clients side by side at the server, and other memory layouts, change rounding only."""

import copy

import pytest
import torch
from torch import nn

from huscf.loops import GroupThreads, StepExchange, list_phases
from huscf.models import SqueezeLogit, can_stack, run_stacked, stacked
from huscf.models.conditional_discriminator import DiscriminatorStem
from huscf.modules import Segment, server
from huscf.split import Exchange
from tests.conftest import SHAPE, make_batch, make_gan, run_step

CUTS = {0: [1, 1, 1, 1], 1: [1, 1, 1, 1], 2: [2, 1, 1, 2], 3: [1, 1, 1, 1], 4: [2, 1, 1, 2]}


def gradients(cuts, batch, **kwargs):
    """Losses and gradients of a step in which no parameter moves.

    The server's running statistics follow its clients in the order of the groups; the test of
    stacked blocks compares them.
    """
    module = make_gan(cuts, depth=5, generator_lr=0.0, discriminator_lr=0.0, **kwargs)
    losses = run_step(module, batch)
    return losses, {name: each.grad for name, each in module.parties.named_parameters()}


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], abs=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        torch.testing.assert_close(other[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("server_gradient", ["uniform", "samples"])
def test_groups_equal_one_client_after_the_other(monkeypatch, norm, server_gradient):
    sizes = {c: 30 * (c + 1) for c in CUTS}
    settings = {"norm": norm, "server_gradient": server_gradient, "client_sizes": sizes}
    together = gradients(CUTS, make_batch(CUTS), **settings)
    monkeypatch.setattr(server, "STACKED_SAMPLES", 1)
    assert_same(gradients(CUTS, make_batch(CUTS), **settings), together)


def test_channels_last_equals_the_usual_layout(monkeypatch):
    monkeypatch.setattr(server, "STACKED_SAMPLES", 1)
    usual = gradients(CUTS, make_batch(CUTS))
    monkeypatch.setattr(stacked, "LARGE_MAP", 0)
    assert_same(usual, gradients(CUTS, make_batch(CUTS)))


def test_optimisers_move_the_same_weights_whatever_the_layout_of_gradients(monkeypatch):
    # Fused optimisers ignore strides; without norms no gradient is zero but for rounding.
    def train():
        module = make_gan({0: [1, 1, 1, 1]}, depth=5, norm="none", weight_std=0.2)
        for step in range(3):
            run_step(module, make_batch([0], seed=step), step)
        parameters = dict(module.parties.named_parameters())
        return {name: parameter.detach().clone() for name, parameter in parameters.items()}

    usual = train()
    monkeypatch.setattr(stacked, "LARGE_MAP", 0)
    for name, value in train().items():
        torch.testing.assert_close(value, usual[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("limit", [0, 10**9])
def test_separate_layers_as_one_operation_equal_a_loop_over_them(monkeypatch, limit):
    for name in ("NARROW_CONVOLUTION", "NARROW_TRANSPOSED", "SMALL_LINEAR"):
        monkeypatch.setattr(stacked, name, limit)
    together = gradients(CUTS, make_batch(CUTS))
    monkeypatch.setattr(server, "STACKED_SAMPLES", 1)
    assert_same(gradients(CUTS, make_batch(CUTS)), together)


def test_groups_at_once_equal_one_after_the_other_and_repeat_exactly():
    def step(threads):
        options = {"generator_lr": 0.0, "discriminator_lr": 0.0, "mismatched_weight": 1.0}
        module = make_gan(CUTS, depth=5, **options)
        for client, (samples, labels) in make_batch(CUTS).items():
            module.start_step(client, samples, labels, 0)
        exchange = StepExchange(module, list(CUTS), threads)
        losses = {phase.trains: exchange.run_phase(phase) for phase in list_phases(1.0)}
        state = {k: v.clone() for k, v in module.parties.state_dict().items()}
        grads = {name: each.grad for name, each in module.parties.named_parameters()}
        return exchange.num_threads, (losses, {**state, **grads}), module.exchange.num_bytes

    torch.set_num_threads(2)
    count, together, num_bytes = step(GroupThreads())
    assert count == 2
    _, again, _ = step(GroupThreads())
    assert all(torch.equal(again[1][name], value) for name, value in together[1].items())
    count, alone, expected_bytes = step(None)
    assert count == 1
    assert_same(alone, together)
    assert num_bytes == expected_bytes


def test_threads_work_on_groups_where_they_share_them_evenly():
    cpu = torch.device("cpu")
    torch.set_num_threads(2)
    counts = [GroupThreads().count(groups, cpu) for groups in (1, 2, 3, 4, 5, 7, 8)]
    assert counts == [1, 2, 1, 2, 1, 2, 2]
    assert GroupThreads().count(8, torch.device("meta")) == 1
    torch.set_num_threads(1)
    assert GroupThreads().count(8, cpu) == 1


def test_threads_inside_operators_are_set_for_each_kind_of_thread():
    torch.set_num_threads(4)
    seen = GroupThreads().run(lambda groups: (groups, torch.get_num_threads()), [*range(5)], 2)
    assert seen == [([0, 2, 4], 2), ([1, 3], 2)]
    assert torch.get_num_threads() == 4


def test_an_error_in_a_thread_reaches_the_caller():
    def fail(groups):
        raise ValueError(groups)

    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="0, 2"):
        GroupThreads().run(fail, [0, 1, 2, 3], 2)


def groups_of(module, sizes, is_stackable=lambda client: True):
    groups = module.server.groups(sizes, is_stackable)
    assert all(len(lanes) == 1 for lanes in groups)
    return [lane for (lane,) in groups]


def test_lanes_share_cuts_copy_and_batch_size_and_are_bounded(monkeypatch):
    module = make_gan(CUTS, depth=5)
    sixes = dict.fromkeys(CUTS, 6)
    assert groups_of(module, sixes) == [[0, 1, 3], [2, 4]]
    assert groups_of(module, sixes, lambda client: client != 3) == [[0], [1], [2, 4], [3]]
    assert groups_of(module, {0: 6, 1: 5, 3: 6}) == [[0, 3], [1]]
    module.parties.set_clusters({0: 0, 1: 1, 2: 0, 3: 1, 4: 1}, per_cluster=True)
    assert groups_of(module, sixes) == [[0], [1, 3], [2], [4]]
    monkeypatch.setattr(server, "STACKED_SAMPLES", 12)
    module.parties.set_clusters(dict.fromkeys(CUTS, 0), per_cluster=True)
    assert groups_of(module, sixes) == [[0], [1, 3], [2, 4]]


def test_many_equal_clients_make_an_even_number_of_even_lanes():
    module = make_gan({client: [1, 1, 1, 1] for client in range(50)})
    lanes = groups_of(module, dict.fromkeys(range(50), 8))
    assert [len(lane) for lane in lanes] == [12, 13, 12, 13]
    assert [client for lane in lanes for client in lane] == [*range(50)]
    module.server.normalization = "together"
    (group,) = module.server.groups(dict.fromkeys(range(50), 8), lambda client: True)
    assert group == lanes


def test_layers_that_may_mix_samples_are_not_stacked():
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))
    mixing = (
        nn.Dropout(),
        nn.Flatten(0),
        nn.Unflatten(0, (1, 2)),
        nn.BatchNorm1d(2, momentum=None),
    )
    for layer in (*mixing, spectral):
        assert not can_stack([nn.Sequential(nn.Linear(2, 2), layer)])
    assert can_stack([nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU())])


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_layers_with_hooks_are_not_stacked(register):
    for hooked in (0, 1):
        block = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        assert can_stack([block])
        getattr([block, block[0]][hooked], register)(lambda *_: None)
        assert not can_stack([block])


class Tripled(DiscriminatorStem):
    """Joins otherwise than its base, whose `join_each` does not know."""

    def join(self, samples, labels):
        return super().join(3 * samples, labels)


class Shifted(DiscriminatorStem):
    def forward(self, samples, labels):
        return super().forward(samples, labels) + 1


def test_a_stems_own_join_is_used_for_several_clients_too():
    stems = [Tripled(SHAPE, nn.Sequential(nn.Conv2d(2, 4, 3))) for _ in range(2)]
    samples, labels = torch.randn(5, 2, 1, 8, 8), torch.randint(0, 3, (5, 2))
    assert can_stack(stems)
    outputs = run_stacked([[stem] for stem in stems], samples, labels)
    for which, stem in enumerate(stems):
        torch.testing.assert_close(outputs[:, which], stem(samples[:, which], labels[:, which]))


def test_a_stem_with_a_forward_of_its_own_is_not_stacked():
    layers = nn.Sequential(nn.Conv2d(2, 4, 3))
    assert can_stack([DiscriminatorStem(SHAPE, layers)])
    assert not can_stack([Shifted(SHAPE, layers)])


def test_small_linear_layers_run_on_rows_of_tokens():
    layers = [nn.Linear(4, 3) for _ in range(2)]
    tokens = torch.randn(5, 2, 6, 4)
    outputs = run_stacked([[layer] for layer in layers], tokens)
    assert outputs.shape == (5, 2, 6, 3)
    for which, layer in enumerate(layers):
        torch.testing.assert_close(outputs[:, which], layer(tokens[:, which]))


@pytest.mark.parametrize("num_threads", [1, 2])
def test_weights_that_autocast_keeps_do_not_miss_an_optimisers_step(num_threads):
    def step(**options):
        module = make_gan(CUTS, depth=5, norm="group", discriminator_lr=5e-3)
        for client, (samples, labels) in make_batch(CUTS).items():
            module.start_step(client, samples, labels, 0)
        with torch.autocast("cpu", torch.bfloat16, **options):
            exchange = StepExchange(module, list(CUTS), GroupThreads())
            assert exchange.num_threads == num_threads
            return [exchange.run_phase(phase) for phase in list_phases(0.0)]

    torch.set_num_threads(num_threads)
    assert step() == step(cache_enabled=False)


def test_batch_norms_in_evaluation_use_running_statistics():
    norms = [nn.BatchNorm1d(2).eval(), nn.BatchNorm1d(2).eval()]
    norms[1].running_mean += 3
    inputs, before = torch.randn(5, 2, 2), copy.deepcopy(norms)
    outputs = run_stacked([[norm] for norm in norms], inputs)
    for which, norm in enumerate(before):
        torch.testing.assert_close(outputs[:, which], norm(inputs[:, which]))
        assert torch.equal(norm.running_mean, norms[which].running_mean)


def example_blocks():
    convolution = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True))
    grown = nn.Sequential(nn.ConvTranspose2d(3, 4, 3, bias=False), nn.GroupNorm(2, 4), nn.Tanh())
    flat = nn.Sequential(nn.Flatten(), nn.Linear(100, 6), nn.BatchNorm1d(6, affine=False))
    last = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(), nn.Linear(6, 1), SqueezeLogit())
    return [nn.LeakyReLU(0.1, inplace=True), convolution, grown, flat, last]


@pytest.mark.parametrize("shared", [True, False])
def test_stacked_blocks_equal_separate_passes_in_order(shared):
    stream = torch.Generator().manual_seed(0)
    first = example_blocks()
    columns = [first if shared else example_blocks() for _ in range(3)]
    separate = copy.deepcopy(columns)
    inputs = torch.randn(4, 3, 2, 5, 5, generator=stream, requires_grad=True)
    assert can_stack(first)
    outputs = run_stacked(columns, inputs)
    assert outputs.shape == (4, 3)
    outputs.square().sum().backward()
    for which, blocks in enumerate(separate):
        own = inputs.detach()[:, which].clone().requires_grad_()
        values = own * 1
        for block in blocks:
            values = block(values)
        values.square().sum().backward()
        torch.testing.assert_close(outputs[:, which], values)
        torch.testing.assert_close(inputs.grad[:, which], own.grad, rtol=1e-4, atol=1e-5)
    for one, other in zip(columns, separate, strict=True):
        for block, expected in zip(one, other, strict=True):
            for parameter, wanted in zip(block.parameters(), expected.parameters(), strict=True):
                torch.testing.assert_close(parameter.grad, wanted.grad, rtol=1e-4, atol=1e-5)
            for buffer, wanted in zip(block.buffers(), expected.buffers(), strict=True):
                torch.testing.assert_close(buffer, wanted)


def test_statistics_that_are_pending_follow_when_asked():
    blocks = [nn.BatchNorm1d(2)]
    pending = []
    run_stacked([blocks] * 2, torch.randn(5, 2, 2) + 1, pending=pending)
    assert blocks[0].running_mean.tolist() == [0, 0]
    for statistics in pending:
        statistics.follow()
    assert blocks[0].num_batches_tracked == 2
    assert blocks[0].running_mean.abs().min() > 0


def test_blocks_that_are_not_known_run_one_client_at_a_time():
    module = make_gan({0: [1, 1, 1, 1], 1: [1, 1, 1, 1]})
    tail = module.client(1).segment("generator", "tail").block(3)
    module.client(1).generator_tail = Segment({3: tail.append(nn.Dropout(0.0))})
    assert [module.is_stackable(client) for client in (0, 1)] == [True, False]
    batch = make_batch([0, 1])
    for client, (samples, labels) in batch.items():
        module.start_step(client, samples, labels, 0)
    exchange = StepExchange(module, [0, 1], GroupThreads())
    assert [group.lanes for group in exchange.groups] == [[[0]], [[1]]]
    assert exchange.num_threads == 1
    assert all(exchange.run_phase(phase) > 0 for phase in list_phases(0.0))


def test_a_wire_that_draws_runs_in_one_thread():
    class Noisy(Exchange):
        def transmit(self, parcel):
            return parcel.content + 0.01 * torch.randn_like(parcel.content)

    def step():
        torch.manual_seed(0)
        module = make_gan(CUTS, exchange=Noisy())
        for client, (samples, labels) in make_batch(CUTS).items():
            module.start_step(client, samples, labels, 0)
        exchange = StepExchange(module, list(CUTS), GroupThreads())
        assert len(exchange.groups) > 1
        assert exchange.num_threads == 1
        return [exchange.run_phase(phase) for phase in list_phases(0.0)]

    torch.set_num_threads(2)
    assert step() == step()


@pytest.mark.parametrize("poison", ["head", "tail"])
def test_a_client_with_nan_leaves_its_group_and_the_others_train_on(poison):
    cuts = {client: [1, 1, 1, 1] for client in range(3)}
    module = make_gan(cuts, on_nonfinite="drop")
    sick = module.client(1).segment("generator", poison)
    next(sick.parameters()).data.fill_(torch.nan)
    before = copy.deepcopy(module.server.state_dict())
    losses = run_step(module, make_batch(cuts))
    assert module.num_dropped == {0: 0, 1: 1, 2: 0}
    assert losses["discriminator"] > 0
    assert all(t.isfinite().all() for t in module.server.state_dict().values())
    assert any(not torch.equal(v, before[k]) for k, v in module.server.state_dict().items())
    assert all(module.client(c).is_finite() for c in (0, 2))


class BrokenGradient(nn.Module):
    """Passes values on; its gradient is NaN."""

    def forward(self, values):
        return values + (0 * values).sqrt()


def break_samples(client):
    client.samples[0] = torch.nan


def break_head(client):
    next(client.segment("discriminator", "head").parameters()).data.fill_(torch.nan)


def break_gradient(client):
    tail = client.segment("discriminator", "tail").block(3)
    client.discriminator_tail = Segment({3: nn.Sequential(tail, BrokenGradient())})


@pytest.mark.parametrize("poison", [break_samples, break_head, break_gradient])
@pytest.mark.parametrize("server_gradient", ["uniform", "samples"])
def test_without_a_client_that_is_dropped_gradients_are_those_of_the_others(
    poison, server_gradient
):
    def gradients_of(clients, poisoned=None):
        sizes = {client: 30 * (client + 1) for client in clients}
        options = {"server_gradient": server_gradient, "on_nonfinite": "drop", "norm": "none"}
        cuts = {client: [1, 1, 1, 1] for client in clients}
        module = make_gan(cuts, client_sizes=sizes, **options)
        for client, (samples, labels) in make_batch(range(3)).items():
            if client in clients:
                module.start_step(client, samples, labels, 0)
        if poisoned is not None:
            poison(module.client(poisoned))
        exchange = StepExchange(module, list(clients))
        losses = [exchange.run_phase(phase) for phase in list_phases(0.0)]
        assert exchange.active == [0, 2]
        own = [module.server, module.client(0), module.client(2)]
        return losses, [p.grad for party in own for p in party.parameters()]

    losses, found = gradients_of([0, 1, 2], poisoned=1)
    expected_losses, expected = gradients_of([0, 2])
    assert losses == pytest.approx(expected_losses, abs=1e-5)
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)
