"""Wrong labels: frequencies are kept, and nothing is learnt where no label can be wrong."""

import pytest
import torch

from huscf.errors import HuscfError
from huscf.methods.mismatch import mismatch_labels
from tests.conftest import make_batch, make_gan, run_step


def mismatch(labels, seed=0):
    return mismatch_labels(labels, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("counts", [[4, 4], [10] * 10, [1, 2, 3], [5, 1, 4], [7, 0, 2, 5]])
def test_every_label_is_wrong_where_no_class_has_more_than_half(counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    for seed in range(20):
        wrong = mismatch(labels, seed)
        assert torch.equal(wrong.sort().values, labels.sort().values)
        assert (wrong != labels).all()


@pytest.mark.parametrize(("counts", "num_kept"), [([6, 2], 4), ([5, 1, 1], 3), ([4], 4)])
def test_a_majority_keeps_what_the_others_cannot_take(counts, num_kept):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    for seed in range(20):
        wrong = mismatch(labels, seed)
        assert torch.equal(wrong.sort().values, labels)
        assert int((wrong == labels).sum()) == num_kept


def test_any_class_takes_the_place_of_any_other():
    labels = torch.arange(5).repeat_interleave(4)
    pairs = {(a, int(mismatch(labels, seed)[4 * a])) for seed in range(100) for a in range(5)}
    assert len(pairs) == 5 * 4


def losses_by_weight(labels):
    batch = {0: (make_batch([0])[0][0], labels)}
    found = {}
    for weight in (0.0, 1.0, 2.0):
        module = make_gan({0: [1, 1, 1, 1]}, mismatched_weight=weight)
        losses = run_step(module, batch)
        found[weight] = losses["discriminator"], dict(module.named_parameters())
    return found


def test_the_loss_on_wrong_labels_counts_by_its_weight():
    found = losses_by_weight(torch.tensor([0, 1, 2, 0, 1, 2]))
    zero, one, two = (found[weight][0] for weight in (0.0, 1.0, 2.0))
    assert one - zero > 0.1
    assert two - one == pytest.approx(one - zero, rel=1e-5)


def test_a_client_of_one_class_learns_nothing_from_wrong_labels():
    found = losses_by_weight(torch.ones(6, dtype=torch.int64))
    assert found[1.0][0] == pytest.approx(found[0.0][0], abs=1e-6)
    for name, parameter in found[0.0][1].items():
        torch.testing.assert_close(found[1.0][1][name], parameter, rtol=1e-5, atol=1e-6)


def test_the_weight_falls_to_zero_and_the_pass_ends():
    module = make_gan({0: [1, 1, 1, 1]}, mismatched_weight=2.0, mismatched_steps=4)
    weights = [module.method.weigh_mismatched(step) for step in range(6)]
    assert weights == [2.0, 1.5, 1.0, 0.5, 0.0, 0.0]
    sent = []
    for step in (3, 4):
        before = module.wire.traffic.total()
        run_step(module, make_batch([0]), step)
        sent.append(module.wire.traffic.total() - before)
    never = make_gan({0: [1, 1, 1, 1]}, mismatched_weight=0.0)
    run_step(never, make_batch([0]))
    assert sent[0] > sent[1] == never.wire.traffic.total()


@pytest.mark.parametrize(
    "options",
    [
        {"mismatched_weight": -1.0},
        {"mismatched_steps": 0},
        {"generator_lr": float("nan")},
        {"discriminator_lr": float("inf")},
        {"weight_std": -0.1},
        {"ema_decay": 1.0},
        {"latent_dim": 0},
        {"betas": (0.5, 1.0)},
    ],
)
def test_senseless_choices_are_refused_by_name(options):
    (name,) = options
    with pytest.raises(HuscfError, match=f"method.{name} is"):
        make_gan({0: [1, 1, 1, 1]}, **options)
