"""Averages by secure sums: those of plain ones, over unequal cuts, with nothing in the clear."""

import copy

import pytest
import torch

from huscf.engines import Mixture
from huscf.engines.secure_mixing import KEYS_TOPIC, SumRef, check_secure, plan_sums
from huscf.errors import HuscfError
from huscf.secure import RESOLUTION
from huscf.wire import SERVER, DefendedWire
from tests.conftest import ENGINES, make_batch, make_gan, run_step
from tests.engines.cases import NAMES, Recorder, plan_of
from tests.engines.test_mixing import equal_states, state, whole
from tests.engines.test_moving import assert_consistent

#: Every block has no holder, or three or more in cluster 0; cluster 1 is one client alone.
CUTS = {
    0: [1, 1, 1, 1],
    1: [2, 1, 1, 2],
    2: [2, 2, 1, 2],
    3: [2, 2, 1, 2],
    4: [1, 2, 1, 1],
    5: [3, 1, 2, 1],
}
CLUSTERS = {0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 1}
WEIGHTS = {0: 0.3, 1: 0.1, 2: 0.25, 3: 0.15, 4: 0.2, 5: 1.0}


def trained(engine="serial", **options):
    module = make_gan(CUTS, depth=5, engine=engine, **options)
    for step in range(2):
        run_step(module, make_batch(CUTS, seed=step), step)
    return module


def without_idle(tensors):
    """Leave out the copies of a cluster whose one client holds these blocks itself.

    In the clear they follow the client's; here nothing of it is sent.
    """
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not any(f".generator.1.blocks.{block}." in name for block in (1, 2))
        and ".discriminator.1.blocks.1." not in name
    }


def assert_close(one, other, tolerance=2e-7):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-5, atol=tolerance, msg=name)


@pytest.mark.parametrize("per_cluster", [True, False])
@pytest.mark.parametrize("engine", ENGINES)
def test_secure_averages_are_plain_ones(engine, per_cluster):
    plain = trained(engine, ema_decay=0.5)
    secure = trained(engine, ema_decay=0.5)
    assert equal_states(state(plain), state(secure))
    plain.engine.mix(Mixture(CLUSTERS, WEIGHTS, per_cluster))
    before = state(secure)
    secure.engine.mix(Mixture(CLUSTERS, WEIGHTS, per_cluster, is_secure=True))
    assert not equal_states(before, state(secure))
    one, other = (without_idle(state(module)) for module in (secure, plain))
    assert_close(one, other)
    assert_consistent(secure)


def test_sums_are_of_the_stated_resolution():
    """In float64 nothing else rounds."""
    cuts = {client: [1, 1, 1, 1] for client in range(4)}
    module = make_gan(cuts, depth=4)
    run_step(module, make_batch(cuts))
    module.double()
    before = {c: copy.deepcopy(module.client(c).state_dict()) for c in cuts}
    weights = {0: 0.4, 1: 0.3, 2: 0.2, 3: 0.1}
    module.engine.mix(Mixture(dict.fromkeys(cuts, 0), weights, is_secure=True))
    for name, tensor in module.client(0).state_dict().items():
        if name.startswith("trained") and tensor.is_floating_point() and "running" not in name:
            mean = sum(weights[c] * before[c][name] for c in cuts)
            assert (tensor - mean).abs().max() <= 4 * RESOLUTION / 2 * 1.01 + 1e-15


def test_running_statistics_are_pooled():
    cuts = {client: [1, 1, 2, 1] for client in range(3)}
    module = make_gan(cuts, depth=4)
    block = module.client(0).trained.blocks("discriminator")[1]
    names = [n for n, _ in block.named_buffers() if n.endswith("running_var")]
    assert names
    for client, (mean, variance) in enumerate([(0.0, 1.0), (3.0, 2.0), (-3.0, 3.0)]):
        own = dict(module.client(client).trained.blocks("discriminator")[1].named_buffers())
        own[names[0]].fill_(variance)
        own[names[0].replace("var", "mean")].fill_(mean)
    weights = {0: 0.5, 1: 0.25, 2: 0.25}
    module.engine.mix(Mixture(dict.fromkeys(cuts, 0), weights, is_secure=True))
    own = dict(module.client(1).trained.blocks("discriminator")[1].named_buffers())
    # 0.5 * 1 + 0.25 * 2 + 0.25 * 3, and the spread of the means, 0.5 * 9.
    assert own[names[0]] == pytest.approx(6.25)
    assert own[names[0].replace("var", "mean")] == pytest.approx(0.0, abs=1e-7)


def test_the_server_is_sent_no_block_in_the_clear_and_all_is_counted():
    wire = Recorder()
    module = trained(wire=wire)
    wire.messages.clear()
    before = module.wire.traffic.total()
    module.engine.mix(Mixture(CLUSTERS, WEIGHTS, is_secure=True))
    sent = [m for m in wire.messages if m.receiver == SERVER]
    assert sent and {m.kind for m in sent} == {"blocks"}
    texts = [m for m in sent if m.topic == KEYS_TOPIC]
    masked = [m for m in sent if m.topic != KEYS_TOPIC]
    assert all(set(m.tensors) == {"text"} for m in texts)
    assert all(
        [*m.tensors] == ["masked"] and m.tensors["masked"].dtype == torch.int64 for m in masked
    )
    assert {m.client_id for m in sent} == {0, 1, 2, 3, 4}  # who is alone sends nothing
    # Public keys, four sealed pairs of shares, five revealed shares.
    assert sorted({m.num_bytes for m in texts}) == [64, 5 * 66, 4 * (2 * 66 + 16)]
    for client in range(5):
        party = module.client(client)
        holdings = [(party.trained, network) for network in NAMES] + [(party.average, "generator")]
        count = sum(
            tensor.numel()
            for holding, network in holdings
            for block in holding.blocks(network).values()
            for tensor in block.state_dict().values()
            if tensor.is_floating_point()
        )
        own = [m.num_bytes for m in masked if m.client_id == client]
        assert sum(own) == 8 * count
    assert module.wire.traffic.total() - before == sum(m.num_bytes for m in wire.messages)


