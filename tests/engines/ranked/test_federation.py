"""Rounds by whatever decides them: several processes decide and leave what one does."""

from functools import partial
from typing import ClassVar

import pytest
import torch

from huscf.engines import ClientPrivacy
from huscf.engines.stacked import microbatch
from huscf.errors import HuscfError
from huscf.federation import CflClusters, EachAlone, FeganWeights, IfcaClusters, OneCluster
from huscf.methods import FedGan, HuscfGan, PflGan
from huscf.split import UniformPlan
from huscf.training import Federation
from huscf.wire import KINDS
from tests.conftest import make_batch, make_gan
from tests.engines.cases import save
from tests.engines.ranked.test_ranked_engine import CUTS, assert_equal
from tests.engines.ranked.thread_ranks import run_on_ranks


@pytest.fixture(autouse=True)
def small_stacks(monkeypatch):
    """At most two clients side by side, so that five make uneven cells."""
    monkeypatch.setattr(microbatch, "STACKED_SAMPLES", 12)


class OpenGan(HuscfGan):
    """Lets clients tell whatever a rule asks for."""

    kinds: ClassVar = frozenset(KINDS)


def train(module, options):
    """Three rounds in which some stay away, and a step within the fourth; all bytes so far."""
    federation = Federation(observed_samples=8, **options())
    federation.begin(module)
    decisions = []
    for step in range(7):
        present = list(CUTS) if step % 2 else [0, 2, 3]
        batch = make_batch(present, step)
        federation.observe_batch(module, batch)
        module.engine.run_step(batch, step)
        decisions.append(module.engine.total_bytes())
        if step % 2:
            result = federation.end_round(module, is_last=False)
            decisions.append((result.figures, result.mixture.clusters, result.mixture.weights))
    return decisions, save(module), federation.state_dict()


SPLIT = partial(make_gan, CUTS, depth=4, ema_decay=0.9, method_class=OpenGan)
#: Every block that clients hold is held by three or more in any cluster.
ALIKE = partial(make_gan, {c: [1, 1, 1, 1] for c in CUTS}, depth=4, ema_decay=0.9)
WHOLE_CUTS = {c: [3, 1, 3, 1] for c in CUTS}
WHOLE = partial(make_gan, WHOLE_CUTS, depth=4, ema_decay=0.9, method_class=FedGan, norm="group")


def hide_clients():
    """All in one cluster, what they change clipped and noised."""
    privacy = ClientPrivacy(noise_multiplier=1.0, max_update_norm=0.1, delta=0.01)
    even = {"weighting": "uniform", "moments": "reset"}
    return {"rule": OneCluster(), "privacy": privacy, **even}


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (SPLIT, dict),
        (SPLIT, partial(dict, observe="training", server="shared")),
        (SPLIT, lambda: {"weighting": FeganWeights(group_size=3), "moments": "average"}),
        (SPLIT, lambda: {"rule": CflClusters(stationary=0.9, min_clients=2)}),
        (SPLIT, lambda: {"rule": IfcaClusters()}),
        (SPLIT, partial(dict, observe="statistics", statistics_noise=0.1)),
        (ALIKE, lambda: {"rule": OneCluster(), "secure": True}),
        (WHOLE, hide_clients),
    ],
    ids=[
        *("observed", "in training", "labels", "updates", "clients choose"),
        *("sums of clients", "secure sums", "whole clients hidden"),
    ],
)
def test_rounds_are_decided_and_saved_as_in_one_process(make, options):
    run = partial(train, options=options)
    expected = run(make())
    found = run_on_ranks([make() for _ in range(2)], run)
    for decisions, saved, state in found:
        assert_equal(expected[0], decisions)
        if saved is found[0][1]:
            assert_equal(expected[1], saved)
            assert_equal(expected[2], state)


def test_what_one_process_cannot_add_up_stops_all_of_them():
    def run(module):
        federation = Federation(rule=OneCluster(), secure=True)
        federation.begin(module)
        batch = make_batch(list(CUTS), 0)
        module.engine.run_step(batch, 0)
        if module.engine.processes.holds(4):
            with torch.no_grad():
                next(module.engine.client(4).parameters()).fill_(1e9)
        with pytest.raises(HuscfError, match="client 4: secure sums take finite numbers up to"):
            federation.end_round(module, is_last=False)
        return module.engine.processes.holds(4)

    assert sorted(run_on_ranks([ALIKE() for _ in range(2)], run)) == [False, True]


def test_what_clients_say_when_they_share_samples_counts_in_the_round_that_ends():
    def make():
        few = {"num_shared": 6, "num_compared": 6, "num_components": 2}
        return make_gan(CUTS, plan=UniformPlan(), method_class=PflGan, **few)

    def run(module):
        federation = Federation(rule=EachAlone())
        federation.begin(module)
        batch = make_batch(list(CUTS), 0)
        federation.observe_batch(module, batch)
        module.engine.run_step(batch, 0)
        federation.end_round(module, is_last=False)
        return module.wire.traffic.total()

    assert run_on_ranks([make() for _ in range(2)], run) == [run(make())] * 2
