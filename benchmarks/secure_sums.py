"""Seconds and bytes of a round's averages: under masks that cancel out, and in the clear.

    python benchmarks/secure_sums.py --clients 20 --width 16

All clients and the server run one after the other in one process; between machines each client
does its own share, the column *a client*, at the same time.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial

import torch

from huscf.engines import Mixture
from huscf.errors import HuscfError
from huscf.methods import HuscfGan
from huscf.models import ConditionalDiscriminator, ConditionalGenerator, SampleShape
from huscf.secure import SecureMember, encode
from huscf.split import UniformPlan
from huscf.training import SplitModule


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; return 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(description="Secure averages beside plain ones.")
    parser.add_argument("--clients", type=int, nargs="+", default=[20])
    parser.add_argument("--width", type=int, default=16, help="of both networks; the paper's is 64")
    parser.add_argument("--cuts", type=int, nargs=4, default=[2, 2, 2, 2])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(argv)
    print(
        "| clients | numbers of a client | plain s | secure s | ratio | a client s | plain up MB "
        "| secure up MB |\n|---|---|---|---|---|---|---|---|"
    )
    try:
        for number in options.clients:
            print(_measure(number, options))
    except HuscfError as error:
        print(f"secure_sums: {error}", file=sys.stderr)
        return 2
    return 0


def _measure(number: int, options: argparse.Namespace) -> str:
    """Return a row of the table."""
    seconds, megabytes = {}, {}
    for is_secure in (False, True):
        module = _make_module(number, options)
        mixture = Mixture(
            dict.fromkeys(range(number), 0),
            dict.fromkeys(range(number), 1 / number),
            is_secure=is_secure,
        )
        times = []
        for _ in range(options.repeats + 1):
            before = module.wire.traffic.total(direction="uplink")
            started = time.perf_counter()
            module.engine.mix(mixture)
            times.append(time.perf_counter() - started)
            megabytes[is_secure] = (module.wire.traffic.total(direction="uplink") - before) / 1e6
        seconds[is_secure] = statistics.median(times[1:])
    count = _count_numbers(module)
    own = _time_member(number, count)
    return (
        f"| {number} | {count:,} | {seconds[False]:.3f} | {seconds[True]:.3f} | "
        f"{seconds[True] / seconds[False]:.1f} | {own:.3f} | {megabytes[False]:.1f} | "
        f"{megabytes[True]:.1f} |"
    )


def _make_module(number: int, options: argparse.Namespace) -> SplitModule:
    method = HuscfGan(
        partial(ConditionalGenerator, width=options.width, depth=5),
        partial(ConditionalDiscriminator, width=options.width, depth=5),
    )
    sizes = dict.fromkeys(range(number), 64)
    shape = SampleShape(1, 28, 10)
    module = SplitModule(shape, sizes, sizes, method, UniformPlan(options.cuts))
    module.configure_optimizers()
    return module


def _count_numbers(module: SplitModule) -> int:
    """Return how many numbers a client adds to the sums, moving averages included."""
    return sum(t.numel() for t in module.client(0).state_dict().values() if t.is_floating_point())


def _time_member(number: int, count: int) -> float:
    """Return the seconds of one member's part: keys, shares, masks of so many numbers."""
    members = {m: SecureMember(m) for m in range(number)}
    public = {m: member.public for m, member in members.items()}
    sealed = {m: member.share_out(public) for m, member in members.items() if m}
    values = torch.rand(count).numpy()
    started = time.perf_counter()
    members[0].share_out(public)
    members[0].take_shares({m: texts[0] for m, texts in sealed.items()})
    members[0].mask("all", encode(values, 1 / number), range(number))
    members[0].reveal(range(number))
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
