"""The commands that need no trainer: generate, export, audit, compare, report."""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .errors import HuscfError
from .user_paths import expand_path
from .whole_files import write_bytes

if TYPE_CHECKING:
    from .reporting.card_facts import CardFacts
    from .sampling import SavedGAN

WHO_IS_WHO = "clients.csv in the run's folder says who is in which cluster and of which domain"


class CommandParser(ArgumentParser):
    """Says in one line what is wrong with the options, instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what the command line prints."""
        raise HuscfError(f"{message}; see {self.prog} --help")


def run_command(command: str, arguments: Sequence[str]) -> int:
    """Run one of COMMANDS with its options.

    Raises:
        HuscfError: For input that the user can mend.
    """
    add_options, run, example = COMMANDS[command]
    parser = CommandParser(
        prog=f"huscf {command}",
        description=run.__doc__,
        epilog=f"example:\n  huscf {command} {example}",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser)
    options = parser.parse_args(list(arguments))
    for name, value in vars(options).items():
        if isinstance(value, Path):
            setattr(options, name, expand_path(value))
    try:
        run(options)
    except FileNotFoundError as error:
        output = getattr(options, "output", None)
        for path in output if isinstance(output, list) else [output]:
            if path is not None and str(error.filename).startswith(str(path)):
                raise HuscfError(f"output {path}: cannot be made ({error.strerror})") from error
        raise
    return 0


def generate(options: Namespace) -> None:
    """Draw balanced samples: a PNG or WAV of each in a folder per domain and class, a table."""
    from .reporting.card_facts import check_licence, describe_samples
    from .sampling import draw_sample_set, load_gan, measure_drawing, write_sample_set
    from .sampling.sample_set import check_empty, check_room

    licence = check_licence(options.license)
    check_empty(options.output)
    checkpoint = _find_checkpoint(options.ckpt_path)
    saved = load_gan(checkpoint, options.trust, drawing=_read_drawing(options.draw))
    clients = saved.select_clients(options.client, options.cluster)
    classes = options.classes and _number_classes(options.classes, saved.class_names)
    check_room(saved.module, options.num_samples, options.output)
    with _showing_activity():
        drawn = draw_sample_set(saved, options.num_samples, clients, classes, options.seed)
    card = _make_card(describe_samples(drawn, saved, licence), saved, checkpoint)
    write_sample_set(drawn, options.output, saved.spectrogram, card)
    who = f"{len(drawn.client.unique())} of {len(saved.module.clusters)} clients"
    count = len(drawn.labels.unique())
    print(f"{len(drawn.labels)} samples of {count} classes, drawn by {who}, in {options.output}")
    print(f"what they are: {options.output / 'README.md'}")
    sent, got = measure_drawing(saved.module, drawn.client.tolist())
    if sent + got:
        sizes = f"{sent / 1e6:.1f} MB up, {got / 1e6:.1f} MB down"
        print(f"drawn at sites, through the server, these would take {sizes}")


def export(options: Namespace) -> None:
    """Write the generator of a cluster or a client, as TorchScript or otherwise, and a card."""
    from .reporting.card_facts import check_licence, describe_model
    from .sampling import export_generator, load_gan, name_files

    licence = check_licence(options.license)
    checkpoint = _find_checkpoint(options.ckpt_path)
    saved = load_gan(checkpoint, options.trust, drawing=_read_drawing(options.draw))
    members = saved.select_clients(options.client, options.cluster)
    if options.client is not None and not saved.config["run"].get("share_generator"):
        raise HuscfError(
            f"client {options.client[0]} may not have a full generator: in a split run a client "
            "holds its own blocks only; train with --run.share_generator true to allow it"
        )
    files = name_files(options.output, options.format)
    card = _make_card(describe_model(files, saved, members, licence), saved, checkpoint)
    export_generator(saved, members, options.output, options.format, card)
    print(f"generator of clients {' '.join(map(str, members))}:")
    for form, path in files.items():
        print(f"{EXPORTED[form]}: {path}")


