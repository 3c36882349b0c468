"""The loss on samples of a label that are alike: its value, whom it trains, and what it does."""

from itertools import pairwise

import pytest
import torch

from huscf.errors import HuscfError
from huscf.methods import FslGan, HflGan, HuscfGan, MdGan
from huscf.methods.mode_seeking import mode_seeking_loss
from huscf.models import MAIN
from tests.conftest import ENGINES, make_batch, make_gan, run_step
from tests.engines.cases import SgdGan, copy_networks, load, step_gradients

CUTS = {0: [1, 1, 2, 1], 1: [1, 1, 1, 1]}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_definition(samples, noise, labels):
    """Every sample beside the next of its label."""
    of_samples, of_noise = [], []
    for label in set(labels.tolist()):
        members = [i for i, each in enumerate(labels.tolist()) if each == label]
        for i, j in pairwise(members):
            of_samples.append((samples[i] - samples[j]).abs().mean().item())
            of_noise.append((noise[i] - noise[j]).abs().mean().item())
    return sum(of_noise) / sum(of_samples)


def test_it_compares_neighbours_of_a_label():
    samples, noise = draw(12, 1, 3, 3), draw(12, 7, seed=1)
    labels = torch.tensor([2, 0, 1, 2, 2, 0, 5, 1, 0, 2, 3, 1])
    found = mode_seeking_loss(samples, noise, labels).item()
    assert found == pytest.approx(by_definition(samples, noise, labels), rel=1e-4)
    assert mode_seeking_loss(2 * samples, noise, labels).item() == pytest.approx(
        found / 2, rel=1e-4
    )


@pytest.mark.parametrize("labels", [[0, 1, 2], []])
def test_where_no_label_is_there_twice_it_is_zero(labels):
    samples = draw(len(labels), 1, 2, 2).requires_grad_()
    loss = mode_seeking_loss(samples, draw(len(labels), 4), torch.tensor(labels, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert not samples.grad.any()


def test_equal_samples_have_a_finite_gradient():
    samples = torch.zeros(4, 1, 2, 2, requires_grad=True)
    mode_seeking_loss(samples, draw(4, 3), torch.zeros(4, dtype=torch.long)).backward()
    assert samples.grad.isfinite().all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.0]])
def test_it_trains_the_generator_by_the_gradient_of_its_own(engine, weights):
    batch = make_batch(CUTS, size=16)
    options = {"engine": engine, "fake_label_weights": weights}
    losses, plain = step_gradients(CUTS, batch, **options)
    others, varied = step_gradients(CUTS, batch, mode_seeking=0.5, **options)
    for name in [name for name in plain if "discriminator" in name]:
        torch.testing.assert_close(varied[name], plain[name], rtol=1e-4, atol=1e-6)
    named = [name for name in plain if "generator" in name]
    assert any((varied[name] - plain[name]).abs().max() > 1e-4 for name in named)
    assert others["discriminator"] == pytest.approx(losses["discriminator"], abs=1e-6)
    assert others["generator"] > losses["generator"] + 0.1


def test_its_gradient_is_that_of_the_uncut_generator():
    cuts = {0: [1, 1, 2, 1]}
    batch, seen = make_batch(cuts, size=16), []
    for weight in (0.0, 0.5):
        module = make_gan(cuts, depth=5, method_class=SgdGan, mode_seeking=weight)
        private = load(module, batch)[0]
        generator = copy_networks(module, batch)[0]["generator"]
        run_step(module, batch)
        parameters = module.engine.whole_network("generator", 0).parameters()
        seen.append([module.method.seen[p] for p in parameters])
    loss = 0.5 * mode_seeking_loss(
        generator(private["noise"], private["labels"]), private["noise"], private["labels"]
    )
    for plain, varied, expected in zip(
        *seen, torch.autograd.grad(loss, list(generator.parameters())), strict=True
    ):
        torch.testing.assert_close(varied - plain, expected, rtol=1e-3, atol=2e-5)


def test_samples_of_a_label_differ_more():
    apart = {}
    for weight in (0.0, 1.0):
        module = make_gan(CUTS, mode_seeking=weight, weight_std=0.2, generator_lr=0.01)
        for step in range(40):
            run_step(module, make_batch(CUTS, seed=step % 2, size=12), step)
        drawn = module.sample(
            0, torch.zeros(20, dtype=torch.long), torch.Generator().manual_seed(0)
        )
        apart[weight] = drawn.std(0).mean().item()
    assert apart[1.0] > 1.2 * apart[0.0]


def test_both_generators_of_hfl_gan_have_it():
    _, fool = HflGan(mode_seeking=0.1).phases(0)
    made = [item for item in fool.passes if "generator" in item.network]
    assert len(made) == 2
    private = {"noise": draw(4, 3), "global noise": draw(4, 3, seed=1), "labels": torch.zeros(4)}
    outputs = {MAIN: draw(4, 1, 2, 2, seed=2)}
    values = [item.loss(outputs, private).item() for item in made]
    assert values[0] != values[1]
    for value, noise in zip(values, ("noise", "global noise"), strict=True):
        expected = 0.1 * mode_seeking_loss(outputs[MAIN], private[noise], private["labels"])
        assert value == pytest.approx(expected.item())


@pytest.mark.parametrize("method", [MdGan, FslGan])
def test_a_server_that_draws_refuses_it(method):
    with pytest.raises(HuscfError, match=r"mode_seeking: clients measure it"):
        method(mode_seeking=0.1)


def test_a_negative_weight_is_one_line():
    with pytest.raises(HuscfError, match=r"mode_seeking is -1, must be a finite number"):
        HuscfGan(mode_seeking=-1)
