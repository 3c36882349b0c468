"""A method's step on uncut networks, in a plain loop: what its splitting is held to."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn
from yardsticks import LATENT_DIM, Step, Workload

from huscf import methods
from huscf.methods import FlowMatching, HuscfGan, Method, Pass, Phase
from huscf.models import Carry, ConditionalDiscriminator, ConditionalGenerator, UNet, run_blocks
from huscf.randomness import make_generator
from huscf.training import SplitModule

#: A U-Net's width is a multiple of this, and a quarter of a GAN's.
UNET_UNIT = 8


def make_method(name: str, workload: Workload) -> Method:
    """Return a method of huscf.methods with networks of the workload's width."""
    width = workload.width
    if name == "FlowMatching":
        return FlowMatching(partial(UNet, width=UNET_UNIT * max(1, width // (4 * UNET_UNIT))))
    made = getattr(methods, name)
    if not issubclass(made, HuscfGan):
        raise SystemExit(f"--method {name}: is no GAN of huscf.methods, nor FlowMatching")
    return made(
        generator=partial(ConditionalGenerator, width=width),
        discriminator=partial(ConditionalDiscriminator, width=width),
        latent_dim=LATENT_DIM,
    )


def make_method_module(name: str, workload: Workload) -> SplitModule:
    """Return our module of a method with its least cuts, its optimisers outside any trainer."""
    clients = range(workload.num_clients)
    sizes = dict.fromkeys(clients, workload.batch_size), dict.fromkeys(clients, 600)
    module = SplitModule(workload.shape, *sizes, make_method(name, workload))
    module.to(workload.device)
    module.configure_optimizers()
    return module


class UncutStep:
    """One step of a method's declared phases, every client's networks whole.

    A network that the method leaves to the server is one for all clients. One fused optimiser per
    network; each pass runs once, and its gradients go back at the end of a phase.

    Args:
        name: Of the method.
        workload: Clients, batch and width.
        channels_last: Memory format of weights.
    """

    def __init__(self, name: str, workload: Workload, channels_last: bool = False) -> None:
        self.method, self.batch = make_method(name, workload), workload.make_batch()
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.networks: list[dict[str, nn.ModuleList]] = []
        shared: dict[str, nn.ModuleList] = {}
        for _ in self.batch:
            built = self.method.build_networks(workload.shape)
            own = {n: net.to(workload.device, memory_format=layout) for n, net in built.items()}
            for network in own:
                if self.method.placement(network).max_client == 0:
                    own[network] = shared.setdefault(network, own[network])
            self.networks.append(own)
        self.optimizers = {n: self.method.make_optimizer(n, self._parameters(n)) for n in own}
        self.numbers = count()

    def __call__(self) -> None:
        """Make one step."""
        step = next(self.numbers)
        phases = self.method.phases(step)
        privates = [self._prepare(place, step) for place in range(len(self.networks))]
        made: list[dict[str, Carry]] = [defaultdict(dict) for _ in privates]
        for phase in phases:
            for place, private in enumerate(privates):
                self._run_phase(phase, phases, self.networks[place], private, made[place])
            for network in phase.trains:
                self.optimizers[network].step()
                self.optimizers[network].zero_grad()

    def _prepare(self, place: int, step: int) -> Carry:
        samples, labels = self.batch[place]
        own = partial(make_generator, 0)
        private = self.method.prepare(samples, labels, lambda n: own(n, place, step), step)
        clients = len(self.networks)
        drawn = self.method.draw(place, clients, len(labels), lambda n: own(n, step), step)
        return private | {name: tensor.to(samples.device) for name, tensor in drawn.items()}

    def _run_phase(
        self,
        phase: Phase,
        phases: tuple[Phase, ...],
        networks: Mapping[str, nn.ModuleList],
        private: Carry,
        made: dict[str, Carry],
    ) -> None:
        losses = []
        for item in phase.passes:
            if item.name not in made:
                given = {n: self._hide(phase, n, each) for n, each in made.items()}
                inputs = item.change_inputs(item.read_inputs(private, given), private)
                with _frozen(networks[item.network], item, phases):
                    made[item.name] = run_blocks(dict(enumerate(networks[item.network])), inputs)
            if item.learn is not None:
                item.learn(made[item.name], private)
            if item.loss is not None:
                losses.append(item.loss(made[item.name], private))
        torch.stack(losses).sum().backward()
        for item in phase.passes:
            if item.loss is not None:
                del made[item.name]

    def _hide(self, phase: Phase, name: str, carry: Carry) -> Carry:
        """Return a pass's outputs, detached where the phase does not go back through it."""
        own = [item for item in phase.passes if item.name == name]
        if own and phase.backward_of(own[0]) != "none":
            return carry
        return {n: tensor.detach() for n, tensor in carry.items()}

    def _parameters(self, network: str) -> list[Tensor]:
        every = (p for own in self.networks for p in own[network].parameters())
        return list({id(parameter): parameter for parameter in every}.values())


@contextmanager
def _frozen(network: nn.Module, item: Pass, phases: tuple[Phase, ...]) -> Iterator[None]:
    """Ask for no gradients of a network that no phase trains through a pass."""
    through = [p for p in phases if any(each.name == item.name for each in p.passes)]
    is_trained = any(item.network in phase.trains for phase in through)
    network.requires_grad_(is_trained)
    try:
        yield
    finally:
        network.requires_grad_(True)


def uncut_step(name: str, workload: Workload, channels_last: bool = False) -> Step:
    """Return a step of a method on uncut networks."""
    return UncutStep(name, workload, channels_last)
