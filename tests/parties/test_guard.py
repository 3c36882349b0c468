"""The server's door."""

import pytest
import torch

from huscf.errors import NonFiniteError
from huscf.parties import Guard, is_finite


def check(guard, values, client_ids, kind="gradients"):
    guard.check(kind, "generator_tail", client_ids, torch.as_tensor(values).float(), "fakes")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_what_a_client_sends_must_be_finite_and_have_finite_squares(value):
    sent = torch.zeros(2, 3)
    sent[1, 1:] = value
    with pytest.raises(NonFiniteError, match="client 3: gradients at generator_tail hold NaN or"):
        check(Guard(), sent, [2, 3, 4])


def test_a_sum_that_overflows_is_still_finite():
    assert is_finite(torch.full((4,), 3e38))


def test_an_explosion_is_measured_by_the_usual_size_of_earlier_steps():
    guard = Guard()
    check(guard, torch.ones(4, 3), [0, 1, 2])
    check(guard, 1e6 * torch.ones(4, 1), [3])  # nothing is usual in the first step
    guard.drop(3)
    guard.commit_step()
    check(guard, 9e3 * torch.ones(4, 1), [0])
    with pytest.raises(NonFiniteError, match=r"client 1: .* are 2e\+04 times the usual"):
        check(guard, torch.ones(4, 2) * torch.tensor([1.0, 2e4]), [0, 1])
    check(guard, 2e4 * torch.ones(4, 1), [1], kind="activations")  # of which nothing is known
    check(Guard(max_growth=float("inf")), 1e18 * torch.ones(4, 1), [1])


def test_the_usual_size_is_the_largest_slowly_forgotten_and_is_saved():
    guard, other = Guard(), Guard()
    for size, expected in ((1.0, 1.0), (100.0, 100.0), (1.0, 99.0), (1.0, 98.01)):
        check(guard, size * torch.ones(4, 3), [0, 1, 2])
        guard.commit_step()
        (usual,) = guard.state_dict()["usual"].values()
        assert usual == pytest.approx(expected)
    other.load_state_dict(guard.state_dict())
    assert other.state_dict() == guard.state_dict()


def test_whole_numbers_pass_and_doubles_are_measured_as_they_are():
    guard = Guard()
    guard.check("inputs", "generator_head", [0], torch.full((4, 1), 10**9))
    guard.check("inputs", "generator_head", [0], torch.full((4, 1), 1e30).double())
    assert len(guard._seen) == 1


def test_a_step_that_nobody_has_ended_leaves_the_usual_sizes_alone():
    guard = Guard()
    check(guard, torch.ones(4, 1), [0])
    guard.drop(0)
    guard.commit_step()
    assert guard.state_dict() == {"usual": {}}
