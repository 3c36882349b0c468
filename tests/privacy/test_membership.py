"""Membership figures against scikit-learn's, and against generators that are known."""

import math
from functools import partial

import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from huscf.metrics import measure_nearest_distances
from huscf.models import ConditionalDiscriminator
from huscf.privacy.membership import (
    chance_of_separation,
    measure_separation,
    score_by_distance,
    standardise,
)
from huscf.privacy.membership_attacks import LabelledSet, judge
from tests.conftest import make_batch, make_gan


def draw(count, seed):
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("digits", [9, 1])
def test_figures_are_scikit_learn_s(digits):
    stream = torch.Generator().manual_seed(0)
    members = (torch.randn(400, generator=stream) + 0.4).mul(10**digits).round()
    others = torch.randn(2500, generator=stream).mul(10**digits).round()  # 1 digit has ties
    truth = [1] * len(members) + [0] * len(others)
    scores = torch.cat([members, others]).numpy()
    found = measure_separation(members, others)
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert found["tpr_at_1_percent"] == pytest.approx(true[false <= 0.01].max())
    assert found["tpr_at_0.1_percent"] == pytest.approx(true[false <= 0.001].max())


def test_scores_that_know_nothing_give_chance_within_its_standard_error():
    stream = torch.Generator().manual_seed(0)
    found = torch.tensor(
        [
            measure_separation(
                torch.randn(60, generator=stream), torch.randn(90, generator=stream)
            )["auroc"]
            for _ in range(400)
        ]
    )
    chance = chance_of_separation(60, 90)
    error = chance["auroc_standard_error"]
    assert found.std().item() == pytest.approx(error, rel=0.12)
    assert found.mean().item() == pytest.approx(chance["auroc"], abs=4 * error / math.sqrt(400))
    assert chance["tpr_at_1_percent"] == 0.01


def test_a_generator_that_repeats_its_training_set_is_found_out():
    members, others, references = draw(300, 1), draw(300, 2), draw(300, 3)
    scores = [score_by_distance(each, members, references) for each in (members, others)]
    found = measure_separation(*scores)
    assert found == {"auroc": 1.0, "tpr_at_1_percent": 1.0, "tpr_at_0.1_percent": 1.0}


def test_a_generator_that_saw_nobody_is_not():
    members, others, references, drawn = (draw(300, seed) for seed in (1, 2, 3, 4))
    scores = [score_by_distance(each, drawn, references) for each in (members, others)]
    error = chance_of_separation(300, 300)["auroc_standard_error"]
    assert measure_separation(*scores)["auroc"] == pytest.approx(0.5, abs=3 * error)


def test_references_calibrate_what_is_near_to_everything():
    """Samples in the middle are near to all, generated or real; that makes them no members."""
    middle, edge = draw(100, 1) * 0.1, draw(100, 2)
    drawn, references = draw(500, 3), draw(500, 4)
    scores = [score_by_distance(each, drawn, references) for each in (middle, edge)]
    assert measure_separation(*scores)["auroc"] == pytest.approx(0.5, abs=0.15)
    plain = [-measure_nearest_distances(each, drawn) for each in (middle, edge)]
    assert measure_separation(*plain)["auroc"] > 0.95


def test_scores_of_several_networks_are_brought_to_one_scale():
    references = torch.tensor([1.0, 3.0, 5.0])
    assert torch.equal(standardise(torch.tensor([3.0, 7.0]), references), torch.tensor([0.0, 2.0]))


def test_what_is_said_of_a_sample_does_not_depend_on_which_others_are_asked_for():
    discriminator = partial(ConditionalDiscriminator, width=4, depth=4, minibatch_std=True)
    module = make_gan({0: [1, 1, 1, 1]}, discriminator=discriminator)
    samples, labels = make_batch([0], size=9)[0]
    every = judge(module, 0, LabelledSet(samples, labels))
    some = judge(module, 0, LabelledSet(samples[:4], labels[:4]))
    assert torch.equal(every[:4], some) and len(every.unique()) > 4