def test_a_cluster_in_which_too_few_hold_a_block_leaves_it_as_it_is():
    cuts = {**CUTS, 4: [3, 1, 1, 1]}  # alone with the third block of the generator
    module = make_gan(cuts, depth=5)
    run_step(module, make_batch(cuts))
    mixture = Mixture(CLUSTERS, WEIGHTS, is_secure=True)
    sums = plan_sums(module.plan, mixture)
    assert {ref: own for ref, own in sums.apart.items() if ref.cluster == 0} == {
        SumRef(0, "trained", "generator", 2): (4,),
        SumRef(0, "trained", "generator", 3): (2, 3),
    }
    assert sums.alone == {1} and len(sums.explain()) == 2  # of who is alone there is no more to say
    assert sums.explain()[1] == (
        "block 3 of the generator in cluster 0 is held by clients 2, 3 alone"
    )
    before = {c: copy.deepcopy(whole(module, "generator", c)) for c in cuts}
    module.engine.mix(mixture)
    for client in range(5):
        after = whole(module, "generator", client)
        for name, tensor in after.items():
            if name.startswith(("2.", "3.")):
                assert torch.equal(tensor, before[client][name]), name
    first = whole(module, "generator", 0)
    for name, tensor in first.items():
        if name.startswith(("0.", "1.", "4.")) and tensor.is_floating_point():
            assert torch.equal(tensor, whole(module, "generator", 3)[name])


def test_members_that_do_not_count_send_nothing_and_get_the_mean():
    wire = Recorder()
    module = trained(wire=wire)
    weights = {**WEIGHTS, 0: 0.0, 4: 0.5}
    with torch.no_grad():
        next(module.client(0).parameters()).fill_(torch.nan)
    wire.messages.clear()
    module.engine.mix(Mixture(CLUSTERS, weights, is_secure=True))
    assert 0 not in {m.client_id for m in wire.messages if m.receiver == SERVER}
    for name, tensor in whole(module, "generator", 0).items():
        assert tensor.isfinite().all(), name


def test_one_who_counts_among_others_that_do_not_sends_nothing():
    """The others would get its block, and the server with them."""
    wire = Recorder()
    module = trained(wire=wire)
    before = state(module)
    wire.messages.clear()
    weights = {**dict.fromkeys(CUTS, 0.0), 2: 1.0, 5: 1.0}
    module.engine.mix(Mixture(CLUSTERS, weights, is_secure=True))
    assert not [m for m in wire.messages if m.receiver == SERVER]
    for name, tensor in state(module).items():
        assert ".server." in name or torch.equal(tensor, before[name]), name


def test_what_a_wire_does_to_blocks_is_done_before_they_are_masked():
    noised = trained(wire=DefendedWire(noise={"blocks": 0.5}))
    plain = trained(wire=DefendedWire())
    for module in (noised, plain):
        module.engine.mix(Mixture(CLUSTERS, WEIGHTS, is_secure=True))
    one, other = (next(m.client(0).parameters()).detach() for m in (noised, plain))
    gap = (one - other).pow(2).mean().sqrt() / other.pow(2).mean().sqrt()
    # Five clients' noises of half their blocks' size, weighted.
    expected = 0.5 * sum(WEIGHTS[c] ** 2 for c in range(5)) ** 0.5
    assert gap == pytest.approx(expected, rel=0.3)


def test_numbers_that_do_not_fit_name_their_client():
    module = trained()
    with torch.no_grad():
        next(module.client(3).parameters()).fill_(1e9)
    with pytest.raises(HuscfError, match="client 3: secure sums take finite numbers up to"):
        module.engine.mix(Mixture(CLUSTERS, WEIGHTS, is_secure=True))


@pytest.mark.parametrize(
    ("cuts", "line"),
    [
        ({0: [1, 1, 1, 1], 1: [1, 1, 1, 1]}, "block 0 of the generator is held by clients 0, 1"),
        ({**CUTS, 0: [1, 1, 1, 3], 5: [1, 1, 1, 1]}, "block 2 of the discriminator .* clients 0 a"),
    ],
)
def test_cuts_of_which_no_sum_can_be_are_refused(cuts, line):
    with pytest.raises(HuscfError, match=f"^federation.secure: {line}.* let three clients or more"):
        check_secure(plan_of(cuts), even(cuts))
    enough = {client: [2, 1, 1, 2] for client in range(3)}
    check_secure(plan_of(enough), even(enough))


def even(cuts):
    return Mixture(dict.fromkeys(cuts, 0), dict.fromkeys(cuts, 1.0))
