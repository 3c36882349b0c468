"""Running networks to draw: in parts, in the layout that is fast, and to the same samples."""

import pytest
import torch

from huscf.models import LABELS, MAIN, ConditionalGenerator, SampleShape, UNet, run_to_draw
from huscf.models.network import run_blocks

SHAPE = SampleShape(1, 8, 3)
CPU = torch.device("cpu")


def make_unet(width):
    torch.manual_seed(0)
    return UNet(SHAPE, width=width)


def make_inputs(count):
    stream = torch.Generator().manual_seed(1)
    samples = torch.randn(count, 1, 8, 8, generator=stream)
    return {MAIN: samples, LABELS: torch.arange(count) % 3, "time": torch.linspace(0, 1, count)}


def note_parts(network):
    """Return what the second block reads: sizes, and whether channels lie side by side."""
    seen = []

    def note(_, inputs):
        is_last = inputs[0].is_contiguous(memory_format=torch.channels_last)
        seen.append((len(inputs[0]), is_last))

    network[1].register_forward_pre_hook(note)
    return seen


@pytest.mark.parametrize(
    ("width", "parts"), [(8, [(32, False), (5, False)]), (32, [(16, True), (16, True), (5, True)])]
)
def test_a_wide_unet_draws_in_smaller_parts_and_another_layout(width, parts):
    network, inputs = make_unet(width), make_inputs(37)
    with torch.no_grad():
        expected = run_blocks(dict(enumerate(network.eval())), inputs)[MAIN]
    network.train()
    seen = note_parts(network)
    strides = [parameter.stride() for parameter in network.parameters()]
    drawn = run_to_draw(network, inputs, CPU)[MAIN]
    assert seen == parts
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-5)
    # Training goes on as before.
    assert [parameter.stride() for parameter in network.parameters()] == strides
    assert network.training
    del seen[:]
    run_blocks(dict(enumerate(network)), inputs)
    assert seen == [(37, False)]


def test_what_is_drawn_from_vectors_keeps_its_bits():
    torch.manual_seed(0)
    network = ConditionalGenerator(SHAPE, width=32, latent_dim=5)
    inputs = {MAIN: torch.randn(40, 5), LABELS: torch.arange(40) % 3}
    with torch.no_grad():
        blocks = dict(enumerate(network.eval()))
        parts = [
            run_blocks(blocks, {name: tensor[rows] for name, tensor in inputs.items()})[MAIN]
            for rows in (slice(32), slice(32, 40))
        ]
    assert torch.equal(run_to_draw(network, inputs, CPU)[MAIN], torch.cat(parts))
