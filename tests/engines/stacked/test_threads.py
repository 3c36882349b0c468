"""Groups of clients in threads: which, how many, and the same sums every time."""

import pytest
import torch

from huscf.engines.stacked.threads import GroupThreads
from huscf.wire import MemoryWire
from tests.conftest import make_batch, make_gan, run_step
from tests.engines.cases import Recorder, SgdGan, assert_same, seen_gradients

CUTS = {0: [1, 1, 1, 1], 1: [1, 1, 1, 1], 2: [2, 1, 1, 2], 3: [1, 1, 1, 1], 4: [2, 1, 1, 2]}


@pytest.fixture
def counts(monkeypatch):
    """How many groups ran at once in every call."""
    seen = []
    run = GroupThreads.run

    def watch(self, work, groups, count):
        seen.append(count)
        return run(self, work, groups, count)

    monkeypatch.setattr(GroupThreads, "run", watch)
    return seen


def test_groups_at_once_equal_one_after_the_other_and_repeat_exactly(counts):
    def step(uses_threads):
        module = make_gan(CUTS, depth=5, method_class=SgdGan, mismatched_weight=1.0)
        module.engine.uses_threads = uses_threads
        losses = run_step(module, make_batch(CUTS))
        state = {k: v.clone() for k, v in module.parties.state_dict().items()}
        return (losses, {**state, **seen_gradients(module)}), module.wire.traffic.num_bytes

    torch.set_num_threads(2)
    together, num_bytes = step(True)
    assert set(counts) == {2}
    again, _ = step(True)
    assert all(torch.equal(again[1][name], value) for name, value in together[1].items())
    counts.clear()
    alone, expected_bytes = step(False)
    assert set(counts) == {1}
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


def test_a_wire_that_draws_runs_in_one_thread(counts):
    class Noisy(MemoryWire):
        def transmit(self, message):
            noisy = {n: t + 0.01 * torch.randn_like(t) for n, t in message.tensors.items()}
            return {**message.tensors, **noisy}

    def step():
        torch.manual_seed(0)
        return run_step(make_gan(CUTS, wire=Noisy()), make_batch(CUTS))

    torch.set_num_threads(2)
    first = step()
    assert len(counts) == 2 and set(counts) == {1}
    assert first == step()


def test_a_wire_that_records_sees_what_one_that_does_not_counts():
    plain, recorded = (make_gan(CUTS, wire=wire) for wire in (MemoryWire(), Recorder()))
    for module in (plain, recorded):
        run_step(module, make_batch(CUTS))
    assert plain.wire.is_identity and not recorded.wire.is_identity
    assert plain.wire.traffic.num_bytes == recorded.wire.traffic.num_bytes
    assert sum(m.num_bytes for m in recorded.wire.messages) == plain.wire.traffic.total()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_weights_that_autocast_keeps_do_not_miss_an_optimisers_step(num_threads, counts):
    def step(**options):
        module = make_gan(CUTS, depth=5, norm="group", discriminator_lr=5e-3)
        with torch.autocast("cpu", torch.bfloat16, **options):
            return run_step(module, make_batch(CUTS))

    torch.set_num_threads(num_threads)
    assert step() == step(cache_enabled=False)
    assert set(counts) == {num_threads}
