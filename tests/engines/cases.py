"""What the tests of engines share: legal cuts, a plain GAN's step, and gradients as seen."""

import copy
import io
import itertools
from typing import ClassVar

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from huscf.methods import HuscfGan
from huscf.methods.huscf_gan import AUGMENTATION_INPUTS
from huscf.models import NonSaturatingLoss
from huscf.split import ClientCuts, ClientPlan, CutPlan, Placement
from huscf.wire import KINDS, MemoryWire
from tests.conftest import make_gan, run_step

NAMES = ("generator", "discriminator")
ADAM = {"lr": 5e-4, "betas": (0.5, 0.999), "fused": True}


def plan_of(cuts, depth=5):
    """A plan for a pair of networks of `depth` blocks each."""
    entries = (ClientPlan(c, ClientCuts.from_list(v, NAMES)) for c, v in sorted(cuts.items()))
    return CutPlan(tuple((name, depth) for name in NAMES), tuple(entries))


def halves(blocks, least=1):
    """All (head, tail) that leave both ends and the server at least so many blocks."""
    counts = range(least, blocks + 1)
    return [(h, t) for h in counts for t in counts if h + t + least <= blocks]


def legal_cuts(blocks, least=1):
    return [[*g, *d] for g, d in itertools.product(halves(blocks, least), repeat=2)]


class _Watched:
    """Keeps the gradients that an optimiser steps on."""

    seen: dict

    def step(self, closure=None):
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if parameter.grad is not None:
                self.seen[parameter] = parameter.grad.clone()
        return super().step(closure)


class WatchedSgd(_Watched, torch.optim.SGD):
    pass


class WatchedAdam(_Watched, torch.optim.Adam):
    pass


class WatchedGan(HuscfGan):
    """Keeps the gradients of the last step, which engines free."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = {}

    def make_optimizer(self, network, parameters):
        return self.watch(WatchedAdam(parameters, **ADAM))

    def watch(self, optimizer):
        optimizer.seen = self.seen
        return optimizer


class SgdGan(WatchedGan):
    """Steps by plain gradient descent, so that rounding stays rounding."""

    def __init__(self, lr=0.0, **options):
        super().__init__(**options)
        self.lr = lr

    def make_optimizer(self, network, parameters):
        return self.watch(WatchedSgd(parameters, lr=self.lr))


class DoubleGan(SgdGan):
    """In numbers so exact that several steps cannot enlarge their rounding to anything."""

    def prepare(self, *arguments):
        private = super().prepare(*arguments)
        return {n: t.double() if t.is_floating_point() else t for n, t in private.items()}


class FreeGan(SgdGan):
    """Lets every block lie anywhere, and everything cross that must then."""

    kinds: ClassVar = frozenset(KINDS)

    def placement(self, network):
        return Placement(0, 0, 0)


class WatchedLoss(NonSaturatingLoss):
    """Keeps the logits that it is given, in order."""

    def __init__(self):
        super().__init__()
        self.logits = []

    def discriminator(self, logits, is_real):
        self.logits.append(logits.detach().clone())
        return super().discriminator(logits, is_real)

    def generator(self, logits):
        self.logits.append(logits.detach().clone())
        return super().generator(logits)


class Recorder(MemoryWire):
    """Keeps every message."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def transmit(self, message):
        self.messages.append(message)
        return message.tensors


def seen_gradients(module):
    """The gradients of the last step by parameter name; those of frozen halves are left out."""
    names = {p: name for name, p in module.parties.named_parameters()}
    return {names[p]: gradient for p, gradient in module.method.seen.items() if p in names}


def step_gradients(cuts, batch, depth=5, **options):
    """Losses and gradients of a step in which no parameter moves."""
    module = make_gan(cuts, depth=depth, method_class=SgdGan, **options)
    losses = run_step(module, batch)
    return losses, seen_gradients(module)


