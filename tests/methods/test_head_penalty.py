"""The penalty on what a client's head sends: its value, whom it trains, and what it does."""

import math

import numpy as np
import pytest
import torch

from huscf.errors import HuscfError
from huscf.methods import FedGan, HuscfGan
from huscf.methods.distance_correlation import distance_correlation
from huscf.models import to_float
from tests.conftest import ENGINES, make_batch, make_gan, run_step
from tests.engines.cases import step_gradients

CUTS = {0: [1, 1, 2, 1], 1: [1, 1, 1, 1]}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_definition(one, other):
    """Szekely et al., written out over all pairs of pairs."""
    count = len(one)
    tables = []
    for rows in (one.flatten(1).double().numpy(), other.flatten(1).double().numpy()):
        table = np.array([[math.dist(a, b) for b in rows] for a in rows])
        tables.append(table - table.mean(0) - table.mean(1)[:, None] + table.mean())
    covariance = sum(tables[0][i, j] * tables[1][i, j] for i in range(count) for j in range(count))
    variances = [(table**2).sum() for table in tables]
    return math.sqrt(covariance / math.sqrt(variances[0] * variances[1]))


def test_it_is_the_distance_correlation_of_its_authors():
    one, other = draw(12, 3, 2), draw(12, 5, seed=1)
    assert distance_correlation(one, other).item() == pytest.approx(by_definition(one, other), 1e-5)
    turned = torch.linalg.qr(draw(6, 6, seed=2)).Q
    moved = 3 * (one.flatten(1) @ turned) + 7
    assert distance_correlation(one, moved).item() == pytest.approx(1, abs=1e-4)
    assert distance_correlation(draw(500, 2), draw(500, 2, seed=3)) < 0.15
    assert distance_correlation(one, torch.zeros(12, 4)).item() == pytest.approx(1e-6)


def test_its_gradient_is_finite_where_rows_are_equal():
    one = torch.zeros(5, 3, requires_grad=True)
    distance_correlation(one, draw(5, 2)).backward()
    assert one.grad.isfinite().all()


@pytest.mark.parametrize("engine", ENGINES)
def test_it_trains_heads_alone_and_by_the_gradient_of_the_whole_loss(engine):
    batch = make_batch(CUTS)
    losses, plain = step_gradients(CUTS, batch, engine=engine)
    others, penalised = step_gradients(CUTS, batch, engine=engine, head_penalty=2.0)
    assert plain and plain.keys() == penalised.keys()
    reference = make_gan(CUTS, depth=5)
    expected = 0.0
    for client in CUTS:
        samples, labels = batch[client]
        cut = reference.plan.by_client[client].cuts.head("discriminator")
        values = to_float(samples)
        blocks = reference.client(client).blocks("discriminator")
        for index in range(cut):
            values = blocks[index](values, labels) if index == 0 else blocks[index](values)
        penalty = 2.0 * distance_correlation(to_float(samples), values)
        expected += penalty.item() / len(CUTS)
        parameters = [p for index in range(cut) for p in blocks[index].parameters()]
        at_head = torch.autograd.grad(penalty, parameters)
        named = dict(zip(parameters, at_head, strict=True))
        for name, parameter in reference.parties.named_parameters():
            if parameter in named:
                added = penalised[name] - plain[name]
                torch.testing.assert_close(added, named[parameter], rtol=1e-3, atol=2e-5)
    for name in [name for name in plain if "discriminator_head" not in name]:
        torch.testing.assert_close(penalised[name], plain[name], rtol=1e-4, atol=1e-6)
    assert others["discriminator"] - losses["discriminator"] == pytest.approx(expected, abs=1e-5)


def test_heads_learn_to_send_less_of_the_samples():
    sent = {}
    for weight in (0.0, 20.0):
        module = make_gan(CUTS, head_penalty=weight, weight_std=0.2, discriminator_lr=0.01)
        for step in range(40):
            run_step(module, make_batch(CUTS, seed=step % 2, size=12), step)
        samples, labels = make_batch(CUTS, size=12)[0]
        values = to_float(samples)
        for index, block in module.client(0).blocks("discriminator").items():
            if index < 2:
                values = block(values, labels) if index == 0 else block(values)
        sent[weight] = distance_correlation(to_float(samples), values).item()
    assert sent[20.0] < sent[0.0] - 0.1


def test_where_nothing_is_sent_nothing_is_added():
    whole = {0: [2, 2, 2, 2]}
    losses = [
        run_step(make_gan(whole, method_class=FedGan, head_penalty=weight), make_batch(whole))
        for weight in (0.0, 5.0)
    ]
    assert losses[0] == losses[1]


def test_a_negative_weight_is_one_line():
    with pytest.raises(HuscfError, match=r"head_penalty is -1, must be a finite number"):
        HuscfGan(head_penalty=-1)
