"""A method of a user's own: one network, one phase, no adversary."""

import torch
from torch import nn
from torch.nn.functional import mse_loss

from huscf.methods import Method, Pass, Phase
from huscf.models import MAIN, Network, to_float


class Autoencoder(Method):
    """An autoencoder cut in three; samples are reconstructions of noise.

    Args:
        width: Length of the code.
        lr: Learning rate.
    """

    averaged = ("autoencoder",)

    def __init__(self, width: int = 8, lr: float = 1e-2) -> None:
        self.width, self.lr = width, lr

    def build_networks(self, shape):
        pixels = (shape.channels, shape.image_size, shape.image_size)
        size = shape.channels * shape.image_size**2
        return {
            "autoencoder": Network(
                [
                    nn.Sequential(nn.Flatten(), nn.Linear(size, 16), nn.ReLU()),
                    nn.Linear(16, self.width),
                    nn.Sequential(nn.Linear(self.width, 16), nn.BatchNorm1d(16), nn.ReLU()),
                    nn.Sequential(nn.Linear(16, size), nn.Unflatten(1, pixels), nn.Tanh()),
                ]
            )
        }

    def prepare(self, samples, labels, streams, step):
        return {"samples": to_float(samples)}

    def phases(self, step):
        rebuild = Pass("rebuilt", "autoencoder", {MAIN: "samples"}, self.compare, observe=True)
        return [Phase(("autoencoder",), (rebuild,))]

    def compare(self, outputs, private):
        return mse_loss(outputs[MAIN], private["samples"])

    def make_optimizer(self, network, parameters):
        return torch.optim.Adam(parameters, self.lr)

    def average_decay(self, step):
        return 0.5

    def sample(self, run, labels, stream):
        noise = torch.randn(len(labels), 1, 8, 8, generator=stream)
        return run("autoencoder", {MAIN: noise})[MAIN]
