"""The command leakage: what every cut of a configuration's networks gives away of its samples."""

import json
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

import torch

from .check_data import make_parser, read_parts
from .commands import CommandParser
from .datamodules import Domain, FederatedDataModule
from .errors import DataError, check_count
from .methods import Method, build_networks
from .privacy.cut_leakage import (
    CutFigures,
    describe_leakage,
    find_network,
    join_domains,
    measure_cuts,
)
from .randomness import make_rng
from .user_paths import check_folder, expand_path, writing
from .whole_files import write_text

DESCRIPTION = """\
Measure what every cut of the networks gives away of the samples, before any training: how much of
the variance of samples whoever gets the activations of a client's head gives back by a ridge
regression that has learned on other samples. huscf plan --leakage takes the file. Keys of the data
and of the method are given as to fit."""

#: What of a configuration matters here.
_KEYS = ("seed_everything", "data", "model.method")

#: With fewer samples of a domain an attacker learns nothing.
_LEAST = 64


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: Its options.

    Raises:
        HuscfError: For input that the user can mend.
    """
    parser = CommandParser(
        prog="huscf leakage",
        description=DESCRIPTION,
        epilog="example:\n  huscf leakage --config mine.yaml --output leakage.json\n"
        "  huscf plan --config devices.yaml --leakage leakage.json --max_leakage 0.8",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", "-c", type=Path, action="append", default=[], help="as for fit")
    add("--output", type=Path, default=Path("leakage.json"), help="file (%(default)s)")
    add(
        "--num_samples",
        type=int,
        default=512,
        help="of each domain, at most; the attacker knows half of them (%(default)s)",
    )
    options, others = parser.parse_known_args(list(arguments))
    check_count("--num_samples", options.num_samples, _LEAST)
    output = expand_path(options.output)
    check_folder(output)
    data, method, seed = _read(options.config, others)
    networks = build_networks(method, data.sample_shape, seed)
    blocks = find_network(method, networks)
    by_domain = [
        measure_cuts(method, networks, _draw(domain, options.num_samples, seed))
        for domain in data.domains.values()
    ]
    figures = join_domains(by_domain)
    _print_table(str(method.observed), figures)
    heads = {each.head: (each.recovered, "ridge regression, untrained") for each in figures}
    values = {
        "leakage": describe_leakage(str(method.observed), blocks, heads),
        "distance_correlation": {str(each.head): each.correlation for each in figures},
        "seed": seed,
        "num_samples": options.num_samples,
    }
    with writing(output):
        write_text(output, json.dumps(values, indent=1) + "\n")
    print(f"for huscf plan --leakage: {output}")
    return 0


def _read(
    configs: Sequence[Path], options: Sequence[str]
) -> tuple[FederatedDataModule, Method, int]:
    """Return data, method and seed of a run's configuration."""
    parser = make_parser("huscf leakage")
    parser.add_subclass_arguments(Method, "model.method", required=True)
    parser.set_defaults({"model.method": {"class_path": "huscf.methods.HuscfGan"}})
    parts = read_parts(parser, configs, options, _KEYS)
    return parts.data, parts.model.method, int(parts.seed_everything)


def _draw(domain: Domain, most: int, seed: int) -> torch.Tensor:
    """Return some of a domain's training samples, (N, C, H, W) uint8."""
    if (count := len(domain.train_labels)) < _LEAST:
        raise DataError(f"leakage: domain {domain.name} has {count} samples, needs {_LEAST}")
    index = make_rng(seed, "leakage of cuts").permutation(count)[:most]
    return domain.train_samples[torch.from_numpy(index)]


def _print_table(network: str, figures: Sequence[CutFigures]) -> None:
    print(f"{network} head   samples given back   distance correlation")
    for each in figures:
        blocks = f"{each.head} block{'s' * (each.head > 1)}"
        print(f"{blocks:<{len(network) + 5}}   {each.recovered:<18.3f}   {each.correlation:.3f}")
