"""What a method's step takes in memory, against what it cannot do without."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace

import torch
from scale import MIB, count_state_bytes, peak_mib
from torch import Tensor
from uncut import make_method_module
from yardsticks import Workload, our_step

#: Steps before the peak is read; the first makes gradients and moments.
STEPS = 3


def measure_memory_apart(method: str, workload: Workload, threads: int) -> dict[str, float]:
    """Measure in a process of its own, as a peak is that of all that a process has done."""
    command = [sys.executable, __file__, method, json.dumps(asdict(workload)), str(threads)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output)


def measure_memory(method: str, workload: Workload) -> dict[str, float]:
    """Return the peak of resident memory over steps, and what the step needs at the least.

    That is every party's parameters, gradients, moments and averages, each once, and what autograd
    keeps of one microbatch at most. In `ratio_to_kept` the last is what autograd keeps of a whole
    step, which has passes of a chunk of microbatches in it that a later phase goes back through.
    Libraries are loaded by a small step that is not counted.
    """
    load_libraries(method, workload)
    before = peak_mib()
    module = make_method_module(method, workload)
    step = our_step(workload, module)
    for _ in range(STEPS):
        step()
    above, state = peak_mib() - before, count_state_bytes(module) / MIB
    sizes = dict.fromkeys(range(workload.num_clients), workload.batch_size)
    one = replace(workload, num_clients=len(module.engine.divide(sizes)[0]))
    of_one, of_all = watch_kept(method, one) / MIB, watch_kept(method, workload) / MIB
    return {
        "ratio_to_needed": above / (state + of_one),
        "ratio_to_kept": above / (state + of_all),
        "peak_above_start_mib": above,
        "state_mib": state,
        "microbatch_mib": of_one,
        "kept_mib": of_all,
    }


def watch_kept(method: str, workload: Workload) -> int:
    """Return the most bytes that autograd keeps at a time in a step, parameters aside."""
    module = make_method_module(method, workload)
    step = our_step(workload, module)
    step()
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    return count_kept(step, parameters)


def count_kept(step: Callable[[], object], left_out: set[int]) -> int:
    """Return the most bytes of different storages that autograd keeps at a time.

    Args:
        step: What is watched.
        left_out: Addresses of storages that are not counted.
    """
    owners: Counter[int] = Counter()
    now = most = 0

    class Kept:
        """A tensor that is kept until its graph goes."""

        def __init__(self, tensor: Tensor) -> None:
            nonlocal now, most
            self.tensor = tensor
            storage = tensor.untyped_storage()
            self.address, self.num_bytes = storage.data_ptr(), storage.nbytes()
            owners[self.address] += 1
            if owners[self.address] == 1 and self.address not in left_out:
                now += self.num_bytes
                most = max(most, now)

        def __del__(self) -> None:
            nonlocal now
            owners[self.address] -= 1
            if not owners[self.address] and self.address not in left_out:
                now -= self.num_bytes

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        step()
    return most


def load_libraries(method: str, workload: Workload) -> None:
    """Make a small step."""
    small = replace(workload, num_clients=1, batch_size=2, width=4)
    our_step(small, make_method_module(method, small))()


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    print(json.dumps(measure_memory(sys.argv[1], Workload(**json.loads(sys.argv[2])))))
