"""A block's state as named tensors, read at one party and written at another."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from huscf.federation import mix_states
from huscf.parties import forget_moments, read_block, renew_norms, split_moments, write_block


def trained_block(scale=1.0):
    block = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(block.parameters())
    (scale * block(torch.randn(5, 2)).square().sum()).backward()
    optimizer.step()
    return block, optimizer


def test_what_is_read_at_one_party_and_written_at_another_is_a_copy():
    block, optimizer = trained_block()
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    others = torch.optim.Adam(other.parameters())
    state = read_block(block, optimizer)
    write_block(other, state, others)
    assert all(map(torch.equal, block.state_dict().values(), other.state_dict().values()))
    for one, two in zip(block.parameters(), other.parameters(), strict=True):
        assert one is not two
        for name, value in optimizer.state[one].items():
            assert torch.equal(others.state[two][name], value)
            assert others.state[two][name] is not value
    own, moments = split_moments(state)
    assert own.keys() == {**dict(block.named_parameters()), **dict(block.named_buffers())}.keys()
    assert {name.split(".")[1] for name in moments} == {"step", "exp_avg", "exp_avg_sq"}


def test_moments_stay_unless_they_are_asked_for():
    (block, optimizer), (other, others) = trained_block(), trained_block(3.0)
    before = {p: s["exp_avg"].clone() for p, s in others.state.items()}
    write_block(other, read_block(block), others)
    assert all(torch.equal(others.state[p]["exp_avg"], value) for p, value in before.items())
    forget_moments(optimizer, block.parameters())
    assert not optimizer.state


def test_spectral_norms_are_those_of_the_mixed_weights():
    torch.manual_seed(0)
    blocks = [nn.Sequential(spectral_norm(nn.Conv2d(4, 8, 3))) for _ in range(3)]
    matrix = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]).double()
    alone = [tensor.clone() for tensor in blocks[2].state_dict().values()]
    mixed = mix_states([*map(read_block, blocks)], matrix)
    assert mixed[2] is None
    for block, state in zip(blocks, mixed, strict=True):
        if state is not None:
            write_block(block, state)
            renew_norms(block)
        norm = torch.linalg.matrix_norm(block.eval()[0].weight.flatten(1), 2).item()
        assert norm == pytest.approx(1, abs=0.02)
    one, other = (block.state_dict().values() for block in blocks[:2])
    assert all(map(torch.equal, one, other))
    assert all(map(torch.equal, alone, blocks[2].state_dict().values()))