def assert_same(one, other, rtol=1e-4, atol=1e-5):
    """Losses and gradients of two steps are the same to rounding."""
    assert one[0] == pytest.approx(other[0], abs=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        torch.testing.assert_close(other[1][name], value, rtol=rtol, atol=atol, msg=name)


def copy_networks(module, client_ids):
    """Every client's whole networks as they are now, and its private tensors of step 0."""
    return {
        c: {name: copy.deepcopy(module.engine.whole_network(name, c)) for name in NAMES}
        for c in client_ids
    }


def load(module, batch, step=0):
    """Let the clients take their batches; return the private tensors of each."""
    module.engine.load_batches(batch, step)
    return {c: dict(module.client(c).private) for c in batch}


def uncut_step(networks, private, make_optimizer=None, change=lambda samples: samples):
    """One step of a plain GAN, written from the definition; returns losses, gradients, logits.

    The discriminator sees what change makes of samples.

    Two backward passes and a frozen discriminator, as the design's section 2 says: a bias before
    a batch norm has gradient zero but for rounding, and Adam turns rounding into a full step.
    """
    make_optimizer = make_optimizer or adam
    generator, discriminator = (networks[name] for name in NAMES)
    optimizers = {name: make_optimizer(networks[name].parameters()) for name in NAMES}
    real, labels, noise = private["samples"], private["labels"], private["noise"]
    wrong = private.get("wrong_labels")
    ones, zeros = torch.ones(len(labels)), torch.zeros(len(labels))
    fakes = generator(noise, labels)
    discriminator_loss, judged = torch.zeros(()), []
    sources = [(fakes.detach(), labels, zeros), (real, labels, ones)]
    if wrong is not None:
        sources.append((real, wrong, zeros))
    for samples, own, target in sources:
        logits, share = discriminator(change(samples), own).flatten(), 1.0
        if own is wrong:
            # Wrong labels that are right after all count as nothing.
            is_wrong = wrong != labels
            logits, target, share = logits[is_wrong], target[is_wrong], is_wrong.float().mean()
        loss = share * binary_cross_entropy_with_logits(logits, target)
        loss.backward()
        judged.append(logits.detach())
        discriminator_loss = discriminator_loss + loss.detach()
    gradients = {"discriminator": take_gradients(discriminator)}
    optimizers["discriminator"].step()
    trained = [p for p in discriminator.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    logits = discriminator(change(fakes), labels).flatten()
    judged.append(logits.detach())
    generator_loss = binary_cross_entropy_with_logits(logits, ones)
    generator_loss.backward()
    gradients["generator"] = take_gradients(generator)
    optimizers["generator"].step()
    for parameter in trained:
        parameter.requires_grad_(True)
    losses = {"generator": generator_loss.item(), "discriminator": discriminator_loss.item()}
    return losses, gradients, judged


def save(module):
    """A checkpoint as it comes back from a file."""
    checkpoint = {"state_dict": module.collect_state_dict()}
    module.on_save_checkpoint(checkpoint)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def restore(module, checkpoint):
    """Go on from a checkpoint, in Lightning's order."""
    module.on_load_checkpoint(checkpoint)
    module.load_own_state(checkpoint["state_dict"])
    module.configure_optimizers()
    return module


def take_gradients(network):
    return [None if p.grad is None else p.grad.clone() for p in network.parameters()]


def adam(parameters):
    return torch.optim.Adam(parameters, **ADAM)


def sgd(lr):
    return lambda parameters: torch.optim.SGD(parameters, lr)


def assert_equals_uncut(module, batch, make_optimizer=None, msg=""):
    """A step of one client's cut networks is that of the whole ones: outputs, losses, state.

    Gradients are compared too where the method keeps them, and outputs where the loss does.
    """

    def named(text):
        return f"{msg}: {text}"

    (client,) = batch
    private = load(module, batch)[client]
    networks = copy_networks(module, batch)[client]
    deciding = [private[n] for n in AUGMENTATION_INPUTS if n in private]
    augment = module.method.augmentation

    def change(samples):
        return samples if augment is None else augment.apply(samples, *deciding)

    expected_losses, expected, judged = uncut_step(networks, private, make_optimizer, change)
    losses = run_step(module, batch)
    for given, logits in zip(getattr(module.method.loss, "logits", []), judged, strict=False):
        torch.testing.assert_close(given, logits, rtol=1e-5, atol=1e-5, msg=named)
    seen = getattr(module.method, "seen", {})
    for name in NAMES:
        assert abs(losses[name] - expected_losses[name]) < 1e-5, msg
        whole = module.engine.whole_network(name, client)
        if seen:
            for parameter, gradient in zip(whole.parameters(), expected[name], strict=True):
                found = seen.get(parameter)
                assert (found is None) == (gradient is None), msg
                if gradient is not None:
                    torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6, msg=named)
        after = whole.state_dict()
        for key, value in networks[name].state_dict().items():
            torch.testing.assert_close(
                after[key],
                value,
                rtol=1e-5,
                atol=1e-5,
                msg=named,
            )
