"""What a method says about its training; it knows no process, thread, wire or device."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import HuscfError
from ..models import LABELS, MAIN, Carry, Network, SampleShape, evaluating, run_blocks, to_float
from ..split import CutPlan, Placement, check_cuts
from ..wire import Kind
from .averages import Average
from .phases import Phase
from .rate_schedule import RateSchedule

#: Gives the random stream for a purpose; it depends on the run's seed, the client and the step.
Streams = Callable[[str], torch.Generator]

#: What a round's end does with a network: average its blocks within clusters, pass them on from
#: client to client in a ring, leave everybody their own, or leave it and show it to the server,
#: which sends the clients samples of each other's.
Mixing = Literal["average", "swap", "keep", "share"]

#: Runs a whole network as one client has it: network, what enters -> what all blocks wrote.
Forward = Callable[[str, Carry], Carry]


class Method(ABC):
    """One way to train a generative model over parties; subclass it for another.

    Attributes:
        kinds: Kinds of messages that may cross between parties.
        public: Names of what enters networks and is no secret, such as a time: it may cross, while
            other inputs do only where kinds has "inputs".
        sent: Names of what the server draws (`draw`) and sends to the client that it is for.
        told: Names of what clients learn in steps (`Pass.learn`) and tell the server when a round
            ends, as figures.
        num_shared: Where a network is shared: samples that a client is sent at a round's end.
        num_compared: Where a network is shared: samples by which the server compares clients.
        record_free: Names of private tensors that no record of the client decides: what is drawn.
            Passes that read nothing else are no matter of differential privacy.
        moments: What must happen to optimiser state at a round's end; None lets the federation
            choose.
        averaged: Networks of which parties keep a moving average over steps, to sample from.
        exported: The network that `huscf export` writes, inside of `make_sampler`, or None.
        rate_schedule: How the learning rates of all optimisers change over steps; None keeps them.
        drawing: Arguments of the class, kept under their names, that change how samples are drawn
            and nothing that is trained: `huscf generate` and `export` take other values.
    """

    kinds: frozenset[Kind] = frozenset(
        {"activations", "gradients", "blocks", "moved_blocks", "statistics"}
    )
    public: frozenset[str] = frozenset()
    sent: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    num_shared: int = 0
    num_compared: int = 0
    record_free: frozenset[str] = frozenset()
    moments: Literal["keep", "average", "reset"] | None = None
    averaged: tuple[str, ...] = ()
    exported: str | None = None
    rate_schedule: RateSchedule | None = None
    drawing: tuple[str, ...] = ()

    @abstractmethod
    def build_networks(self, shape: SampleShape) -> dict[str, Network]:
        """Return the full networks by name, checked; draws weights from torch's global stream."""

    @abstractmethod
    def prepare(self, samples: Tensor, labels: Tensor, streams: Streams, step: int) -> Carry:
        """Return the tensors that a client keeps private in a step, by the names that passes use.

        Args:
            samples: (B, C, H, W) uint8 in [0, 255].
            labels: (B,) int64.
            streams: Of this client and step.
            step: Number of the step, from 0.
        """

    def draw(
        self, place: int, num_clients: int, batch_size: int, streams: Streams, step: int
    ) -> Carry:
        """Return what the server draws for a client in a step, by the names that passes use.

        Args:
            place: Of the client among all, from 0.
            num_clients: How many there are.
            batch_size: Samples of the client's batch.
            streams: Of the server and step, the same for all clients.
            step: Number of the step, from 0.
        """
        return {}

    def count_drawn(self, num_clients: int) -> int:
        """Return how many different batches the server draws in a step for so many clients.

        A server that generates a batch once for all who get it has so much less work; engines
        generate it for each client.
        """
        return num_clients

    @abstractmethod
    def phases(self, step: int) -> Sequence[Phase]:
        """Return what a step trains, one phase after the other."""

    @abstractmethod
    def make_optimizer(self, network: str, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return the optimiser with which a party trains its blocks of a network."""

    @abstractmethod
    def sample(self, run: Forward, labels: Tensor, stream: torch.Generator) -> Tensor:
        """Draw one sample for each label.

        Args:
            run: The networks of one client.
            labels: (N,) int64.
            stream: CPU random stream.

        Returns:
            (N, C, H, W) in [-1, 1].
        """

    def make_sampler(self, network: Network) -> nn.Module:
        """Return what `huscf export` writes: a module that draws as `sample` does.

        It takes noise, as the exported network takes it, and labels, (N,) int64, and returns
        samples, (N, C, H, W) in [-1, 1].

        Args:
            network: The network that `exported` names, uncut.
        """
        return network

    def check_data(self, is_sound: bool, domains: Collection[str]) -> list[str]:
        """Return what a user may want to know before training on these data, a line each.

        Args:
            is_sound: Whether samples are spectrograms.
            domains: Names of the domains.

        Raises:
            HuscfError: Naming an option that is not for these data.
        """
        return []

    def placement(self, network: str) -> Placement:
        """Return where blocks of a network may lie; here one or more at each end and between."""
        return Placement()

    def mixing(self, network: str, number: int) -> Mixing:
        """Return what the end of a round (from 0) does with a network; here its average."""
        return "average"

    def average(
        self, network: str, number: int, plain: Average, told: Mapping[str, Mapping[int, float]]
    ) -> Average:
        """Return how a network that is averaged is averaged; here as the federation has decided.

        Args:
            network: Which.
            number: Of the round, from 0.
            plain: What the federation has decided.
            told: What clients have told, by name and client; clients that were away are missing.
        """
        return plain

    def weigh_givers(self, samples: Sequence[Tensor]) -> Tensor:
        """Return how much of what each client is sent comes from whom, where a network is shared.

        Args:
            samples: Of every client's network, (n, C, H, W) in [-1, 1] each.

        Returns:
            (N, N), rows sum to 1, the diagonal is 0.
        """
        raise NotImplementedError

    def check_plan(self, plan: CutPlan) -> None:
        """Raise a PlanError that names client and cut where the method does not allow a plan."""
        for client in plan.clients:
            for network, num_blocks in plan.blocks:
                check_cuts(client, network, num_blocks, self.placement(network))

    def reference_inputs(self, samples: Tensor) -> Carry:
        """Return what enters the observed network where clients are compared.

        Nothing that differs between clients but their samples: by default no label but 0.

        Args:
            samples: (B, C, H, W) uint8 in [0, 255].
        """
        labels = torch.zeros(len(samples), dtype=torch.int64, device=samples.device)
        return {MAIN: to_float(samples), LABELS: labels}

    def rate_factor(self, step: int) -> float:
        """Return what all learning rates are multiplied by in a step, from 0 to 1."""
        return 1.0 if self.rate_schedule is None else self.rate_schedule.factor(step)

    def average_decay(self, step: int) -> float:
        """Return how much of a moving average stays in a step, from 0 to 1."""
        return 0.0

    @property
    def observed(self) -> str | None:
        """Return the network whose activations the server compares clients by, if any."""
        for phase in self.phases(0):
            for item in phase.passes:
                if item.observe:
                    return item.network
        return None

    def describe(self) -> dict[str, Any]:
        """Return what a page or a card says of the method, as plain values."""
        return {"method": type(self).__name__}


def trace_inputs(
    method: Method, networks: Mapping[str, Network], shape: SampleShape
) -> dict[str, Carry]:
    """Return what enters every network in a step of two samples; changes nothing.

    Args:
        method: The method.
        networks: Its networks.
        shape: Shape of the samples.
    """
    samples = torch.zeros(2, shape.channels, shape.image_size, shape.image_size, dtype=torch.uint8)
    labels = torch.zeros(2, dtype=torch.int64)

    def streams(purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(0)

    private = method.prepare(samples, labels, streams, 0) | method.draw(0, 1, 2, streams, 0)
    found: dict[str, Carry] = {}
    outputs: dict[str, Carry] = {}
    for phase in method.phases(0):
        for item in phase.passes:
            if item.name not in outputs:
                inputs = item.read_inputs(private, outputs)
                outputs[item.name] = run_whole(networks[item.network], inputs)
                found.setdefault(item.network, inputs)
    return found


def find_drawn(method: Method, networks: Mapping[str, Network]) -> list[str]:
    """Return the networks through which a method draws samples; changes nothing."""
    return list(_try_sample(method, networks, 1)[1])


def check_sample(method: Method, networks: Mapping[str, Network], shape: SampleShape) -> None:
    """Raise a HuscfError where a method draws samples of another shape; changes nothing.

    Args:
        method: The method.
        networks: Its networks.
        shape: Shape of the samples.
    """
    with torch.random.fork_rng(devices=[]):
        drawn = _try_sample(method, networks, 2)[0]
    wanted = (2, shape.channels, shape.image_size, shape.image_size)
    found = tuple(drawn.shape) if isinstance(drawn, Tensor) else type(drawn).__name__
    if found != wanted:
        raise HuscfError(
            f"{type(method).__name__}.sample returns {found} for two labels, must be {wanted}: a "
            "sample for each label, of the data's channels and image_size"
        )


def _try_sample(
    method: Method, networks: Mapping[str, Network], count: int
) -> tuple[Tensor, dict[str, Carry]]:
    """Return what a method draws of the first class, and what its networks gave, each run once."""
    made: dict[str, Carry] = {}

    def run(network: str, inputs: Carry) -> Carry:
        if network not in made:
            made[network] = run_whole(networks[network], inputs)
        return made[network]

    labels = torch.zeros(count, dtype=torch.int64)
    return method.sample(run, labels, torch.Generator()), made


def run_whole(network: Network, inputs: Carry) -> Carry:
    """Run an uncut network in evaluation mode, without gradients; its modes stay as they were."""
    with evaluating(network):
        return run_blocks(dict(enumerate(network)), inputs)
