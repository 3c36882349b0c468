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
from huscf.methods import Method, build_networks, request_plan
from huscf.named_configs import find_config
from huscf.parties import Client
from huscf.wire import MemoryWire

RATES_MBIT = (4, 30, 100)
ROUND_TRIP_S = 0.05


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
        wire = MemoryWire()
        engine = SerialEngine(config.method, networks, plan, shape, data.client_sizes, wire)
        engine.make_optimizers()
        samples = torch.zeros(count, shape.channels, shape.image_size, shape.image_size).byte()
        batch = (samples, torch.zeros(count, dtype=torch.int64))
        engine.run_step({client: batch}, 1)
        step = [wire.traffic.total(client, way) / 1e6 for way in ("uplink", "downlink")]
        frames = count_frames(config.method, engine.client(client))
        every = plan.client_ids
        engine.mix(Mixture(dict.fromkeys(every, 0), dict.fromkeys(every, 1 / len(every))))
        total = wire.traffic.total(client) / 1e6 - sum(step)
        found[entry.cuts] = (str(entry.cuts.as_list()), *step, frames, total)
    return list(found.values())


def count_frames(method: Method, client: Client) -> int:
    """Return the frames that a site sends in a step, whose clients are like this one."""
    phases, known = list(method.phases(1)), set[str]()
    count = 1 + len(phases)  # it is ready, and finishes each phase
    for phase in phases:
        for direction, items in phase.exchanges():
            new = [item for item in items if direction == "backward" or item.name not in known]
            known |= {item.name for item in items}
            crossings = [client.crossings[item.network] for item in new]
            count += any(c.up if direction == "forward" else c.down for c in crossings)
    return count


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
