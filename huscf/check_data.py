"""The command check-data: what a configuration's data is and becomes, before any training."""

import sys
import warnings
from argparse import RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import ActionConfigFile, Namespace
from PIL import Image, ImageDraw, ImageFont

from .commands import CommandParser
from .datamodules import Domain, FederatedDataModule, FileDataModule
from .errors import HuscfError, find_refusal
from .nested_values import write_line
from .one_line_parser import OneLineParser
from .randomness import make_generator
from .saved_config import find_own_names
from .text_files import read_text
from .user_paths import check_folder, expand_path, writing
from .whole_files import replacing

DESCRIPTION = """\
Read the data of a configuration as huscf fit would, without training: count classes, sizes,
patients and bad files of every domain and client, say what is done to the samples, and draw some
as the network sees them. Keys of the data are given as to fit: --data.image_size 64."""

#: The sections of a configuration that matter here.
_SECTIONS = ("seed_everything", "data")

_SHEET = Path("check-data.png")  # the command's own, which it writes anew every time
_MOST_FILES = 2000  # whose headers are read
_SHOWN = 8  # sizes, classes
_ROWS, _COLUMNS, _SIDE, _MARGIN = 60, 10, 64, 180  # of the sheet; the last two in pixels


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: Its options.

    Returns:
        0, or 2 where a run would stop.

    Raises:
        HuscfError: For input that the user can mend.
    """
    parser = CommandParser(
        prog="huscf check-data",
        description=DESCRIPTION,
        epilog="example:\n  huscf check-data --config mine.yaml --output samples.png",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", "-c", type=Path, action="append", default=[], help="as for fit")
    parser.add_argument("--output", type=Path, help=f"samples, a new PNG (default {_SHEET})")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    options, others = parser.parse_known_args(list(arguments))
    output = _SHEET if options.output is None else expand_path(options.output)
    check_folder(output)
    if options.output is not None and output.exists() and not options.overwrite:
        raise HuscfError(f"output {output}: exists already; use --overwrite to replace it")
    data = read_datamodule(options.config, others)
    is_fatal = data.on_bad_data == "fatal"
    data.on_bad_data = "skip"  # to count all
    print_domains(data)
    _print_clients(data)
    print("\nwhat is done to the samples")
    for line in data.explain():
        print(f"  {line}")
    _write_sheet(data, output)
    print(f"\nsamples as the network sees them: {output}")
    count = sum(map(len, data.bad_data.values()))
    if count and is_fatal:
        print(
            f"huscf: error: {count} bad inputs, at which a run stops: mend them, or leave them out "
            "with on_bad_data: skip",
            file=sys.stderr,
        )
        return 2
    return 0


def read_datamodule(configs: Sequence[Path], options: Sequence[str]) -> FederatedDataModule:
    """Make the datamodule that huscf fit would make.

    Args:
        configs: Files whose data sections are laid one over the other.
        options: Keys of the data, as on the command line; they win.

    Raises:
        HuscfError: Where a file cannot be read, no data is named, or an option is refused.
    """
    data = read_parts(make_parser("huscf check-data"), configs, options, _SECTIONS).data
    assert isinstance(data, FederatedDataModule)
    return data


def make_parser(prog: str) -> OneLineParser:
    """Return a parser of data and seed, as huscf fit takes them."""
    parser = OneLineParser(prog=prog)
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_argument("--seed_everything", type=bool | int, default=0)
    parser.add_subclass_arguments(FederatedDataModule, "data", required=True)
    parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
    return parser


def read_parts(
    parser: OneLineParser, configs: Sequence[Path], options: Sequence[str], keys: Sequence[str]
) -> Namespace:
    """Make what a parser knows of, out of configurations of runs.

    Args:
        parser: Of `make_parser`, with whatever else is wanted.
        configs: Files that are laid one over the other.
        options: Keys as on the command line; they win.
        keys: What is taken of the files; the rest is not looked at.

    Raises:
        HuscfError: Where a file cannot be read, no data is named, or an option is refused.
    """
    given = [part for path in configs for part in ("--config", _take(path, keys))]
    OneLineParser.named = find_own_names([*given, *options])
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*deprecated")  # as Lightning calls it, too
            return parser.instantiate_classes(parser.parse_args([*given, *options]))
    except (ValueError, ImportError) as error:
        raise find_refusal(error) from None


def _take(path: Path, keys: Sequence[str]) -> str:
    """Return what is under some keys, as section or section.key, of a file as a line of YAML."""
    try:
        content = yaml.safe_load(read_text(expand_path(path)))
    except OSError as error:
        raise HuscfError(f"config {path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise HuscfError(f"config {path}: is no YAML: {reason}") from error
    if not isinstance(content, dict):
        raise HuscfError(f"config {path}: needs keys such as data:")
    chosen: dict[str, Any] = {}
    for key in keys:
        section, _, inner = key.partition(".")
        found = content.get(section)
        if inner and isinstance(found, dict) and inner in found:
            chosen[section] = {inner: found[inner]}
        elif not inner and section in content:
            chosen[section] = found
    return write_line(chosen)


def print_domains(data: FederatedDataModule) -> None:
    """Print what every domain holds: samples, classes, sizes, patients, and what is bad."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        domains = data.domains
    for name, domain in domains.items():
        shape = " x ".join(map(str, data.given_shapes[name]))
        train, test = len(domain.train_labels), len(domain.test_labels)
        print(f"{name}: {train} samples to train on, {test} held out; {shape} each")
        _print_counts("classes", _count_classes(domain))
        if isinstance(data, FileDataModule):
            _print_files(data, name)
        reasons = Counter(bad.reason for bad in data.bad_data.get(name, ()))
        for reason, count in reasons.most_common():
            first = next(bad.name for bad in data.bad_data[name] if bad.reason == reason)
            print(f"  bad       {count} x {reason} ({first}{', ...' * (count > 1)})")
        if not reasons:
            print("  bad       none")
    for note in notes:
        if "They are left out" not in str(note.message):  # which is said above
            print(f"note: {note.message}")


