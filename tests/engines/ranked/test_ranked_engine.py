"""Several processes give what one gives, bit for bit."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from huscf.engines import ClientBatch, LazyBatches, Mixture
from huscf.engines.ranked.engine import divide
from huscf.engines.stacked import microbatch
from huscf.errors import HuscfError
from huscf.methods import DiscriminatorAugmentation
from huscf.models import ConditionalGenerator
from huscf.split import ClientCuts, ClientPlan, CutPlan
from huscf.wire import MemoryWire
from tests.conftest import SHAPE, make_batch, make_gan
from tests.engines.cases import NAMES, restore, save
from tests.engines.ranked.thread_ranks import run_on_ranks
from tests.methods.test_family import make as make_split
from tests.methods.test_family import make_flow, make_vae

CUTS = {0: [1, 1, 1, 1], 1: [1, 1, 1, 1], 2: [2, 1, 1, 1], 3: [1, 1, 1, 1], 4: [2, 1, 1, 1]}
#: Clusters that cross processes.
CLUSTERS = {0: 0, 1: 1, 2: 0, 3: 1, 4: 1}
NEW_CUTS = {0: [2, 1, 1, 1], 1: [1, 1, 1, 2], 2: [1, 1, 1, 1], 3: [1, 1, 2, 1], 4: [1, 2, 1, 1]}


@pytest.fixture(autouse=True)
def small_stacks(monkeypatch):
    """At most two clients side by side, so that five make uneven cells."""
    monkeypatch.setattr(microbatch, "STACKED_SAMPLES", 12)


def make(**options):
    return make_gan(CUTS, depth=4, ema_decay=0.9, **options)


def train(module, moments="keep", steps=range(3), cuts=None):
    """Two rounds, with clients that stay away, another cut, and steps within a round after it."""
    losses = []
    for step in steps:
        present = list(CUTS) if step % 2 else [0, 2, 3]
        losses.append(module.engine.run_step(make_batch(present, step), step))
    seen = module.engine.observe()
    weights = {c: 1 / sum(k == CLUSTERS[c] for k in CLUSTERS.values()) for c in CUTS}
    module.engine.mix(Mixture(CLUSTERS, weights, moments=moments))
    moves = ()
    if cuts is not None:
        entries = [ClientPlan(c, ClientCuts.from_list(v, NAMES)) for c, v in cuts.items()]
        plan = CutPlan(tuple((name, 4) for name in NAMES), tuple(entries))
        moves = module.engine.apply_plan(plan)
    for step in (7, 8):
        losses.append(module.engine.run_step(make_batch(CUTS, step), step))
    return losses, seen, moves, save(module)


def assert_equal(one, other, where="all"):
    """Two nests of values are equal to the last bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            assert_equal(value, other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, value in enumerate(one):
            assert_equal(value, other[index], f"{where}/{index}")
    elif isinstance(one, Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    else:
        assert one == other, where


def assert_same_run(expected, found):
    losses, seen, moves, checkpoint = expected
    for rank, (own_losses, own_seen, own_moves, saved) in enumerate(found):
        assert own_losses == losses
        assert own_moves == moves
        assert (own_seen.present, own_seen.clusters) == (seen.present, seen.clusters)
        assert (own_seen.summary.means == seen.summary.means).all()
        assert (own_seen.summary.covariances == seen.summary.covariances).all()
        if rank == 0:
            assert_equal(checkpoint["state_dict"], saved["state_dict"])
            assert_equal(checkpoint["huscf"], saved["huscf"])
        for name, tensor in saved["state_dict"].items():
            if name.startswith("parties.server."):
                assert torch.equal(tensor, checkpoint["state_dict"][name]), name


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    ("moments", "cuts", "gradient"),
    [("keep", None, "uniform"), ("average", NEW_CUTS, "samples"), ("reset", NEW_CUTS, "uniform")],
)
def test_rounds_are_the_same_bits_as_in_one_process(size, moments, cuts, gradient):
    options = {
        "server_gradient": gradient,
        "client_sizes": {c: 50 + 10 * c for c in CUTS},
    }
    run = partial(train, moments=moments, cuts=cuts)
    expected = run(make(**options))
    found = run_on_ranks([make(**options) for _ in range(size)], run)
    assert_same_run(expected, found)


@pytest.mark.parametrize("make_method", [make_flow, make_vae])
def test_methods_whose_blocks_have_a_forward_of_their_own_are_the_same_bits(make_method):
    def make_module():
        torch.manual_seed(0)
        method = make_method()
        halves = len(method.build_networks(SHAPE))
        return make_split(method, {c: cuts[:2] * halves for c, cuts in CUTS.items()})

    expected = train(make_module())
    assert_same_run(expected, run_on_ranks([make_module() for _ in range(2)], train))


def test_what_clients_remember_from_step_to_step_goes_along():
    adaptive = DiscriminatorAugmentation(strength=0.5, adaptive=True, ramp_samples=200)
    expected = train(make(augmentation=adaptive), cuts=NEW_CUTS)
    remembered = expected[-1]["huscf"]["engine"]["remembered"]
    assert len({str(values) for values in remembered.values()}) > 1
    run = partial(train, cuts=NEW_CUTS)
    assert_same_run(expected, run_on_ranks([make(augmentation=adaptive) for _ in range(2)], run))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2)])
