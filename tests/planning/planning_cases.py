"""Networks, fleets and plans that the planning tests share."""

from pathlib import Path

import numpy as np

from huscf.models import ConditionalDiscriminator, ConditionalGenerator, SampleShape
from huscf.planning import (
    ClientDevice,
    DeviceProfile,
    Fleet,
    PlanProblem,
    PlanSubject,
    ServerProfile,
)
from huscf.split import CutPlan, PlanRequest

DEVICES = Path(__file__).parents[2] / "configs" / "paper" / "devices.yaml"
PAPER_MIX = (15, 15, 14, 14, 14, 14, 14)


def make_subject(width: int = 64, depth: int = 5, batch_size: int = 64) -> PlanSubject:
    shape = SampleShape(1, 28, 10)
    networks = (
        ConditionalGenerator(shape, 100, width, depth),
        ConditionalDiscriminator(shape, width, depth),
    )
    return PlanSubject.measure(PlanRequest(*networks, shape, 100, {0: batch_size}))


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
    shape = SampleShape(1, 8, 10)
    networks = ConditionalGenerator(shape, 100, 16), ConditionalDiscriminator(shape, 16)
    clients = [
        ClientDevice(client, DeviceProfile(f"d{kind}", speed, up, down, round_trip), 64)
        for client, (kind, speed, up, down, round_trip) in enumerate(
            [(0, 1e10, 3e8, 5e7, 0.04)] * 4
            + [(1, 2e9, 5e6, 3e8, 0.01)] * 2
            + [(2, 2e9, 2e7, 1e8, 0.01)] * 2
        )
    ]
    subject = PlanSubject.measure(PlanRequest(*networks, shape, 100, {0: 64}))
    return subject, Fleet(tuple(clients), ServerProfile(6.72e11, 1e9, 1e9))


def find_boundary(plan: CutPlan) -> int | None:
    """Return the first discriminator boundary at the server for all clients, or None."""
    cuts = [entry.cuts for entry in plan.clients]
    first = max(c.discriminator_head for c in cuts)
    last = plan.discriminator_blocks - max(c.discriminator_tail for c in cuts)
    return first if first <= last else None


def draw_choices(problem: PlanProblem, number: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sizes = [len(choices.options) for choices in problem.networks]
    return np.stack([rng.integers(n, size=(number, len(problem.units))) for n in sizes], axis=2)
