"""Flow matching: one network and one phase, its middle at the server."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam

from ..errors import HuscfError
from ..models import (
    LABELS,
    MAIN,
    Carry,
    Network,
    SampleShape,
    UNet,
    check_network,
    run_blocks,
    to_float,
)
from .base import Forward, Method, Streams
from .phases import Pass, Phase
from .rate_schedule import RateSchedule

TIME = "time"


def follow_straight(noise: Tensor, clean: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Return the place on a line and the velocity there; all three broadcast."""
    return (1 - time) * noise + time * clean, clean - noise


def follow_cosine(noise: Tensor, clean: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Return the place on a quarter of a circle and the velocity there; all three broadcast."""
    angle = time * (math.pi / 2)
    sine, cosine = angle.sin(), angle.cos()
    return cosine * noise + sine * clean, (math.pi / 2) * (cosine * clean - sine * noise)


PATHS = {"straight": follow_straight, "cosine": follow_cosine}


class FlowMatching(Method):
    """Conditional flow matching or diffusion, on a U-Net that is cut for every client.

    The network learns the velocity of a path from noise, at t = 0, to a sample, at t = 1; sampling
    follows it. Skips between a client's head and its own tail
    stay there; activations of one network cross in one phase, about two thirds of what a GAN
    sends in a step. Noise, noised samples and labels never leave a client; the time does.

    Source: Lipman et al. 2023; times from a logit-normal, Esser et al. 2024; guidance, Ho and
        Salimans 2022, and between two times alone, Kynkäänniemi et al. 2024; the cosine path,
        Nichol and Dhariwal 2021, and its velocity, Salimans and Ho 2022.

    Args:
        denoiser: Class or function that returns the network's blocks: (x, labels, time) in, as
            large as x out. Label num_classes stands for no label.
        lr: Adam's learning rate, >= 0.
        betas: Adam's decay rates, from 0 to below 1.
        path: From noise x0 to a sample x1: "straight", (1 - t) x0 + t x1, of flow matching, or
            "cosine", cos(a) x0 + sin(a) x1 with a = t pi / 2, of diffusion that keeps variance.
        label_dropout: Share of samples trained without their label, from 0 to below 1; 0 makes
            guidance impossible.
        guidance: How far samples follow their label: 1 as trained; above 1 more, at twice the
            cost of drawing and less variety.
        guidance_from: Time, from 0 to 1, before which samples are drawn as trained; guidance in the
            middle alone costs fewer passes and less variety.
        guidance_until: Time from which they are again.
        num_steps: Steps of Euler's method when drawing, at least 1.
        ema_decay: Samples are drawn from a moving average over steps of every part, with this
            decay, below 1, and a warm-up; 0 draws from the trained parts.
        rate_schedule: How the learning rate changes over the run's steps; None keeps it.
    """

    public = frozenset({TIME})
    exported = "denoiser"
    drawing = ("guidance", "guidance_from", "guidance_until", "num_steps")

    def __init__(
        self,
        denoiser: Callable[[SampleShape], Network] = UNet,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        path: Literal["straight", "cosine"] = "straight",
        label_dropout: float = 0.1,
        guidance: float = 1.5,
        guidance_from: float = 0.0,
        guidance_until: float = 1.0,
        num_steps: int = 20,
        ema_decay: float = 0.995,
        rate_schedule: RateSchedule | None = None,
    ) -> None:
        if not (lr >= 0 and math.isfinite(lr)):
            raise HuscfError(f"method.lr is {lr}, must be a finite number >= 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise HuscfError(f"method.betas is {list(betas)}, must be from 0 to below 1")
        for name, share in (("label_dropout", label_dropout), ("ema_decay", ema_decay)):
            if not 0 <= share < 1:
                raise HuscfError(f"method.{name} is {share}, must be from 0 to below 1")
        if not (guidance >= 0 and math.isfinite(guidance)):
            raise HuscfError(f"method.guidance is {guidance}, must be a finite number >= 0")
        if guidance != 1 and not label_dropout:
            raise HuscfError(
                f"method.guidance {guidance} needs a network that was trained without labels too: "
                "set label_dropout above 0, or guidance to 1"
            )
        if not 0 <= guidance_from < guidance_until <= 1:
            raise HuscfError(
                f"method.guidance_from is {guidance_from} and guidance_until {guidance_until}, "
                "must be times from 0 to 1, the first one earlier"
            )
        if path not in PATHS:
            raise HuscfError(f"method.path is {path!r}, must be one of {', '.join(PATHS)}")
        if num_steps < 1:
            raise HuscfError(f"method.num_steps is {num_steps}, must be >= 1")
        self.denoiser = denoiser
        self.lr = lr
        self.betas = betas
        self.path = path
        self.label_dropout = label_dropout
        self.guidance = guidance
        self.guidance_from = guidance_from
        self.guidance_until = guidance_until
        self.num_steps = num_steps
        self.ema_decay = ema_decay
        self.rate_schedule = rate_schedule
        self.averaged = ("denoiser",) if ema_decay else ()
        self._shape: SampleShape | None = None

    def build_networks(self, shape: SampleShape) -> dict[str, Network]:
        """Return the denoiser, refusing one whose output is not as large as its input."""
        network = self.denoiser(shape)
        samples = torch.zeros(2, shape.channels, shape.image_size, shape.image_size)
        labels = torch.zeros(2, dtype=torch.int64)
        inputs = {MAIN: samples, LABELS: labels, TIME: torch.zeros(2)}
        made = tuple(check_network("denoiser", network, inputs)[MAIN].shape)
        if made != tuple(samples.shape):
            raise HuscfError(f"denoiser: gives {made} for 2 samples, needs {tuple(samples.shape)}")
        self._shape = shape
        return {"denoiser": network}

    def prepare(self, samples: Tensor, labels: Tensor, streams: Streams, step: int) -> Carry:
        """Return noised samples, their times, the velocities, and labels of which some are none."""
        assert self._shape is not None
        stream, device = streams("training noise"), samples.device
        clean = to_float(samples)
        noise = torch.randn(clean.shape, generator=stream).to(device)
        time = torch.randn(len(labels), generator=stream).sigmoid().to(device)
        is_dropped = torch.rand(len(labels), generator=stream).to(device) < self.label_dropout
        noised, velocity = PATHS[self.path](noise, clean, time.view(-1, 1, 1, 1))
        return {
            LABELS: labels,
            "condition": labels.masked_fill(is_dropped, self._shape.num_classes),
            "noised": noised,
            "velocity": velocity,
            TIME: time,
        }

    def reference_inputs(self, samples: Tensor) -> Carry:
        """Return samples without noise, at the end of time."""
        ones = torch.ones(len(samples), device=samples.device)
        return {**super().reference_inputs(samples), TIME: ones}

    def phases(self, step: int) -> tuple[Phase]:
        """Return the one phase."""
        inputs = {MAIN: "noised", LABELS: "condition", TIME: TIME}
        denoise = Pass("denoise", "denoiser", inputs, self._measure, observe=True)
        return (Phase(("denoiser",), (denoise,)),)

    def make_optimizer(self, network: str, parameters: Iterable[nn.Parameter]) -> Adam:
        """Return Adam."""
        return Adam(parameters, lr=self.lr, betas=self.betas, fused=True)

    def average_decay(self, step: int) -> float:
        """Return the decay; early steps count more, so that the initial weights are forgotten."""
        return min(self.ema_decay, (1 + step) / (10 + step))

    def sample(self, run: Forward, labels: Tensor, stream: torch.Generator) -> Tensor:
        """Follow the velocity from noise, by Euler's method."""
        assert self._shape is not None
        size = (self._shape.channels, self._shape.image_size, self._shape.image_size)

        def run_here(network: str, carry: Carry) -> Carry:
            return {MAIN: run(network, carry)[MAIN].to("cpu")}

        noise = torch.randn(len(labels), *size, generator=stream)
        return self.integrate(run_here, noise, labels)

    def integrate(self, run: Forward, noise: Tensor, labels: Tensor) -> Tensor:
        """Return the samples to which noise flows, (N, C, H, W) in [-1, 1].

        Args:
            run: The networks of one client.
            noise: (N, C, H, W) from N(0, 1).
            labels: (N,) int64.
        """
        values = noise
        for step in range(self.num_steps):
            now = step / self.num_steps
            time = torch.full_like(labels, now, dtype=noise.dtype)
            is_guided = self.guidance != 1 and self.guidance_from <= now < self.guidance_until
            follow = self._follow_label if is_guided else self._velocity
            values = values + follow(run, values, labels, time) / self.num_steps
        return values.clamp(-1, 1)

    def make_sampler(self, network: Network) -> nn.Module:
        """Return Euler's method around the denoiser, with the number of steps of this method."""
        return _FlowSampler(self, network)

    def _velocity(self, run: Forward, values: Tensor, labels: Tensor, time: Tensor) -> Tensor:
        return run("denoiser", {MAIN: values, LABELS: labels, TIME: time})[MAIN]

    def _follow_label(self, run: Forward, values: Tensor, labels: Tensor, time: Tensor) -> Tensor:
        """Return the velocity, guidance times as far from that without a label."""
        assert self._shape is not None
        none = torch.full_like(labels, self._shape.num_classes)
        own = self._velocity(run, values, labels, time)
        free = self._velocity(run, values, none, time)
        return free + self.guidance * (own - free)

    def _measure(self, outputs: Carry, private: Mapping[str, Tensor]) -> Tensor:
        """Return the mean squared error of the velocity."""
        return (outputs[MAIN].float() - private["velocity"]).square().mean()


class _FlowSampler(nn.Module):
    """Noise and labels in, samples out.

    Args:
        method: Whose number of steps and guidance are taken.
        denoiser: The network.
    """

    def __init__(self, method: FlowMatching, denoiser: Network) -> None:
        super().__init__()
        self.denoiser = denoiser
        self._integrate = method.integrate

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return samples, (N, C, H, W) in [-1, 1]."""
        blocks = dict(enumerate(self.denoiser))
        return self._integrate(lambda _, carry: run_blocks(blocks, carry), noise, labels)