def test_a_checkpoint_goes_on_with_any_number_of_processes(before, after):
    first = partial(train, steps=range(2))
    second = partial(train, steps=range(10, 12))
    whole = make()
    first(whole)
    expected = second(whole)

    def run(count, work, *states):
        def load_and_work(module):
            for state in states:
                restore(module, copy.deepcopy(state))
            return work(module)

        modules = [make() for _ in range(count)]
        if count == 1:
            return [load_and_work(modules[0])]
        return run_on_ranks(modules, load_and_work)

    checkpoint = run(before, first)[0][-1]
    assert_same_run(expected, run(after, second, checkpoint))


def poison(module, client=4, value=float("nan")):
    with torch.no_grad():
        next(module.client(client).blocks("discriminator")[0].parameters()).fill_(value)


def test_a_client_that_is_dropped_is_dropped_by_all():
    def run(module):
        poison(module)
        return train(module)

    expected = run(make(on_nonfinite="drop"))
    assert expected[0][1].dropped == (4,)
    assert expected[-1]["huscf"]["engine"]["num_dropped"][4] > 1
    found = run_on_ranks([make(on_nonfinite="drop") for _ in range(2)], run)
    for one, other in zip(found[0][0], expected[0], strict=True):
        assert one == other
    for saved in (each[-1] for each in found):
        engine = saved["huscf"]["engine"]
        assert engine["num_dropped"] == expected[-1]["huscf"]["engine"]["num_dropped"]
        assert engine["guard"] == expected[-1]["huscf"]["engine"]["guard"]


def test_a_nan_stops_every_process_with_the_line_of_one():
    def run(module):
        poison(module)
        with pytest.raises(HuscfError) as caught:
            module.engine.run_step(make_batch(CUTS), 0)
        return str(caught.value)

    expected = run(make())
    assert expected.startswith("client 4: ")
    assert run_on_ranks([make() for _ in range(3)], run) == [expected] * 3


def test_an_error_of_one_process_stops_all():
    def run(module):
        batch = make_batch(CUTS)
        batch[4][1].fill_(7)
        with pytest.raises(HuscfError) as caught:
            module.engine.run_step(batch, 0)
        return str(caught.value)

    line = "client 4: label 7, but the run's classes are 0 to 2"
    assert run_on_ranks([make() for _ in range(2)], run) == [line] * 2


