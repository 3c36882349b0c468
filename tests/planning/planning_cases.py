"""Networks, fleets and plans that the planning tests share."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from huscf.methods import HuscfGan, request_plan, trace_phases
from huscf.models import ConditionalDiscriminator, ConditionalGenerator, SampleShape
from huscf.planning import (
    ClientDevice,
    CorrectedLatency,
    DeviceProfile,
    Fleet,
    PlanProblem,
    PlanSubject,
    ServerProfile,
    StepPass,
    count_passes,
    make_problem,
)
from huscf.planning.command import main
from huscf.split import ClientCuts, ClientPlan, CutPlan, PlanRequest

DEVICES = Path(__file__).parents[2] / "configs" / "paper" / "devices.yaml"
PAPER_MIX = (15, 15, 14, 14, 14, 14, 14)


NETWORKS = ("generator", "discriminator")

#: One slow client and one fast, whose link has a delay.
TWO_CLIENTS = Fleet(
    (
        ClientDevice(0, DeviceProfile("a", 1e9, 8e6, 4e6), 1),
        ClientDevice(1, DeviceProfile("b", 2e9, 16e6, 8e6, round_trip_s=0.2), 1),
    ),
    ServerProfile(10e9, 32e6, 32e6),
)


def make_request(
    batch_sizes: Mapping[int, int],
    width: int = 64,
    depth: int = 5,
    latent_dim: int = 100,
    seed: int = 0,
    image_size: int = 28,
) -> PlanRequest:
    """A request for a plan of the built-in pair."""
    shape = SampleShape(1, image_size, 10)
    method = HuscfGan(
        partial(ConditionalGenerator, width=width, depth=depth),
        partial(ConditionalDiscriminator, width=width, depth=depth),
        latent_dim,
    )
    return request_plan(method, method.build_networks(shape), shape, batch_sizes, seed)


def make_subject(width: int = 64, depth: int = 5, batch_size: int = 64) -> PlanSubject:
    return PlanSubject.measure(make_request({0: batch_size}, width, depth))


def gan_passes(**options: object) -> tuple[StepPass, ...]:
    """What a step of a GAN with these options runs."""
    return count_passes(trace_phases(HuscfGan(**options).phases(10**9)))


def make_cuts(*counts: int) -> ClientCuts:
    """Cuts of generator and discriminator, head and tail each."""
    return ClientCuts.from_list(counts or (1, 1, 1, 1), NETWORKS)


def make_plan(*entries: ClientPlan) -> CutPlan:
    """A plan of a pair of five blocks each."""
    return CutPlan(tuple((name, 5) for name in NETWORKS), entries)


def draw_fleet(number: int, seed: int, has_power: bool = False) -> Fleet:
    """Clients that all differ, in batch size as well."""
    rng = np.random.default_rng(seed)
    clients = []
    for client in range(number):
        speed, up, down = np.exp(rng.uniform(np.log([1e9, 5e7, 5e7]), np.log([1e11, 1e9, 1e9])))
        power = float(rng.uniform(1, 20)) if has_power else None
        profile = DeviceProfile(
            f"p{client}", speed, up, down, float(rng.uniform(0, 0.1)), None, power
        )
        clients.append(ClientDevice(client, profile, int(rng.integers(8, 80))))
    return Fleet(tuple(clients), ServerProfile(6e11, 9e8, 7e8))


def make_apart() -> tuple[PlanSubject, Fleet]:
    """Small networks and three kinds of devices whose best cuts have no boundary in common."""
    clients = [
        ClientDevice(client, DeviceProfile(f"d{kind}", speed, up, down, round_trip), 64)
        for client, (kind, speed, up, down, round_trip) in enumerate(
            [(0, 1e10, 3e8, 5e7, 0.04)] * 4
            + [(1, 2e9, 5e6, 3e8, 0.01)] * 2
            + [(2, 2e9, 2e7, 1e8, 0.01)] * 2
        )
    ]
    subject = PlanSubject.measure(make_request({0: 64}, 16, image_size=8))
    return subject, Fleet(tuple(clients), ServerProfile(6.72e11, 1e9, 1e9))


def find_boundary(plan: CutPlan) -> int | None:
    """Return the first discriminator boundary at the server for all clients, or None."""
    cuts = [entry.cuts for entry in plan.clients]
    first = max(c.head("discriminator") for c in cuts)
    last = plan.num_blocks("discriminator") - max(c.tail("discriminator") for c in cuts)
    return first if first <= last else None


def draw_choices(problem: PlanProblem, number: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sizes = [len(choices.options) for choices in problem.networks]
    return np.stack([rng.integers(n, size=(number, len(problem.units))) for n in sizes], axis=2)


def build(subject, fleet, constraints=None, objective=None):
    model = CorrectedLatency(subject.costs)
    return make_problem(fleet, subject.costs, model, constraints, objective)


def list_all(problem):
    pairs = itertools.product(*(range(len(choices.options)) for choices in problem.networks))
    return np.array(list(itertools.product(list(pairs), repeat=len(problem.units))))


def limit_memory(fleet, num_bytes):
    clients = [
        replace(c, profile=replace(c.profile, memory_bytes=num_bytes)) for c in fleet.clients
    ]
    return Fleet(tuple(clients), fleet.server)


def read_devices():
    """The paper's devices, with narrow networks that are measured fast."""
    values = yaml.safe_load(DEVICES.read_text())
    values["networks"]["width"] = 8
    return values


def run_command(tmp_path, values, *flags):
    path = tmp_path / "devices.yaml"
    path.write_text(yaml.safe_dump(values))
    return main(["--config", str(path), *flags])
