import pytest

from huscf.planning import count_paper_costs
from tests.planning.planning_cases import make_request


def test_paper_rules_give_the_printed_costs():
    costs = count_paper_costs(make_request({0: 64}))
    forward = [64e-9 * block.forward_flops for block in costs.generator]
    assert forward == pytest.approx([0.185, 13.17, 3.72, 13.19, 0.058], rel=3e-3)
    backward = [64e-9 * block.backward_flops for block in costs.generator]
    assert backward == pytest.approx([0.188, 26.33, 7.42, 26.35, 0.116], rel=3e-3)
    forward = [64e-9 * block.forward_flops for block in costs.discriminator[:4]]
    assert forward == pytest.approx([0.060, 0.827, 0.929, 0.606], rel=5e-3)
    backward = [64e-9 * block.backward_flops for block in costs.discriminator[:4]]
    assert backward == pytest.approx([0.063, 1.650, 1.856, 1.210], rel=8e-3)
    assert 64 * costs.discriminator[4].output_bytes == 256
