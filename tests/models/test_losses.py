import math

import pytest
import torch

from huscf.models import HingeLoss, LeastSquaresLoss, NonSaturatingLoss

LOGITS = torch.tensor([0.5, -2.0])


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("loss", "real", "fake", "generator"),
    [
        (
            NonSaturatingLoss(),
            -(math.log(sigmoid(0.5)) + math.log(sigmoid(-2.0))) / 2,
            -(math.log(1 - sigmoid(0.5)) + math.log(1 - sigmoid(-2.0))) / 2,
            -(math.log(sigmoid(0.5)) + math.log(sigmoid(-2.0))) / 2,
        ),
        (HingeLoss(), (0.5 + 3.0) / 2, 1.5 / 2, 1.5 / 2),
        (LeastSquaresLoss(), (0.25 + 9.0) / 2, (0.25 + 4.0) / 2, (0.25 + 9.0) / 2),
    ],
)
def test_losses_equal_their_formulas(loss, real, fake, generator):
    assert loss.discriminator(LOGITS, True).item() == pytest.approx(real)
    assert loss.discriminator(LOGITS, False).item() == pytest.approx(fake)
    assert loss.generator(LOGITS).item() == pytest.approx(generator)


def test_label_smoothing_moves_the_optimum():
    loss = NonSaturatingLoss(real_target=0.9)
    logits = torch.full((1,), math.log(9.0), requires_grad=True)
    loss.discriminator(logits, True).backward()
    assert logits.grad.item() == pytest.approx(0, abs=1e-6)
