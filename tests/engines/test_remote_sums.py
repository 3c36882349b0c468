"""What a server takes for a client's sums, and what it refuses."""

import numpy as np
import pytest
import torch

from huscf.engines.remote.step import DroppedError
from huscf.engines.remote.sums import Comparison, OwnSums
from huscf.errors import HuscfError
from huscf.federation import ReferenceBlocks, ReferenceObserver
from huscf.wire.frames import Frame, FrameError, pack
from tests.conftest import make_batch
from tests.engines.test_remote import Server, gan

WRONG = {
    "shape": (lambda v, p: {"values": v[:-1], "products": p}, {}, "tensor values is"),
    "dtype": (lambda v, p: {"values": v.float(), "products": p}, {}, "float32"),
    "missing": (lambda v, p: {"values": v}, {}, "products"),
    "surplus": (lambda v, p: {"values": v, "products": p, "maps": p}, {}, "maps"),
    "nan": (lambda v, p: {"values": v * float("nan"), "products": p}, {}, "NaN, Inf or too large"),
    "large": (lambda v, p: {"values": v, "products": p + 1e39}, {}, "NaN, Inf or too large"),
    "negative": (lambda v, p: {"values": v, "products": -p}, {}, "no samples have such a cov"),
    "lopsided": (lambda v, p: {"values": v, "products": p.tril()}, {}, "no samples have such a"),
    "few": (lambda v, p: {"values": v, "products": p}, {"samples": 0}, "0 samples of client 0"),
    "many": (lambda v, p: {"values": v, "products": p}, {"samples": 18}, "18 samples of client 0"),
}


@pytest.fixture
def engine():
    found = Server(gan(2), {"a": (0,), "b": (1,)}).engine
    found.observer = ReferenceObserver(list(found.networks["discriminator"])[:-2], 12)
    found.sends_sums = found.is_closing = True
    return found


def test_a_site_goes_back_to_no_round_whose_sums_it_has_sent():
    half = Server(gan(1), {"a": (0,)}).sites["a"].half
    blocks = ReferenceBlocks(list(half.networks["discriminator"])[:-2])
    sums = OwnSums(half.method, blocks, Comparison("statistics", 6), {0: 1})
    samples = make_batch([0])[0][0]
    sums.add(1, 0, 0, samples)
    sums.add(1, 0, 0, samples)
    assert sums._statistics.num_samples(0) == 6  # enough: nothing of a second batch
    with pytest.raises(HuscfError, match="goes back from round 1 to 0"):
        sums.add(0, 1, 0, samples)


def make_frame(engine, change=lambda v, p: {"values": v, "products": p}, **fields):
    """What a client sends of twelve samples."""
    samples = make_batch([0], size=12)[0][0]
    inputs = engine.method.reference_inputs(samples)
    maps = engine.observer.show(inputs, None)["x"]
    pooled = torch.nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1)[:, :64].double()
    content = change(pooled.sum(0), pooled.T @ pooled)
    return pooled, Frame(
        pack({"kind": "statistics", "client": 0, "samples": 12, **fields}, content)
    )


def test_sums_give_the_mean_and_covariance_of_the_samples(engine):
    pooled, frame = make_frame(engine)
    assert engine.answer("a", frame) == ({"kind": "ok"}, {})
    summary = engine.gather_sums(engine.observer.statistics).summarize({0: 60})
    assert summary.client_ids == [0] and summary.counts.tolist() == [12]
    np.testing.assert_allclose(summary.means[0], pooled.mean(0), rtol=1e-6)
    np.testing.assert_allclose(summary.covariances[0], pooled.T.cov(), atol=1e-6)
    assert engine.wire.traffic.total() == 8 * (pooled.shape[1] + pooled.shape[1] ** 2)
    with pytest.raises(FrameError, match="those of client 0 are there"):
        engine.answer("a", frame)


@pytest.mark.parametrize(("change", "fields", "reason"), WRONG.values(), ids=WRONG.keys())
def test_what_are_no_sums_is_refused_and_changes_nothing(engine, change, fields, reason):
    with pytest.raises(FrameError, match=reason):
        engine.answer("a", make_frame(engine, change, **fields)[1])
    assert engine.observer.statistics.client_ids == [] and not engine.wire.traffic.total()


def test_sums_are_taken_when_a_round_is_closed_and_at_no_other_time(engine):
    engine.is_closing = False
    with pytest.raises(DroppedError):  # it is late
        engine.answer("a", make_frame(engine)[1])
    assert engine.observer.statistics.client_ids == []
    assert not engine._is_observed(0)  # nor are activations asked for
    engine.observer, engine.is_closing = None, True
    frame = Frame(pack({"kind": "statistics", "client": 0, "samples": 12}, {}))
    with pytest.raises(FrameError, match="nobody was asked for them"):
        engine.answer("a", frame)
