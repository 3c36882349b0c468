"""Measures the machine that it runs on and writes a device profile."""

import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ...models import LABELS, MAIN, ConditionalDiscriminator, Network, SampleShape
from ...whole_files import write_text
from ..costs.block_costs import measure_block_costs
from .profiles import MEBIBYTE

_BATCH_SIZE = 16
_REPEATS = 5


def calibrate_profile(uplink_mbit_per_s: float, downlink_mbit_per_s: float) -> dict[str, Any]:
    """Return this machine's profile: measured speed, total memory, and the given links.

    The speed is what training the paper's discriminator reaches, median of five steps with
    torch's present number of threads.

    Args:
        uplink_mbit_per_s: Rate to the server.
        downlink_mbit_per_s: Rate from the server.
    """
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "speed_gflops": round(_measure_speed() / 1e9, 3),
        "uplink_mbit_per_s": uplink_mbit_per_s,
        "downlink_mbit_per_s": downlink_mbit_per_s,
        "memory_mib": pages * page_bytes // MEBIBYTE,
    }


def save_profile(profile: dict[str, Any], path: str | Path) -> None:
    """Write the profile as YAML that can be pasted below `profiles`."""
    text = yaml.safe_dump({"profiles": {"this_machine": profile}}, sort_keys=False)
    write_text(Path(path), text)


def _measure_speed() -> float:
    shape = SampleShape(1, 28, 10)
    network = ConditionalDiscriminator(shape)
    samples, labels = _make_inputs(2)
    costs = measure_block_costs(network, {MAIN: samples, LABELS: labels}, _BATCH_SIZE)
    work = _BATCH_SIZE * sum(block.forward_flops + block.backward_flops for block in costs)
    _time_step(network)  # the first step pays for set-up
    return work / statistics.median(_time_step(network) for _ in range(_REPEATS))


def _time_step(network: Network) -> float:
    samples, labels = _make_inputs(_BATCH_SIZE)
    samples.requires_grad_()
    start = time.perf_counter()
    network(samples, labels).sum().backward()
    return time.perf_counter() - start


def _make_inputs(batch: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(batch, 1, 28, 28), torch.zeros(batch, dtype=torch.int64)
