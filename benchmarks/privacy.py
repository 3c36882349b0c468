"""What differential privacy costs: seconds of a step with per-sample clipping, and without.

    python benchmarks/privacy.py [--width 16] [--batch_size 64] [--clients 4] [--repeats 10]

All figures are of one run of this script, taking turns, so that ratios hold on a busy machine.
"""

import argparse
import statistics
import time
from functools import partial

import torch

from huscf.engines import DifferentialPrivacy
from huscf.methods import FlowMatching, HuscfGan, Method, Vae
from huscf.models import (
    ConditionalDiscriminator,
    ConditionalEncoder,
    ConditionalGenerator,
    SampleShape,
    UNet,
)
from huscf.training import SplitModule

SHAPE = SampleShape(1, 28, 10)


def make_method(name: str, width: int) -> Method:
    """Return a method whose networks mix no samples."""
    if name == "HuscfGan":
        networks = {
            "generator": partial(ConditionalGenerator, width=width),
            "discriminator": partial(ConditionalDiscriminator, width=width, norm="group"),
        }
        return HuscfGan(**networks, fake_label_weights=[1.0] * SHAPE.num_classes)
    if name == "FlowMatching":
        return FlowMatching(partial(UNet, width=width))
    encoder = partial(ConditionalEncoder, width=width, norm="group")
    return Vae(encoder, partial(ConditionalGenerator, width=width, norm="group"))


def make_module(name: str, options: argparse.Namespace, is_private: bool) -> SplitModule:
    """Return a run whose parties have their optimisers."""
    clients = range(options.clients)
    module = SplitModule(
        SHAPE,
        dict.fromkeys(clients, options.batch_size),
        dict.fromkeys(clients, 10 * options.batch_size),
        make_method(name, options.width),
        engine="serial",
        privacy=DifferentialPrivacy(delta=1e-5) if is_private else None,
    )
    module.configure_optimizers()
    return module


def time_steps(name: str, options: argparse.Namespace) -> tuple[float, float]:
    """Return the median seconds of a plain step and of a private one."""
    modules = {is_private: make_module(name, options, is_private) for is_private in (False, True)}
    shape = (options.batch_size, SHAPE.channels, SHAPE.image_size, SHAPE.image_size)
    samples = torch.randint(0, 256, shape, dtype=torch.uint8)
    labels = torch.randint(0, SHAPE.num_classes, (options.batch_size,))
    batches = {client: (samples, labels) for client in range(options.clients)}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for step in range(options.repeats + 2):
        for is_private, module in modules.items():
            start = time.perf_counter()
            module.engine.run_step(batches, step)
            if step >= 2:
                seconds[is_private].append(time.perf_counter() - start)
    plain, private = (statistics.median(seconds[key]) for key in (False, True))
    return plain, private


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("width", 16), ("batch_size", 64), ("clients", 4), ("repeats", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("method         plain s  private s  ratio")
    for name in ("HuscfGan", "FlowMatching", "Vae"):
        plain, private = time_steps(name, options)
        print(f"{name:12} {plain:9.4f} {private:10.4f} {private / plain:6.2f}")


if __name__ == "__main__":
    main()