def _print_files(data: FileDataModule, name: str) -> None:
    files = data.files[name]
    shown = files[:: max(1, -(-len(files) // _MOST_FILES))]
    facts = [data.describe_file(file).partition(", ") for file in shown]
    for what, place in (("sizes", 0), ("depths", 2)):
        counts = Counter(fact[place] for fact in facts if fact[place])
        _print_counts(what, {fact: str(count) for fact, count in counts.most_common()})
    if len(shown) < len(files):
        print(f"            as {len(shown)} of the {len(files)} files say, evenly spread")
    patients = [{f.patient for f in files if f.patient and f.is_test == side} for side in (0, 1)]
    if any(patients):
        print(f"  patients  {len(patients[0])} to train on, {len(patients[1])} held out")
    else:
        print("  patients  not known: a column patient or DICOM's PatientID keeps them apart")
    _print_counts("bad of", {key: str(n) for key, n in sorted(data.bad_keys[name].items())})


def _print_counts(what: str, counts: dict[str, str]) -> None:
    shown = [f"{name}: {count}" for name, count in list(counts.items())[:_SHOWN]]
    if shown:
        more = f"; and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
        print(f"  {what:<9} {'; '.join(shown)}{more}")


def _count_classes(domain: Domain) -> dict[str, str]:
    train, test = (_count_labels(domain, v) for v in (domain.train_labels, domain.test_labels))
    return {name: f"{count} + {test[name]}" for name, count in train.items()}


def _count_labels(domain: Domain, labels: torch.Tensor) -> dict[str, int]:
    names = domain.class_names or tuple(map(str, range(domain.num_classes)))
    counts = np.bincount(labels.numpy(), minlength=len(names)).tolist()
    return dict(zip(names, counts, strict=True))


def _print_clients(data: FederatedDataModule) -> None:
    owned: set[int] = set()
    print(f"\n{len(data.clients)} clients")
    for client in data.clients:
        domain = client.domain
        labels = domain.train_labels[client.indices]
        owned |= set(labels.tolist())
        own = [f"{name} {n}" for name, n in _count_labels(domain, labels).items() if n]
        extra = ""
        if domain.patients is not None:
            # Files of several pictures are kept together as patients are.
            extra = f"; {len(np.unique(domain.patients[client.indices]))} patients or files"
        if domain.keys is not None:
            keys = np.unique(domain.keys[client.indices]).tolist()
            extra += f"; keys {', '.join(map(str, keys[:_SHOWN]))}{', ...' * (len(keys) > _SHOWN)}"
        shown = ", ".join(own[:_SHOWN]) + ", ..." * (len(own) > _SHOWN)
        print(f"  {client.client_id:<3} {domain.name}: {len(client)} samples ({shown}){extra}")
    lacking = sorted(set(range(data.sample_shape.num_classes)) - owned)
    if lacking:
        print(f"note: no client has class {', '.join(map(str, lacking))}: it cannot be learnt")


def _write_sheet(data: FederatedDataModule, path: Path) -> None:
    """Draw up to ten training samples of every class of every domain as a PNG."""
    rows = list(_draw_rows(data))[:_ROWS]
    width = _MARGIN + _COLUMNS * (_SIDE + 2)
    sheet = Image.new("RGB", (width, len(rows) * (_SIDE + 2)), (40, 40, 60))
    pen, font = ImageDraw.Draw(sheet), _load_font()
    for number, (title, samples) in enumerate(rows):
        top = number * (_SIDE + 2)
        pen.multiline_text((6, top + 8), title, fill="white", font=font)
        for column, sample in enumerate(samples):
            picture = Image.fromarray(sample.expand(3, -1, -1).permute(1, 2, 0).numpy())
            shown = picture.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
            sheet.paste(shown, (_MARGIN + column * (_SIDE + 2), top))
    with writing(path), replacing(path) as partial:
        sheet.save(partial, format="PNG")


def _load_font() -> ImageFont.FreeTypeFont:
    """Return matplotlib's, which has umlauts, Greek and Cyrillic; Pillow's own is ASCII."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), 14)


def _draw_rows(data: FederatedDataModule) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what a row shows, and its samples (N, C, S, S), N up to ten."""
    stream = make_generator(data.seed, "check data")
    for domain in data.domains.values():
        for label, (name, count) in enumerate(_count_labels(domain, domain.train_labels).items()):
            if count:
                rows = (domain.train_labels == label).nonzero().flatten()
                chosen = rows[torch.linspace(0, count - 1, min(count, _COLUMNS)).long()]
                samples = domain.train_samples[chosen]
                if data.augmentation is not None:
                    samples = data.augmentation(samples, stream)
                yield f"{domain.name[:20]}\n{name[:20]}", samples
