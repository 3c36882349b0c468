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

DEVICES = Path(__file__).parents[2] / "configs" / "paper" / "devices.yaml"
PAPER_MIX = (15, 15, 14, 14, 14, 14, 14)


def make_subject(width: int = 64, depth: int = 5, batch_size: int = 64) -> PlanSubject:
    shape = SampleShape(1, 28, 10)
    networks = (
        ConditionalGenerator(shape, 100, width, depth),
        ConditionalDiscriminator(shape, width, depth),
    )
    return PlanSubject.measure(networks, shape, 100, batch_size)


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


def draw_choices(problem: PlanProblem, number: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sizes = [len(choices.options) for choices in problem.networks]
    return np.stack([rng.integers(n, size=(number, len(problem.units))) for n in sizes], axis=2)
