"""Noise that hides is drawn from more streams than anybody can try."""

import pytest
import torch

from huscf.randomness import derive_seed, draw_hiding, make_generator, make_wide_rng
from huscf.wire import SERVER, DefendedWire, Message


def find_alike(purpose, *ids):
    """Return two seeds whose torch streams are one: only 32 bits of a seed count there."""
    known = {}
    for seed in range(1 << 20):
        last = derive_seed(seed, purpose, *ids) % (1 << 32)
        if last in known:
            return known[last], seed
        known[last] = seed
    raise AssertionError("no two are alike")


def test_streams_of_torch_that_are_alike_differ_where_noise_hides_something():
    one, other = find_alike("any", 3)
    streams = [make_generator(seed, "any", 3) for seed in (one, other)]
    assert torch.equal(*(torch.randn(5, generator=stream) for stream in streams))
    wide = [make_wide_rng(seed, "any", 3).standard_normal(5) for seed in (one, other)]
    assert not (wide[0] == wide[1]).any()


def test_a_defended_wire_draws_from_such_streams():
    kind, topic = "activations", "generator_head"
    seeds = find_alike(f"wire {kind} {topic} uplink", 7, 0)
    arrived = []
    for seed in seeds:
        wire = DefendedWire(clip={kind: 1.0}, noise={kind: 1.0})
        wire.run_seed = seed
        message = Message(7, SERVER, kind, topic, {"x": torch.ones(2, 50)})
        arrived.append(wire.transmit(message)["x"])
    assert not (arrived[0] == arrived[1]).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_numbers_that_hide_are_normal_and_of_the_type_asked_for(dtype):
    drawn = draw_hiding(make_wide_rng(0, "test"), torch.zeros(200, 50, dtype=dtype))
    assert drawn.dtype == dtype and drawn.shape == (200, 50)
    assert abs(drawn.double().mean()) < 0.03 and abs(drawn.double().std() - 1) < 0.03
    again = draw_hiding(make_wide_rng(0, "test"), torch.zeros(200, 50, dtype=dtype))
    assert torch.equal(drawn, again)
