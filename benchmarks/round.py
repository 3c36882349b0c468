"""Prints what one federation costs: python benchmarks/round.py [--json].

round_share is its part of the time of 50 steps, speedup_averaging how much faster its averaging
is than a loop over state dicts that computes the same averages, speedup_textbook the same against
federated averaging as tutorials write it, on deep copies of the state dicts.
"""

import argparse
import copy
import json
import statistics

import torch
from torch import Tensor
from yardsticks import Workload, make_module, median_ratio, our_step, time_alternately

from huscf.callbacks import ClusteredFederation
from huscf.engines import Mixture
from huscf.training import SplitModule

STEPS_PER_ROUND = 50


def main() -> None:
    """Time a round and print its figures, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--width", type=int, default=64, help="64: the paper's")
    parser.add_argument("--image_size", type=int, default=28)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    workload = Workload(
        arguments.clients, arguments.batch_size, arguments.width, arguments.image_size
    )
    row = measure(workload, arguments.repeats)
    if arguments.json:
        print(json.dumps({workload.name: row}))
        return
    print(workload.name, *(f"{name} {value:.4g}" for name, value in row.items()))


def measure(workload: Workload, repeats: int) -> dict[str, float]:
    """Time step, round, averaging alone and the naive averaging in turns."""
    module = make_module(workload)
    step = our_step(workload, module)
    federation = ClusteredFederation()
    step()

    def close_round() -> None:
        decision = federation.decide(module)
        federation.apply(module, decision)

    weights = dict.fromkeys(module.clusters, 1.0 / workload.num_clients)
    seconds = time_alternately(
        {
            "step": step,
            "round": close_round,
            "averaging": lambda: average_parties(module, weights),
            "naive": lambda: average_naively(module, weights),
            "textbook": lambda: average_by_the_book(module, weights),
        },
        repeats,
    )
    return {
        "round_share": median_ratio(seconds["round"], seconds["step"]) / STEPS_PER_ROUND,
        "speedup_averaging": median_ratio(seconds["naive"], seconds["averaging"]),
        "speedup_textbook": median_ratio(seconds["textbook"], seconds["averaging"]),
        **{f"{name}_s": statistics.median(values) for name, values in seconds.items()},
    }


def average_parties(module: SplitModule, weights: dict[int, float]) -> None:
    """Average every block over all clients, as a round of one cluster does."""
    module.engine.mix(Mixture(dict.fromkeys(weights, 0), weights))


@torch.no_grad()
def average_naively(module: SplitModule, weights: dict[int, float]) -> None:
    """Do the same by looping over clients, keys and tensors of merged state dicts."""
    for network in module.engine.networks:
        states = {c: module.engine.whole_network(network, c).state_dict() for c in weights}
        average: dict[str, Tensor] = {}
        for key, value in next(iter(states.values())).items():
            if value.is_floating_point():
                average[key] = sum(  # type: ignore[assignment]
                    (states[c][key] * weight for c, weight in weights.items()),
                    torch.zeros_like(value),
                )
        for client_id in weights:
            merged = module.engine.whole_network(network, client_id)
            merged.load_state_dict({**states[client_id], **average})


@torch.no_grad()
def average_by_the_book(module: SplitModule, weights: dict[int, float]) -> None:
    """Every client sends a copy of its state dict; the average is sent back to each of them."""
    for network in module.engine.networks:
        states = {}
        for client_id in weights:
            merged = module.engine.whole_network(network, client_id)
            states[client_id] = copy.deepcopy(merged.state_dict())
        average = copy.deepcopy(next(iter(states.values())))
        for key, value in average.items():
            if value.is_floating_point():
                average[key] = torch.zeros_like(value)
                for client_id, weight in weights.items():
                    average[key] += states[client_id][key] * weight
        for client_id in weights:
            module.engine.whole_network(network, client_id).load_state_dict(average)


if __name__ == "__main__":
    main()
