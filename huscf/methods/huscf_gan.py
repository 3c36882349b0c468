"""HuSCF-GAN: both networks cut in three, the middle at the server."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from ..errors import HuscfError, check_number
from ..models import (
    LABELS,
    MAIN,
    AdversarialLoss,
    Carry,
    ConditionalDiscriminator,
    ConditionalGenerator,
    Network,
    NonSaturatingLoss,
    SampleShape,
    check_network,
    check_scalar,
    initialize_weights,
    to_float,
)
from .augmentation import DiscriminatorAugmentation
from .base import Forward, Method, Streams
from .distance_correlation import squared_distance_correlation
from .mismatch import mismatch_labels
from .mode_seeking import mode_seeking_loss
from .phases import Change, Pass, Phase
from .rate_schedule import RateSchedule

#: The private tensors that decide about a step's augmentation.
AUGMENTATION_INPUTS = ("augmentation_draws", "augmentation_strength")

#: The private tensor of labels that are drawn from a public distribution.
FAKE_LABELS = "fake_labels"


class HuscfGan(Method):
    """A conditional GAN whose generator and discriminator are cut in three for every client.

    Source: arXiv:2507.12979.

    Args:
        generator: Class or function that returns the generator's blocks.
        discriminator: Class or function that returns the discriminator's blocks.
        latent_dim: Length of the noise vector, at least 1.
        loss: Adversarial loss; None is the non-saturating cross-entropy of the paper.
        generator_lr: Adam's learning rate of all generator parts. Measured: narrow networks
            (width 16) learn faster with 1e-3, the paper's with 5e-4.
        discriminator_lr: Adam's learning rate of all discriminator parts.
        betas: Adam's decay rates, from 0 to below 1.
        mismatched_weight: Weight of the discriminator's loss on real samples with wrong labels,
            which teaches it, and through it the generator, to heed labels (Reed et al. 2016,
            section 4.2). Measured: 1 gives better samples within a few hundred steps and less
            varied ones later. The server then sees a sample's activations under two labels. 0
            leaves that pass out, as the paper does.
        mismatched_steps: Steps within which that weight falls linearly to 0; None keeps it.
        weight_std: Standard deviation of the initial weights; None keeps PyTorch's own scale.
        ema_decay: Decay, below 1, of the exponential moving average over steps of the generator
            that samples are drawn from, with a warm-up; 0 draws from the trained generator.
        augmentation: Random changes of reals and fakes in front of every client's discriminator;
            None is none.
        fake_label_weights: A public distribution over all classes, not all 0, from which a client
            draws the labels of its fakes, so that these tell nothing of its data; None takes the
            labels of its own batch.
        head_penalty: Weight, >= 0, of the squared distance correlation between a client's real
            samples and what its discriminator's head sends of them, which the client adds to its
            loss (NoPeek): the head learns to send less of the samples. 0 leaves it out.
        mode_seeking: Weight, >= 0, of the generator's loss on samples of a label that are alike
            for noise that differs (Mao et al. 2019). It reads no record, so that it costs no
            privacy. 0 leaves it out.
        rate_schedule: How both learning rates change over the run's steps; None keeps them.
    """

    exported = "generator"
    record_free = frozenset({"noise", FAKE_LABELS, *AUGMENTATION_INPUTS})

    def __init__(
        self,
        generator: Callable[[SampleShape, int], Network] = ConditionalGenerator,
        discriminator: Callable[[SampleShape], Network] = ConditionalDiscriminator,
        latent_dim: int = 100,
        loss: AdversarialLoss | None = None,
        generator_lr: float = 5e-4,
        discriminator_lr: float = 5e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        mismatched_weight: float = 0.0,
        mismatched_steps: int | None = 200,
        weight_std: float | None = 0.02,
        ema_decay: float = 0.98,
        augmentation: DiscriminatorAugmentation | None = None,
        fake_label_weights: Sequence[float] | None = None,
        head_penalty: float = 0.0,
        mode_seeking: float = 0.0,
        rate_schedule: RateSchedule | None = None,
    ) -> None:
        for name, value in (
            ("generator_lr", generator_lr),
            ("discriminator_lr", discriminator_lr),
            ("mismatched_weight", mismatched_weight),
            ("head_penalty", head_penalty),
            ("mode_seeking", mode_seeking),
            ("weight_std", weight_std),
        ):
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise HuscfError(f"method.{name} is {value}, must be a finite number >= 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise HuscfError(f"method.betas is {list(betas)}, must be from 0 to below 1")
        if not 0 <= ema_decay < 1:
            raise HuscfError(f"method.ema_decay is {ema_decay}, must be from 0 to below 1")
        for name, count in (("latent_dim", latent_dim), ("mismatched_steps", mismatched_steps)):
            if count is not None and count < 1:
                raise HuscfError(f"method.{name} is {count}, must be >= 1")
        self.generator = generator
        self.discriminator = discriminator
        self.latent_dim = latent_dim
        self.loss = loss or NonSaturatingLoss()
        self.learning_rates = {"generator": generator_lr, "discriminator": discriminator_lr}
        self.betas = betas
        self.mismatched_weight = mismatched_weight
        self.mismatched_steps = mismatched_steps
        self.weight_std = weight_std
        self.ema_decay = ema_decay
        self.augmentation = augmentation
        self.fake_label_weights = _check_weights(fake_label_weights)
        self.head_penalty = head_penalty
        self.mode_seeking = mode_seeking
        self.rate_schedule = rate_schedule
        self.averaged = ("generator",) if ema_decay else ()

    def build_networks(self, shape: SampleShape) -> dict[str, Network]:
        """Return generator and discriminator, refusing what is no pair of a GAN."""
        weights = self.fake_label_weights
        if weights is not None and len(weights) != shape.num_classes:
            raise HuscfError(
                f"method.fake_label_weights has {len(weights)} numbers, needs one for each of the "
                f"{shape.num_classes} classes"
            )
        networks = {
            "generator": self.generator(shape, self.latent_dim),
            "discriminator": self.discriminator(shape),
        }
        labels = torch.zeros(2, dtype=torch.int64)
        wanted = (2, shape.channels, shape.image_size, shape.image_size)
        noise = {MAIN: torch.zeros(2, self.latent_dim), LABELS: labels}
        made = tuple(check_network("generator", networks["generator"], noise)[MAIN].shape)
        if made != wanted:
            raise HuscfError(f"generator: gives {made} for 2 samples, needs {wanted}")
        samples = {MAIN: torch.zeros(wanted), LABELS: labels}
        judged = check_network("discriminator", networks["discriminator"], samples)[MAIN].shape
        if judged not in ((2,), (2, 1)):
            raise HuscfError(
                f"discriminator: gives {tuple(judged)} for 2 samples, needs one logit for each, "
                "(2,)"
            )
        if self.weight_std is not None:
            for network in networks.values():
                initialize_weights(network, self.weight_std)
        return networks

    def prepare(self, samples: Tensor, labels: Tensor, streams: Streams, step: int) -> Carry:
        """Return samples in [-1, 1], labels, noise, and where they are used wrong labels."""
        noise = torch.randn(len(labels), self.latent_dim, generator=streams("training noise"))
        private = {"samples": to_float(samples), LABELS: labels, "noise": noise.to(samples.device)}
        if self.weigh_mismatched(step) > 0:
            private["wrong_labels"] = mismatch_labels(labels, streams("wrong labels"))
        if (weights := self.fake_label_weights) is not None:
            drawn_labels = torch.tensor(weights, dtype=torch.float64).multinomial(
                len(labels), replacement=True, generator=streams("labels of fakes")
            )
            private[FAKE_LABELS] = drawn_labels.to(labels.device)
        if self.augmentation is not None:
            drawn = self.augmentation.draw(len(labels), streams("discriminator augmentation"))
            private |= {name: tensor.to(samples.device) for name, tensor in drawn.items()}
        return private

    def check_data(self, is_sound: bool, domains: Collection[str]) -> list[str]:
        """Refuse, or warn of, an augmentation that is not for these data."""
        return [] if self.augmentation is None else self.augmentation.check_data(is_sound, domains)

    def phases(self, step: int) -> tuple[Phase, Phase]:
        """Return the discriminator's half of a step and the generator's.

        Source: docs/architecture.md, a step.
        """
        fake_labels = LABELS if self.fake_label_weights is None else FAKE_LABELS
        fakes = Pass("fakes", "generator", {MAIN: "noise", LABELS: fake_labels})
        augmentation, change, learn = self.augmentation, None, None
        if augmentation is not None:
            change = Change(AUGMENTATION_INPUTS, augmentation.apply)
            learn = self._adapt_augmentation if augmentation.adaptive else None
        judge = partial(Pass, network="discriminator", change=change)
        penalty = self._penalise_head if self.head_penalty else None
        passes = [
            fakes,
            judge("fake", inputs={MAIN: "fakes", LABELS: fake_labels}, loss=self._judge_fakes),
            judge(
                "real",
                inputs={MAIN: "samples", LABELS: LABELS},
                loss=self._judge_reals,
                observe=True,
                learn=learn,
                head_loss=penalty,
            ),
        ]
        if weight := self.weigh_mismatched(step):
            inputs = {MAIN: "samples", LABELS: "wrong_labels"}
            loss = partial(self._judge_mismatched, weight)
            passes.append(judge("mismatched", inputs=inputs, loss=loss, head_loss=penalty))
        fooled = judge("fooled", inputs={MAIN: "fakes", LABELS: fake_labels}, loss=self._fool)
        fooling = (self._seek_modes(fakes), fooled)
        return Phase(("discriminator",), tuple(passes)), Phase(("generator",), fooling)

    def weigh_mismatched(self, step: int) -> float:
        """Return the weight of the loss on real samples with wrong labels in a step."""
        if self.mismatched_steps is None:
            return self.mismatched_weight
        return self.mismatched_weight * max(0.0, 1 - step / self.mismatched_steps)

    def make_optimizer(self, network: str, parameters: Iterable[nn.Parameter]) -> Adam:
        """Return Adam with the network's learning rate."""
        return Adam(parameters, lr=self.learning_rates[network], betas=self.betas, fused=True)

    def average_decay(self, step: int) -> float:
        """Return the decay; early steps count more, so that the initial weights are forgotten."""
        return min(self.ema_decay, (1 + step) / (10 + step))

    def sample(self, run: Forward, labels: Tensor, stream: torch.Generator) -> Tensor:
        """Draw from noise and labels through the generator."""
        noise = torch.randn(len(labels), self.latent_dim, generator=stream)
        return run("generator", {MAIN: noise, LABELS: labels})[MAIN]

    def describe(self) -> dict[str, Any]:
        """Return the names of method and loss."""
        return {**super().describe(), "loss": type(self.loss).__name__}

    def _judge_fakes(self, outputs: Carry, private: Mapping[str, Tensor]) -> Tensor:
        return self._discriminator_loss(_logits(outputs), is_real=False)

    def _judge_reals(self, outputs: Carry, private: Mapping[str, Tensor]) -> Tensor:
        return self._discriminator_loss(_logits(outputs), is_real=True)

    def _judge_mismatched(
        self, weight: float, outputs: Carry, private: Mapping[str, Tensor]
    ) -> Tensor:
        """Count real samples with wrong labels as fakes; labels that are right after all do not."""
        logits, is_wrong = _logits(outputs), private[LABELS] != private["wrong_labels"]
        if not is_wrong.any():
            return 0.0 * logits.sum()
        share = is_wrong.float().mean()
        return weight * share * self._discriminator_loss(logits[is_wrong], is_real=False)

    def _penalise_head(self, sent: Carry, private: Mapping[str, Tensor]) -> Tensor:
        alike = squared_distance_correlation(private["samples"], sent[MAIN])
        return self.head_penalty * alike.clamp(min=0)  # below: chance alone

    def _adapt_augmentation(self, outputs: Carry, private: Mapping[str, Tensor]) -> Carry:
        """Return the strength of the next step, from how sure real samples are told."""
        assert self.augmentation is not None
        signs = torch.sign(_logits(outputs).detach() - self.loss.boundary)
        name = AUGMENTATION_INPUTS[1]
        return {name: self.augmentation.adapt(signs, private[name][0])}

    def _fool(self, outputs: Carry, private: Mapping[str, Tensor]) -> Tensor:
        value = self.loss.generator(_logits(outputs))
        return check_scalar(f"{type(self.loss).__name__}.generator", value)

    def _seek_modes(self, fakes: Pass) -> Pass:
        """Return a generator's pass with the loss on samples that are alike, where there is one."""
        if not self.mode_seeking:
            return fakes
        noise, labels = fakes.inputs[MAIN], fakes.inputs[LABELS]

        def measure(outputs: Carry, private: Mapping[str, Tensor]) -> Tensor:
            alike = mode_seeking_loss(outputs[MAIN], private[noise], private[labels])
            return self.mode_seeking * alike

        return replace(fakes, loss=measure)

    def _discriminator_loss(self, logits: Tensor, is_real: bool) -> Tensor:
        value = self.loss.discriminator(logits, is_real)
        return check_scalar(f"{type(self.loss).__name__}.discriminator", value)


def _check_weights(weights: Sequence[float] | None) -> list[float] | None:
    """Return the weights of a distribution over classes, refusing what is none."""
    if weights is None:
        return None
    for weight in weights:
        check_number("method.fake_label_weights: one", weight)
    if not sum(weights) > 0:
        raise HuscfError("method.fake_label_weights: at least one must be > 0")
    return [float(weight) for weight in weights]


def _logits(outputs: Carry) -> Tensor:
    """Return (B,) logits in full precision."""
    return outputs[MAIN].float().flatten()
