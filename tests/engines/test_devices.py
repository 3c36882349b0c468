"""Nothing is left on the wrong device: steps, rounds, moved blocks, drawing and scores on a card.

The card is pretended (tests/pretend_card.py): its tensors hold values on the CPU, autograd and
optimisers run, and an operator with tensors of both devices is refused. Everything must come to
what the CPU comes to, to the last bit.

What stays unproven without hardware: that a real card has every kernel, rounds alike (benchmarks/
gpu.py compares to 1e-3), and fused or foreach optimisers, which accept no pretended tensor.
"""

from functools import partial

import pytest
import torch

from huscf.engines import Mixture
from huscf.methods import HuscfGan
from huscf.metrics import ClassifierTraining, JudgeSettings
from huscf.metrics.evaluation import DomainEvaluator, Effort, EvaluationSettings, score_domain
from huscf.randomness import make_generator
from huscf.split import ClientCuts, ClientPlan, CutPlan
from tests.conftest import ENGINES, make_batch, make_gan
from tests.pretend_card import CARD, Card, CardTensor, MixedDevicesError, move

CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2], 2: [1, 1, 1, 1], 3: [1, 2, 2, 1]}


class PlainAdamGan(HuscfGan):
    """Adam as a loop over tensors."""

    def make_optimizer(self, network, parameters):
        return torch.optim.Adam(parameters, 1e-3, (0.5, 0.999), foreach=False, fused=False)


def make_module(on_card, engine):
    module = make_gan(CUTS, engine=engine, method_class=PlainAdamGan, mismatched_weight=0.5)
    if on_card:
        move(module)
        module._device = CARD  # as Lightning's `to` notes it
        module.configure_optimizers()
    return module


def put(batch, on_card):
    if not on_card:
        return batch
    return {c: (CardTensor(samples), CardTensor(labels)) for c, (samples, labels) in batch.items()}


def weights(module):
    """Every parameter and buffer, on the CPU."""
    return {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}


def follow(on_card, engine):
    """Losses, what the server has seen, weights after each part, and samples."""
    module = make_module(on_card, engine)
    found = [module.engine.run_step(put(make_batch(CUTS, n), on_card), n).losses for n in range(2)]
    seen = module.engine.observe().summary
    after_steps = weights(module)
    halves = dict.fromkeys(CUTS, 0.5)
    clusters = {0: 0, 1: 1, 2: 0, 3: 1}
    for moments in ("keep", "average"):
        module.engine.mix(Mixture(clusters, halves, True, moments))
    after_round = weights(module)
    plan = module.plan
    moved = ClientPlan(0, ClientCuts.from_list([2, 1, 1, 1], plan.networks), "")
    module.engine.apply_plan(CutPlan(plan.blocks, (moved, *plan.clients[1:])))
    found.append(module.engine.run_step(put(make_batch(CUTS, 2), on_card), 2).losses)
    samples = module.sample(1, torch.arange(3).repeat(2), make_generator(0, "test"))
    return found, seen, after_steps, after_round, weights(module), samples


@pytest.mark.parametrize("engine", ENGINES)
def test_steps_rounds_moves_and_samples_of_a_card_are_those_of_the_cpu(engine):
    with Card():
        card = follow(True, engine)
    cpu = follow(False, engine)
    assert card[0] == cpu[0]
    for ours, theirs in zip(card[2:5], cpu[2:5], strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert torch.equal(card[5], cpu[5]) and card[5].device.type == "cpu"
    assert type(card[5]) is torch.Tensor


def test_parameters_gradients_and_moments_are_on_the_card():
    with Card():
        module = make_module(True, "stacked")
        module.engine.run_step(put(make_batch(CUTS), True), 0)
        held = [*module.parameters(), *module.buffers()]
        assert all(isinstance(tensor, CardTensor) for tensor in held)
        states = [
            value
            for party in module.engine.all_parties().values()
            for optimizer in party.optimizers.values()
            for state in optimizer.state.values()
            for name, value in state.items()
            if name != "step"
        ]
        assert len(states) > 20 and all(isinstance(value, CardTensor) for value in states)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_that_is_left_on_the_cpu_is_refused(engine):
    """The pretended card would tell."""
    with Card(), pytest.raises(MixedDevicesError, match="on the CPU beside the card"):
        make_module(True, engine).engine.run_step(make_batch(CUTS), 0)


def test_what_a_card_takes_of_the_cpu_is_taken():
    value, other = torch.arange(6.0).view(2, 3), torch.ones(2, 3)
    with Card():
        card = CardTensor(value)
        assert torch.equal((card * torch.tensor(2.0)).cpu(), 2 * value)
        assert torch.equal(card[torch.tensor([1])].cpu(), value[1:])
        assert isinstance(other.to(card.device), CardTensor)
        assert torch.equal(torch.empty_like(card).copy_(other).cpu(), other)
        for mix in (
            lambda: card + other,
            lambda: torch.cat([card, other]),
            lambda: other[card > 1],
        ):
            with pytest.raises(MixedDevicesError):
                mix()


class Domain:
    """Two classes, dark and bright, with noise."""

    name, num_classes = "lights", 2

    def __init__(self):
        stream = torch.Generator().manual_seed(0)
        labels = torch.arange(2).repeat(60)
        noise = torch.randint(0, 60, (120, 1, 8, 8), generator=stream, dtype=torch.uint8)
        samples = noise + (labels * 150).to(torch.uint8)[:, None, None, None]
        self.train_samples, self.train_labels = samples[:80], labels[:80]
        self.test_samples, self.test_labels = samples[80:], labels[80:]


class Owner:
    client_id, indices = 0, torch.arange(0, 80, 3).numpy()


class Sampler:
    """Draws the two classes, noisier."""

    seed = 0

    def sample(self, client_id, labels, stream):
        noise = torch.rand(len(labels), 1, 8, 8, generator=stream) * 0.6 - 0.9
        return noise + labels.float()[:, None, None, None]

    def draws_alike(self, one, other):
        return one == other


def score(device, root, monkeypatch):
    monkeypatch.setenv("HUSCF_CACHE", str(root))
    short = ClassifierTraining(epochs=1)
    settings = JudgeSettings(width=4, num_features=8, training=short)
    monkeypatch.setattr("huscf.metrics.evaluation.domain_evaluator.JudgeSettings", lambda: settings)
    seen = []
    evaluator = DomainEvaluator(Domain(), device=device)
    train = torch.nn.functional.cross_entropy

    def note(logits, labels, **options):
        seen.append((logits.device, labels.device))
        return train(logits, labels, **options)

    monkeypatch.setattr("huscf.metrics.classifier_training.nn.functional.cross_entropy", note)
    what = EvaluationSettings(k=3, downstream=short)
    effort = Effort(30, num_seeds=1, num_clients=1, num_yardstick_clients=1)
    scores = score_domain(Sampler(), evaluator, [Owner()], what, effort)
    return scores.row, evaluator.reference.judge.device, set(seen)


def test_judge_scores_and_downstream_classifiers_are_on_the_trainer_s_device(tmp_path, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        cpu, at, seen = score(None, tmp_path / "cpu", patch)
    assert (at.type, seen) == ("cpu", {(torch.device("cpu"),) * 2})
    for name in ("once", "again"):  # trained, then found in the cache
        with Card(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim, "Adam", partial(torch.optim.Adam, foreach=False))
            card, at, seen = score(CARD, tmp_path / "card", patch)
        assert at == CARD and seen <= {(CARD, CARD)} and bool(seen), name
        assert card == pytest.approx(cpu, rel=1e-5)
