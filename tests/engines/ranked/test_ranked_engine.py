"""Several processes give what one gives, bit for bit."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from huscf.engines import Mixture
from huscf.engines.ranked.engine import divide
from huscf.engines.stacked import microbatch
from huscf.errors import HuscfError
from huscf.methods import DiscriminatorAugmentation
from huscf.models import ConditionalGenerator
from huscf.split import ClientCuts, ClientPlan, CutPlan
from huscf.wire import MemoryWire
from tests.conftest import make_batch, make_gan
from tests.engines.cases import NAMES, restore, save
from tests.engines.ranked.thread_ranks import run_on_ranks

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


def test_optimiser_state_lives_in_the_client_s_process_alone():
    def run(module):
        module.engine.run_step(make_batch(CUTS), 0)
        return {
            c: sum(len(each.state) for each in module.client(c).optimizers.values()) for c in CUTS
        }

    one, other = run_on_ranks([make() for _ in range(2)], run)
    assert all((one[c] > 0) != (other[c] > 0) for c in CUTS)
    assert one[0] > 0 and other[4] > 0


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