def memory_of(module, client):
    """Bytes of a client's blocks, averages and moments, in whatever memory they lie."""
    party = module.client(client)
    tensors = [*party.parameters(), *party.buffers()]
    for optimizer in party.optimizers.values():
        tensors += [t for state in optimizer.state.values() for t in state.values()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def test_what_a_client_trains_lives_in_its_process_alone():
    def run(module):
        module.engine.run_step(make_batch(CUTS), 0)
        return [memory_of(module, c) for c in CUTS], module.client(4).is_finite()

    (one, has_last), (other, has_first) = run_on_ranks([make() for _ in range(2)], run)
    assert all(max(pair) > 1000 * min(pair) for pair in zip(one, other, strict=True))
    assert one[0] > other[0] and other[4] > one[4]
    assert (has_last, has_first) == (False, True)


def draw(module, client):
    stream = torch.Generator().manual_seed(client)
    return module.sample(client, torch.tensor([0, 1, 2]), stream)


@pytest.mark.parametrize("averages", [True, False])
def test_after_a_round_every_process_draws_as_any_client(averages):
    """Members of a cluster show one memory; where nobody is averaged, blocks are brought along."""
    clusters = CLUSTERS if averages else {c: c for c in CUTS}
    weights = {c: 1 / sum(k == clusters[c] for k in clusters.values()) for c in CUTS}

    def run(module):
        for step in range(2):
            module.engine.run_step(make_batch(CUTS, step), step)
        module.engine.mix(Mixture(clusters, weights))
        first = {t.data_ptr() for t in module.client(0).average.parameters()}
        own = len(first & {t.data_ptr() for t in module.client(2).average.parameters()})
        drawn = [draw(module, c) for c in CUTS]
        # Who stays away keeps what all know; who trains does not.
        module.engine.run_step(make_batch([0, 1, 3], 5), 5)
        module.engine.gather_clients()
        return drawn, [draw(module, c) for c in CUTS], own

    expected = run(make())
    assert bool(expected[2]) == averages
    for found in run_on_ranks([make() for _ in range(2)], run):
        assert_equal(expected, found)


def test_reading_what_is_elsewhere_is_no_silent_error():
    def run(module):
        for step in range(2):
            module.engine.run_step(make_batch(CUTS, step), step)
        drawn = draw(module, 0 if module.engine.ranks.rank else 4)
        freed = next(module.client(0 if module.engine.ranks.rank else 4).parameters())
        with pytest.raises(RuntimeError), torch.no_grad():
            freed.add_(1.0)
        return bool(drawn.isnan().all())

    assert run_on_ranks([make() for _ in range(2)], run) == [True, True]


@pytest.mark.parametrize("moments", ["keep", "average", "reset"])
def test_blocks_that_clients_pass_on_cross_processes(moments):
    ring = {"discriminator": {c: (c + 2) % 5 for c in CUTS}}
    same = {c: [1, 1, 1, 1] for c in CUTS}

    def run(module):
        for step in range(2):
            module.engine.run_step(make_batch(CUTS, step), step)
        weights = dict.fromkeys(CUTS, 0.2)
        module.engine.mix(Mixture(dict.fromkeys(CUTS, 0), weights, True, moments, ring))
        module.engine.run_step(make_batch(CUTS, 2), 2)
        return save(module)

    def make_ring():
        return make_gan(same, depth=4, ema_decay=0.9)

    assert_equal(run(make_ring()), run_on_ranks([make_ring() for _ in range(3)], run)[0])


def test_a_process_puts_together_its_own_clients_batches_alone():
    def run(module):
        asked, batch = [], make_batch(CUTS)

        def take(client):
            asked.append(client)
            return ClientBatch(*batch[client])

        module.engine.run_step(LazyBatches(dict.fromkeys(CUTS, 6), take), 0)
        return asked, module.engine.choose_own(dict.fromkeys(CUTS, 6))

    (one, own), (other, others) = run_on_ranks([make() for _ in range(2)], run)
    assert (one, other) == (own, others)
    assert sorted(one + other) == list(CUTS) and one and other


def test_all_take_over_the_cuts_of_the_first():
    modules = [make(), make_gan({**CUTS, 1: [1, 1, 1, 2]}, depth=4, ema_decay=0.9)]
    expected = train(make())
    assert_same_run(expected, run_on_ranks(modules, train))


class Noisy(MemoryWire):
    def transmit(self, message):
        return message.tensors


class DropoutGenerator(ConditionalGenerator):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self[2].append(nn.Dropout(0.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wire": Noisy()}, "model.wire: what Noisy draws"),
        ({"engine": "serial"}, "model.engine: serial runs in one process"),
        ({"generator": partial(DropoutGenerator, width=4, depth=4)}, "generator: block 2 "),
    ],
)
def test_what_depends_on_the_order_of_clients_is_refused_by_name(options, message):
    with pytest.raises(HuscfError, match=message) as caught:
        run_on_ranks([make(**options) for _ in range(2)], train)
    assert "\n" not in str(caught.value)


def test_more_processes_than_clients_are_refused():
    with pytest.raises(HuscfError, match="6 processes for 5 clients"):
        run_on_ranks([make() for _ in range(6)], train)


def test_groups_are_divided_by_cost_in_order():
    assert divide([1, 1, 1, 1], 2) == [0, 0, 1, 1]
    assert divide([3, 1, 1, 1], 2) == [0, 1, 1, 1]
    assert divide([1, 1], 3) == [0, 2]
    assert divide([5.0], 4) == [2]
