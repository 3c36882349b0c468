"""A method of one network and one phase, written against the interface alone."""

import torch
from torch import nn
from torch.nn.functional import mse_loss

from huscf.methods import Method, Pass, Phase
from huscf.models import MAIN, Network, to_float


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.Tanh())


class Autoencoder(Method):
    """Restores noisy samples; draws by restoring noise.

    Args:
        width: Channels between the blocks.
        noise: Standard deviation of the noise.
    """

    def __init__(self, width: int = 4, noise: float = 0.5) -> None:
        self.width = width
        self.noise = noise

    def build_networks(self, shape):
        self.size = (shape.channels, shape.image_size, shape.image_size)
        ends, width = shape.channels, self.width
        blocks = [_block(ends, width), _block(width, width), _block(width, ends)]
        return {"autoencoder": Network(blocks)}

    def prepare(self, samples, labels, streams, step):
        clean = to_float(samples)
        noise = torch.randn(clean.shape, generator=streams("noise"))
        return {"clean": clean, "noisy": clean + self.noise * noise, "labels": labels}

    def phases(self, step):
        inputs = {MAIN: "noisy"}
        only = Pass("restored", "autoencoder", inputs, loss=self._restore, observe=True)
        return (Phase(("autoencoder",), (only,)),)

    def make_optimizer(self, network, parameters):
        return torch.optim.Adam(parameters, lr=1e-3)

    def sample(self, run, labels, stream):
        noise = torch.randn(len(labels), *self.size, generator=stream)
        return run("autoencoder", {MAIN: noise})[MAIN]

    @staticmethod
    def _restore(outputs, private):
        return mse_loss(outputs[MAIN], private["clean"])
