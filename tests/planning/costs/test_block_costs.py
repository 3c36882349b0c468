import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from huscf.errors import PlanError
from huscf.models import ConditionalDiscriminator, ConditionalGenerator, Network, SampleShape
from huscf.planning import measure_block_costs, measure_plan_costs
from huscf.planning.costs.flop_tally import FlopTally
from tests.planning.planning_cases import make_request


def make_zeros(*size: int):
    return {"x": torch.zeros(2, *size), "labels": torch.zeros(2, dtype=torch.int64)}


class Labelled(nn.Module):
    """A first block that ignores its labels."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs, labels):
        return self.layer(inputs)


# Layer, input size, multiply-adds of one sample by hand.
LAYERS = [
    (nn.Linear(7, 5), (7,), 7 * 5),
    (nn.Conv2d(3, 8, 4, 2, 1), (3, 10, 10), 5 * 5 * 8 * 3 * 16),
    # A transposed convolution spreads each *input* pixel: 6 x 6 of them, not 12 x 12.
    (nn.ConvTranspose2d(6, 4, 4, 2, 1), (6, 6, 6), 6 * 6 * 6 * 4 * 16),
    (nn.ConvTranspose2d(6, 4, 3, 1, 1), (6, 6, 6), 6 * 6 * 6 * 4 * 9),
]


@pytest.mark.parametrize(("layer", "size", "products"), LAYERS)
def test_work_equals_hand_formulas(layer, size, products):
    network = Network([Labelled(nn.Identity()), layer])
    cost = measure_block_costs(network, make_zeros(*size), batch_size=9)[1]
    assert cost.forward_flops == 2 * products
    assert cost.input_gradient_flops == 2 * products
    assert cost.parameter_gradient_flops == 2 * products
    assert cost.backward_flops == 4 * products


def test_tally_equals_torch_counter():
    network = ConditionalGenerator(SampleShape(1, 28, 10), 16, width=8)
    noise, labels = torch.randn(4, 16), torch.zeros(4, dtype=torch.int64)
    with FlopTally() as tally:
        network(noise, labels).sum().backward()
    with FlopCounterMode(display=False) as reference:
        network(noise, labels).sum().backward()
    assert tally.flops == reference.get_total_flops() > 0


def test_sizes_of_parameters_and_outputs():
    costs = measure_plan_costs(make_request({0: 64}))
    assert sum(block.num_params for block in costs.blocks["generator"]) == 2_221_925
    assert sum(block.param_bytes for block in costs.blocks["discriminator"]) == 4 * 816_737
    assert [64 * block.output_bytes for block in costs.blocks["discriminator"]] == [
        4 * 64 * n for n in (64 * 14 * 14, 128 * 7 * 7, 128 * 7 * 7, 256 * 3 * 3, 1)
    ]


def test_half_precision_halves_bytes_only():
    request = make_request({0: 4}, width=8, latent_dim=8)
    full = measure_plan_costs(request)
    for network in request.networks.values():
        network.bfloat16()
    half = measure_plan_costs(request)
    for one, two in zip(full.blocks["discriminator"], half.blocks["discriminator"], strict=True):
        assert one.output_bytes == 2 * two.output_bytes
        assert one.param_bytes == 2 * two.param_bytes
        assert one.forward_flops == two.forward_flops


@pytest.mark.parametrize("in_bf16", [False, True])
@pytest.mark.parametrize("batch", [2, 5, 16])
def test_saved_bytes_equal_a_run_at_that_batch_size(batch, in_bf16):
    shape = SampleShape(1, 28, 10)
    network = ConditionalDiscriminator(shape, 8)
    costs = measure_block_costs(network, make_zeros(1, 28, 28), batch, in_bf16=in_bf16)
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    storages: dict[int, torch.Tensor] = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    mixed = torch.autocast("cpu", torch.bfloat16, enabled=in_bf16, cache_enabled=False)
    with mixed, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network(torch.zeros(batch, 1, 28, 28), torch.zeros(batch, dtype=torch.int64))
    expected = sum(tensor.untyped_storage().nbytes() for tensor in storages.values())
    assert batch * sum(block.saved_bytes for block in costs) == pytest.approx(expected)
    assert outputs.shape == (batch,)


def test_measuring_changes_nothing():
    network = ConditionalDiscriminator(SampleShape(1, 28, 10), 8).eval()
    before, random_state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    threads = torch.get_num_threads()
    measure_block_costs(network, make_zeros(1, 28, 28), 4)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())
    assert threads == torch.get_num_threads()
    assert not network.training


def test_batch_size_must_be_positive():
    network = ConditionalDiscriminator(SampleShape(1, 28, 10), 8)
    with pytest.raises(PlanError, match="batch_size is 0"):
        measure_block_costs(network, make_zeros(1, 28, 28), 0)
