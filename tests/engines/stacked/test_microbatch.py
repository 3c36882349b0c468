"""Which clients compute side by side."""

import torch
from torch import nn

from huscf.engines.stacked import microbatch
from huscf.engines.stacked.step import StackedStep
from tests.conftest import make_batch, make_gan, run_step

CUTS = {0: [1, 1, 1, 1], 1: [1, 1, 1, 1], 2: [2, 1, 1, 2], 3: [1, 1, 1, 1], 4: [2, 1, 1, 2]}


def groups_of(module, sizes):
    """Members of the microbatches of a step with batches of these sizes."""
    step = StackedStep(module.engine, sizes, module.method.phases(0), None)
    return [each.client_ids for each in step.microbatches]


def test_groups_share_cuts_copy_and_batch_size_and_are_bounded(monkeypatch):
    module = make_gan(CUTS, depth=5)
    sixes = dict.fromkeys(CUTS, 6)
    assert groups_of(module, sixes) == [[0, 1, 3], [2, 4]]
    assert groups_of(module, {0: 6, 1: 5, 3: 6}) == [[0, 3], [1]]
    monkeypatch.setattr(module.engine, "is_stackable", lambda client: client != 3)
    assert groups_of(module, sixes) == [[0], [1], [2, 4], [3]]
    monkeypatch.undo()
    module.engine.set_clusters({0: 0, 1: 1, 2: 0, 3: 1, 4: 1})
    assert groups_of(module, sixes) == [[0], [1, 3], [2], [4]]
    monkeypatch.setattr(microbatch, "STACKED_SAMPLES", 12)
    module.engine.set_clusters(dict.fromkeys(CUTS, 0))
    assert groups_of(module, sixes) == [[0], [1, 3], [2, 4]]


def test_many_equal_clients_make_an_even_number_of_even_groups():
    module = make_gan({client: [1, 1, 1, 1] for client in range(50)})
    groups = groups_of(module, dict.fromkeys(range(50), 8))
    assert [len(group) for group in groups] == [12, 13, 12, 13]
    assert [client for group in groups for client in group] == [*range(50)]


def test_large_batches_run_alone():
    module = make_gan({client: [1, 1, 1, 1] for client in range(3)})
    assert groups_of(module, {0: 63, 1: 64, 2: 64}) == [[0], [1], [2]]


def test_blocks_that_are_not_known_run_one_client_at_a_time():
    module = make_gan({0: [1, 1, 1, 1], 1: [1, 1, 1, 1]})
    module.client(1).blocks("generator")[3].append(nn.Dropout(0.0))
    assert [module.engine.is_stackable(client) for client in (0, 1)] == [True, False]
    assert groups_of(module, {0: 6, 1: 6}) == [[0], [1]]
    torch.set_num_threads(2)
    step = StackedStep(module.engine, {0: 6, 1: 6}, module.method.phases(0), None)
    assert step.num_threads == 1
    assert all(value > 0 for value in run_step(module, make_batch([0, 1])).values())