def audit(options: Namespace) -> None:
    """Attack a run as its server, its clients and anybody would, and say what they find."""
    import dataclasses

    from rich.console import Console

    from . import privacy
    from .callbacks.run_folder import find_run_folder
    from .sampling import load_gan

    names = [field.name for field in dataclasses.fields(privacy.AuditSettings)]
    settings = privacy.AuditSettings(**{name: getattr(options, name) for name in names})
    path = _find_checkpoint(options.ckpt_path)
    if not path.exists():
        raise HuscfError(f"checkpoint {path}: no such file")
    if (folder := options.output or find_run_folder(path)) is None:
        raise HuscfError(f"checkpoint {path}: lies in no run's folder: say where with --output")
    data = privacy.load_data(path, options.trust, options.data_root)
    saved = load_gan(path, options.trust, engine="serial")
    found = privacy.audit_run(saved, data, settings, lambda line: print(line, flush=True))
    console = Console(width=max(115, Console().width))
    for table in privacy.make_tables(found):
        console.print(table)
    for attack, reason in found.not_applicable.items():
        print(f"not applicable: {attack}: {reason}")
    of_run = {"checkpoint": str(path), "round": saved.module.num_rounds}
    folder.mkdir(parents=True, exist_ok=True)
    if found.pictures:
        write_bytes(folder / "audit.png", privacy.draw_pictures(found))
        print(f"originals beside what was made of them: {folder / 'audit.png'}")
    content = privacy.write_json(found, of_run | {"settings": dataclasses.asdict(settings)})
    write_bytes(folder / "audit.json", content.encode())
    print(f"figures: {folder / 'audit.json'}")


def compare(options: Namespace) -> None:
    """Print final figures and differing configuration of runs, and their spread over seeds."""
    from .reporting import RunRecord, print_comparison
    from .reporting.comparison_files import check_outputs, write_comparison

    outputs = [expand_path(path) for path in options.output]
    check_outputs(outputs)
    folders: dict[Path, Path] = {}
    for folder in map(expand_path, options.runs):
        folders.setdefault(folder.resolve(), folder)  # one that is given twice is one run
    runs = [RunRecord.read(folder) for folder in folders.values()]
    with _showing(*folders.values()):
        print_comparison(runs)
        for path in outputs:
            write_comparison(path, runs, options.figures)
            print(f"{'curves' if path.suffix == '.png' else 'table'}: {path}")


def report(options: Namespace) -> None:
    """Write a run's page report.html anew from the files in its folder."""
    from .reporting import RunRecord, write_page

    for folder in map(expand_path, options.runs):
        run = RunRecord.read(folder)
        with _showing(folder):
            print(write_page(run))


@contextmanager
def _showing_activity() -> Iterator[None]:
    """Show on a terminal what goes on."""
    from rich.console import Console

    from .activity import Activity, unwatch, watch

    with Console(stderr=True).status("") as status:

        def show(running: tuple[Activity, ...]) -> None:
            status.update(running[-1].text if running else "")

        watch(show)
        try:
            yield
        finally:
            unwatch(show)


@contextmanager
def _showing(*folders: Path) -> Iterator[None]:
    """Say in one line where the files of runs, which may be anybody's, do not fit together."""
    try:
        yield
    except HuscfError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())
        named = ", ".join(map(str, folders))
        raise HuscfError(f"{named}: files that do not fit together: {reason:.200}") from error


def _find_checkpoint(path: Path) -> Path:
    """Return the file that is meant by "last", "best", a run's folder, or its own path."""
    from .resuming import find_checkpoint

    return Path(find_checkpoint(str(path), Path("runs")))


def _make_card(facts: "CardFacts", saved: "SavedGAN", checkpoint: Path) -> str:
    """Return a card's text; where files of the run are damaged, one without its figures."""
    from .callbacks.run_folder import find_run_folder
    from .reporting import RunRecord
    from .reporting.card import render_card

    if (folder := find_run_folder(checkpoint)) is None:
        return render_card(facts, saved, None)
    try:
        with _showing(folder):
            return render_card(facts, saved, RunRecord.read(folder))
    except HuscfError as error:
        print(f"README.md is without the run's figures: {error}", file=sys.stderr)
        return render_card(facts, saved, None)


#: What `export` says of each file that it wrote.
EXPORTED = {
    "torchscript": "TorchScript, draws what the generator does",
    "state": "its tensors by name",
    "safetensors": "safetensors, the same tensors by name",
    "pt2": "torch.export, draws what the generator does",
    "onnx": "ONNX, draws what the generator does",
    "card": "card",
}


