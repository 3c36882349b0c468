"""What a step and a round of a configuration send, and how long that takes on slow links.

    python benchmarks/link_sizes.py quickstart medical quickstart+methods/vae    # in Markdown

Runs one step and one average in one process, counts what crosses, and divides by the links' rates:
no network is needed. Bytes are the same over a network but for headers.
"""

import argparse
import sys

import torch

from huscf.check_data import read_datamodule
from huscf.deploy.run_config import read_run_config
from huscf.engines import Mixture, SerialEngine
from huscf.errors import HuscfError
from huscf.methods import build_networks, request_plan
from huscf.named_configs import find_config
from huscf.wire import MemoryWire, Message

RATES_MBIT = (4, 30, 100)
ROUND_TRIP_S = 0.05


class CountingWire(MemoryWire):
    """Counts messages that clients send: each is a frame, and what comes back is its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.num_frames = 0

    def send(self, message: Message) -> None:
        """Count a message."""
        self.num_frames += message.direction == "uplink"
        super().send(message)


def measure(name: str) -> list[tuple[str, float, float, int, float]]:
    """Return cuts, MB up and down a step, frames a step, and MB both ways a round, by kind."""
    paths = [find_config(part) for part in name.split("+")]
    config = read_run_config([f"--config={path}" for path in paths])
    data = read_datamodule(paths, [])
    sizes, shape = data.batch_sizes, data.sample_shape
    networks = build_networks(config.method, shape, config.seed)
    plan = config.plan.make_plan(request_plan(config.method, networks, shape, sizes, config.seed))
    found = {}
    for entry in plan.clients:
        if entry.cuts in found:
            continue
        # A client by itself: its frames, as if it were alone; and a twin to average with.
        client, count = entry.client_id, sizes[entry.client_id]
        wire = CountingWire()
        engine = SerialEngine(config.method, networks, plan, shape, data.client_sizes, wire)
        engine.make_optimizers()
        samples = torch.zeros(count, shape.channels, shape.image_size, shape.image_size).byte()
        batch = (samples, torch.zeros(count, dtype=torch.int64))
        engine.run_step({client: batch}, 1)
        step = [wire.traffic.total(client, way) / 1e6 for way in ("uplink", "downlink")]
        frames = wire.num_frames + len(list(config.method.phases(1))) + 1  # finish, ready
        every = plan.client_ids
        engine.mix(Mixture(dict.fromkeys(every, 0), dict.fromkeys(every, 1 / len(every))))
        total = wire.traffic.total(client) / 1e6 - sum(step)
        found[entry.cuts] = (str(entry.cuts.as_list()), *step, frames, total)
    return list(found.values())


def main() -> None:
    """Print one row for every kind of cuts of every configuration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+")
    print("| configuration | cuts | MB up, down a step | frames |", end="")
    print("".join(f" {rate} Mbit/s |" for rate in RATES_MBIT), "MB a round |")
    print("|---" * (5 + len(RATES_MBIT)) + "|")
    for name in parser.parse_args().configs:
        try:
            rows = measure(name)
        except HuscfError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        for cuts, up, down, frames, total in rows:
            seconds = [8 * (up + down) / rate + frames * ROUND_TRIP_S for rate in RATES_MBIT]
            print(f"| {name} | {cuts} | {up:.2f}, {down:.2f} | {frames} |", end="")
            print("".join(f" {s:.1f} s |" if s >= 10 else f" {s:.2f} s |" for s in seconds), end="")
            print(f" {total:.2f} |")


if __name__ == "__main__":
    main()
