"""A conditional variational autoencoder: encoder and decoder cut in three, one phase."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Adam

from ..errors import HuscfError
from ..models import (
    LABELS,
    MAIN,
    Carry,
    ConditionalEncoder,
    ConditionalGenerator,
    Network,
    SampleShape,
    check_network,
    to_float,
)
from ..models.conditional_encoder import EPSILON, LOG_VARIANCE, MEAN
from .base import Forward, Method, Streams
from .phases import Pass, Phase
from .rate_schedule import RateSchedule


class Vae(Method):
    """A conditional variational autoencoder, the small and fast member of the family.

    The latent vector is drawn in the encoder's last block and enters the decoder's first: both
    are the client's, so that it never leaves.

    Source: Kingma and Welling 2014; Sohn, Lee and Yan 2015 for labels.

    Args:
        encoder: Class or function that returns the encoder's blocks; the last one reads
            ("x", "epsilon") and writes ("x", "mean", "log_variance").
        decoder: Class or function that returns the decoder's blocks, as a GAN's generator.
        latent_dim: Length of the latent vector, at least 1.
        lr: Adam's learning rate, >= 0.
        noise_std: Standard deviation of a pixel around the decoder's output, > 0: smaller ones
            make reconstructions sharper and the latent vectors less like N(0, 1).
        kl_weight: Weight of the divergence of the posterior from N(0, 1), >= 0; 1 is the bound.
        rate_schedule: How the learning rate changes over the run's steps; None keeps it.
    """

    exported = "decoder"

    def __init__(
        self,
        encoder: Callable[[SampleShape, int], Network] = ConditionalEncoder,
        decoder: Callable[[SampleShape, int], Network] = ConditionalGenerator,
        latent_dim: int = 16,
        lr: float = 1e-3,
        noise_std: float = 0.3,
        kl_weight: float = 1.0,
        rate_schedule: RateSchedule | None = None,
    ) -> None:
        for name, value in (("lr", lr), ("kl_weight", kl_weight), ("noise_std", noise_std)):
            if not (value >= 0 and math.isfinite(value)):
                raise HuscfError(f"method.{name} is {value}, must be a finite number >= 0")
        if latent_dim < 1 or noise_std == 0:
            raise HuscfError(
                f"method: latent_dim is {latent_dim}, must be >= 1; noise_std is {noise_std}, must "
                "be > 0"
            )
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim
        self.lr = lr
        self.noise_std = noise_std
        self.kl_weight = kl_weight
        self.rate_schedule = rate_schedule

    def build_networks(self, shape: SampleShape) -> dict[str, Network]:
        """Return encoder and decoder, refusing what is no such pair."""
        networks = {
            "encoder": self.encoder(shape, self.latent_dim),
            "decoder": self.decoder(shape, self.latent_dim),
        }
        samples = torch.zeros(2, shape.channels, shape.image_size, shape.image_size)
        labels, latent = torch.zeros(2, dtype=torch.int64), torch.zeros(2, self.latent_dim)
        inputs = {MAIN: samples, LABELS: labels, EPSILON: latent}
        encoded = check_network("encoder", networks["encoder"], inputs)
        for name in (MAIN, MEAN, LOG_VARIANCE):
            if name not in encoded or encoded[name].shape != latent.shape:
                raise HuscfError(f"encoder: needs to write {name} of shape {tuple(latent.shape)}")
        made = check_network("decoder", networks["decoder"], {MAIN: latent, LABELS: labels})[MAIN]
        if made.shape != samples.shape:
            raise HuscfError(
                f"decoder: gives {tuple(made.shape)} for 2 samples, needs {tuple(samples.shape)}"
            )
        return networks

    def prepare(self, samples: Tensor, labels: Tensor, streams: Streams, step: int) -> Carry:
        """Return samples, labels and the noise of the latent draw."""
        epsilon = torch.randn(len(labels), self.latent_dim, generator=streams("training noise"))
        return {
            "samples": to_float(samples),
            LABELS: labels,
            EPSILON: epsilon.to(samples.device),
        }

    def phases(self, step: int) -> tuple[Phase]:
        """Return the one phase: encode, decode, and back through both."""
        encode = Pass(
            "encode",
            "encoder",
            {MAIN: "samples", LABELS: LABELS, EPSILON: EPSILON},
            self._measure_divergence,
            observe=True,
        )
        decode = Pass("decode", "decoder", {MAIN: "encode", LABELS: LABELS}, self._measure_error)
        return (Phase(("encoder", "decoder"), (encode, decode)),)

    def make_optimizer(self, network: str, parameters: Iterable[nn.Parameter]) -> Adam:
        """Return Adam."""
        return Adam(parameters, lr=self.lr, fused=True)

    def sample(self, run: Forward, labels: Tensor, stream: torch.Generator) -> Tensor:
        """Decode draws from N(0, 1)."""
        latent = torch.randn(len(labels), self.latent_dim, generator=stream)
        return run("decoder", {MAIN: latent, LABELS: labels})[MAIN]

    def _measure_divergence(self, outputs: Carry, private: Mapping[str, Tensor]) -> Tensor:
        """Return KL(posterior || N(0, 1)) in nats per pixel, weighted."""
        mean, log_variance = outputs[MEAN].float(), outputs[LOG_VARIANCE].float()
        terms = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        return self.kl_weight * terms.sum(1).mean() / private["samples"][0].numel()

    def _measure_error(self, outputs: Carry, private: Mapping[str, Tensor]) -> Tensor:
        """Return minus the log-likelihood in nats per pixel, without its constant."""
        error = (outputs[MAIN].float() - private["samples"]).square().mean()
        return error / (2 * self.noise_std**2)