def _number_classes(classes: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the numbers of classes that are given by name, or by number where no name fits."""
    if all(text in names for text in classes):
        return [names.index(text) for text in classes]
    try:
        return [int(text) for text in classes]
    except ValueError:
        known = ", ".join(f"{number} {name}" for number, name in enumerate(names[:12]))
        there = f"there are {known}{', ...' if len(names) > 12 else ''}" if names else ""
        reason = there or "these have no names, give numbers"
        raise HuscfError(f"--classes {' '.join(classes)}: {reason}") from None


def _add_checkpoint(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--ckpt_path",
        required=True,
        type=Path,
        help="a file such as runs/.../last.ckpt, a run's folder, RUN/best, or last or best: of the "
        "newest run in runs/",
    )
    add_trust(parser, "networks the checkpoint")


def add_trust(parser: ArgumentParser, what: str) -> None:
    """Add the option by which a file from elsewhere may name a user's own classes.

    Args:
        parser: The command's.
        what: Kind of classes, and what names them.
    """
    help_text = f"packages whose {what} may name and so run; huscf's own always are"
    parser.add_argument(
        "--trust", nargs="+", action="extend", default=[], metavar="PACKAGE", help=help_text
    )


def _add_drawing(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--draw",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="how the run's method draws, as num_steps=50 guidance=2 for flow matching",
    )


def _read_drawing(options: Sequence[str]) -> dict[str, str]:
    pairs = [option.partition("=") for option in options]
    for name, sign, _ in pairs:
        if not (name and sign):
            raise HuscfError(f"--draw {name}{sign}: needs NAME=VALUE, as num_steps=50")
    return {name: value for name, _, value in pairs}


def _add_licence(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--license",
        default="unknown",
        help="the licence that README.md names, such as cc-by-4.0 (default unknown)",
    )


def _add_generate(parser: ArgumentParser) -> None:
    _add_checkpoint(parser)
    parser.add_argument("--num_samples", type=int, default=1000, help="in all (default 1000)")
    parser.add_argument("--output", required=True, type=Path, help="a new or empty folder")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--client", type=int, nargs="+", help=f"only these clients draw; {WHO_IS_WHO}")
    who.add_argument("--cluster", type=int, nargs="+", help="only these clusters' clients draw")
    parser.add_argument("--classes", nargs="+", help="only these classes, by name or number")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    _add_drawing(parser)
    _add_licence(parser)


def _add_export(parser: ArgumentParser) -> None:
    _add_checkpoint(parser)
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        help="a new file such as gen.pt, or without an ending a new or empty folder",
    )
    parser.add_argument(
        "--format",
        nargs="+",
        action="extend",
        default=[],
        choices=("torchscript", "safetensors", "pt2", "onnx"),
        help="what to write (default: by the output's ending, else torchscript); safetensors "
        "needs huscf[export], onnx needs huscf[onnx]",
    )
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--cluster", type=int, nargs=1, help=f"whose generator; {WHO_IS_WHO}")
    who.add_argument("--client", type=int, nargs=1, help="needs run.share_generator in the config")
    _add_drawing(parser)
    _add_licence(parser)


def _add_audit(parser: ArgumentParser) -> None:
    _add_checkpoint(parser)
    add = parser.add_argument
    add("--output", type=Path, help="a folder; by default the run's own")
    add("--data_root", type=Path, help="where the run's data lie, if they have moved")
    add("--seed", type=int, default=0, help="of all attacks (default 0)")
    add("--num_auxiliary", type=int, default=1000, help="what attackers know (%(default)s)")
    add("--inversion_steps", type=int, default=2000, help="of the optimisation (%(default)s)")
    add("--decoder_steps", type=int, default=1000, help="of the decoder's training (%(default)s)")
    add(
        "--num_generated", type=int, default=2000, help="samples drawn of each domain (%(default)s)"
    )
    add(
        "--num_judged",
        type=int,
        default=2000,
        help="members, and others, of each domain (%(default)s)",
    )


def _add_compare(parser: ArgumentParser) -> None:
    _add_runs(parser)
    parser.add_argument(
        "--output",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="write new files: .md and .tex a table with the best marked, .csv all figures, "
        ".png curves",
    )
    parser.add_argument(
        "--figures",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATTERN",
        help="what the tables have, such as 'eval/*/recall' (default: a few of the scores)",
    )


def _add_runs(parser: ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run's folder")


#: Options, action and an example by name.
COMMANDS: dict[str, tuple[Callable[[ArgumentParser], None], Callable[[Namespace], None], str]] = {
    "generate": (_add_generate, generate, "--ckpt_path last --num_samples 100 --output out"),
    "export": (_add_export, export, "--ckpt_path last --cluster 0 --output generator.pt"),
    "audit": (_add_audit, audit, "--ckpt_path runs/quickstart-1"),
    "compare": (_add_compare, compare, "runs/one runs/two --output table.md table.tex curves.png"),
    "report": (_add_runs, report, "runs/quickstart-1"),
}
