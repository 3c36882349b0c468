"""The penalty on what a client's head sends: its value, whom it trains, and what it does."""

import itertools
import math

import numpy as np
import pytest
import torch

from huscf.errors import HuscfError
from huscf.methods import FedGan, HuscfGan
from huscf.methods.distance_correlation import squared_distance_correlation
from huscf.models import to_float
from tests.conftest import ENGINES, make_batch, make_gan, run_step
from tests.engines.cases import step_gradients

CUTS = {0: [1, 1, 2, 1], 1: [1, 1, 1, 1]}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_definition(one, other):
    """Szekely and Rizzo's U-centred tables and their inner products, written out."""
    count = len(one)
    tables = []
    for rows in (one.flatten(1).double().numpy(), other.flatten(1).double().numpy()):
        table = np.array([[math.dist(a, b) for b in rows] for a in rows])
        centred = np.zeros_like(table)
        for i, j in itertools.permutations(range(count), 2):
            centred[i, j] = (
                table[i, j]
                - (table[i].sum() + table[:, j].sum()) / (count - 2)
                + table.sum() / ((count - 1) * (count - 2))
            )
        tables.append(centred)
    return (tables[0] * tables[1]).sum() / math.sqrt(
        (tables[0] ** 2).sum() * (tables[1] ** 2).sum()
    )


def test_it_is_the_distance_correlation_of_its_authors():
    one, other = draw(12, 3, 2), draw(12, 5, seed=1)
    found = squared_distance_correlation(one, other).item()
    assert found == pytest.approx(by_definition(one, other), abs=1e-6)
    turned = torch.linalg.qr(draw(6, 6, seed=2)).Q
    moved = 3 * (one.flatten(1) @ turned) + 7
    assert squared_distance_correlation(one, moved).item() == pytest.approx(1, abs=1e-4)
    assert squared_distance_correlation(one, torch.zeros(12, 4)).item() == 0
    assert squared_distance_correlation(one[:3], moved[:3]).item() == 0


def test_it_is_what_the_library_dcor_gives():
    """Its version 0.7, u_distance_correlation_sqr; the figure is written down."""
    one = torch.arange(24.0).reshape(8, 3).sin()
    other = one.cumsum(0)[:, :2].cos()
    assert squared_distance_correlation(one, other).item() == pytest.approx(0.7063058728, abs=1e-6)


def test_independent_rows_of_many_numbers_have_next_to_none():
    """Without the correction it would be 0.99 here."""
    found = [
        squared_distance_correlation(
            draw(32, 784, seed=seed), draw(32, 784, seed=100 + seed)
        ).item()
        for seed in range(20)
    ]
    assert abs(sum(found) / 20) < 0.02
    assert max(map(abs, found)) < 0.15


def test_its_gradient_is_finite_where_rows_are_equal():
    one = torch.zeros(5, 3, requires_grad=True)
    squared_distance_correlation(one, draw(5, 2)).backward()
    assert one.grad.isfinite().all()


@pytest.mark.parametrize("engine", ENGINES)
def test_it_trains_heads_alone_and_by_the_gradient_of_the_whole_loss(engine):
    batch = make_batch(CUTS, size=16)
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
        penalty = 2.0 * squared_distance_correlation(to_float(samples), values)
        assert penalty > 0
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
        sent[weight] = squared_distance_correlation(to_float(samples), values).item()
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
