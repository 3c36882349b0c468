"""The command `huscf`: says what there is without importing torch, and dispatches."""

import contextlib
import errno
import gc
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from importlib import import_module

from .signals import sigterm_as_exit

HELP = """\
usage: huscf COMMAND [--config FILE] [--KEY VALUE ...]

Trains generative models, such as conditional GANs, over many clients which may not share data:
each client holds the outer blocks of the networks, the server the middle, and clusters of alike
clients federate.

commands:
  init       a configuration of yours  huscf init folder --data my_pictures
  check-data look at data first        huscf check-data --config mine.yaml
  fit        train                     huscf fit --config quickstart
  validate   quick scores              huscf validate --ckpt_path runs/.../last.ckpt
  test       all scores                huscf test --ckpt_path runs/.../last.ckpt
  generate   draw samples as files     huscf generate --ckpt_path runs/.../last.ckpt --output out/
  export     a cluster's generator     huscf export --ckpt_path C --cluster 0 --output generator.pt
  audit      what attacks find         huscf audit --ckpt_path runs/one
  bench      many runs, one table      huscf bench --config bench/digits --jobs 4
  compare    runs side by side         huscf compare runs/one runs/two --output table.tex
  report     write report.html anew    huscf report runs/one
  predict    samples as batches        Lightning's own; to have files use generate
  leakage    what each cut gives away  huscf leakage --config quickstart
  plan       choose the cuts           huscf plan --config paper/devices
  provision  keys for server and sites huscf provision --sites a b --host HOST --output kit
  serve      train with sites          huscf serve --config run.yaml --tls kit/server
  join       take part as a site       huscf join --config site.yaml --tls kit/a
  nvflare    the same as NVFlare's job huscf nvflare --config run.yaml --sites a b --output job
  completion for bash or zsh           huscf completion --help

A configuration is a file, or the name of one that comes with huscf: quickstart, mnist_fashion,
methods/fedgan, ... (huscf init --help lists them). Every key of it can be given on the command
line, later values win:
  huscf fit --config quickstart --trainer.max_epochs 10 --data.clients_per_domain 2
Show all keys, those of the method, or the configuration that would run:
  huscf fit --help
  huscf fit --model.method.help huscf.methods.HuscfGan
  huscf fit --config quickstart --print_config
Log to Weights & Biases too, offline where there is no key:
  huscf fit --config quickstart --config wandb
Use a checkpoint whose classes are of a package of yours (docs/security.md):
  huscf test --ckpt_path runs/.../last.ckpt --trust mine.networks
Train with several seeds, side by side as the cores allow, into one table:
  huscf fit --config quickstart --seeds 0 1 2
Measure as the paper does, beside its figures:
  huscf test --ckpt_path runs/.../last.ckpt --protocol paper
Go on with the latest run:
  huscf fit --config quickstart --ckpt_path last
Try a server and two sites on this machine (docs/deployment.md):
  huscf serve --config quickstart --local 2
"""

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
DEPLOY_COMMANDS = ("provision", "serve", "join", "nvflare")
COMMANDS = (
    *(*TRAINER_COMMANDS, "generate", "export", "audit", "bench"),
    *("compare", "report", "leakage", "plan", "init", "check-data"),
    *DEPLOY_COMMANDS,
    "completion",
)

#: Commands whose options are read in a module of their own.
OWN_MAINS = {
    "plan": ".planning.command",
    "leakage": ".leakage",
    "init": ".init.command",
    "check-data": ".check_data",
    "bench": ".bench.command",
}

#: Commands that heed SIGTERM themselves: training ends between two steps, a server in order.
HEED_SIGTERM = ("fit", *DEPLOY_COMMANDS)

#: The exit code of what Ctrl-C ends: 128 + SIGINT.
INTERRUPTED = 130

#: The exit code of what a shell ends for that reason: 128 + SIGPIPE, which Windows has not.
BROKEN_PIPE = 141

#: What the system says where a file cannot be read or written, which the user can mend.
REFUSALS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments after the program's name; None takes those of the process.

    Returns:
        The exit code: 0; 2 for input that the user can mend; 130 where Ctrl-C ended a command that
        does not say so itself; 141 where nobody reads the output.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _dispatch(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads the output, as head, has enough of it; what is left goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        from . import __version__

        print(f"huscf {__version__}")
        return 0
    command = arguments[0]
    if command not in COMMANDS:
        print(f"huscf: no command {command!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return _run(command, arguments)


def _run(command: str, arguments: list[str]) -> int:
    from .errors import HuscfError

    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's code page lacks is no reason to lose a run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if "MPLBACKEND" in os.environ and "matplotlib" not in sys.modules:
        # A notebook leaves its own way of drawing to its children, which may lack it.
        os.environ["MPLBACKEND"] = "agg"
    try:
        from .named_configs import name_configs

        with nullcontext() if command in HEED_SIGTERM else sigterm_as_exit():
            return _run_command(command, name_configs(arguments))
    except HuscfError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("huscf: stopped", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        return _refuse(f"{error.filename or 'cannot write'}: {error.strerror}")


def _run_command(command: str, arguments: list[str]) -> int:
    if command == "fit" and any(word.split("=")[0] == "--seeds" for word in arguments):
        command = "bench"
    if command in OWN_MAINS:
        return import_module(OWN_MAINS[command], __package__).main(arguments[1:])
    if command == "completion":
        from .completion import main as complete

        return complete(arguments[1:], COMMANDS, _show_help)
    if command in DEPLOY_COMMANDS:
        return _deploy(command, arguments[1:])
    if command not in TRAINER_COMMANDS:
        from .commands import run_command

        return run_command(command, arguments[1:])
    with _no_garbage_collection():
        from .cli import run

    run(arguments)
    return 0


def _show_help(command: str) -> str:
    """Return a command's help, or "" where that needs an extra which is not installed."""
    from .errors import HuscfError

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit, HuscfError):
        _run_command(command, [command, "--help"])
    return shown.getvalue()


def _deploy(command: str, arguments: list[str]) -> int:
    from .errors import HuscfError

    try:
        from .deploy.commands import COMMANDS
    except ModuleNotFoundError as error:
        if error.name not in ("grpc", "msgpack", "cryptography"):
            raise
        extra = "nvflare" if command == "nvflare" else "deploy"
        raise HuscfError(
            f"{command} needs {error.name}, of the extra {extra}: pip install 'huscf[{extra}]'"
        ) from error
    return COMMANDS[command](arguments)


def _refuse(message: str) -> int:
    from .errors import make_printable

    print(f"huscf: error: {make_printable(message)}", file=sys.stderr)
    return 2


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Import faster: a fifth of the time goes into looking for garbage that imports do not make."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


if __name__ == "__main__":
    sys.exit(main())
