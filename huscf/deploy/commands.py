"""The commands provision, serve and join, and where nvflare is among them."""

import contextlib
import gc
import os
import sys
import tempfile
import time
from argparse import SUPPRESS, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from ..callbacks.run_folder import is_folder_name, make_free_folder
from ..check_data import read_datamodule
from ..checkpoint_io import read_checkpoint
from ..commands import CommandParser, add_trust
from ..engines.remote import Caller
from ..errors import HuscfError, check_count, check_number, make_printable
from ..resuming import check_same_config, find_last_checkpoint
from ..run_lock import RunLock
from ..signals import stopping_in_order
from ..trust import Trust
from ..user_paths import expand_path, writing
from .grpc_wire import GrpcExchange, GrpcServer
from .kits import Tls, add_kits, read_roster, write_kits
from .local import start_sites
from .metrics_endpoint import MetricsEndpoint
from .nvflare_job import nvflare
from .progress import ENDED, LOG, note_in
from .run_config import RunConfig, read_run_config
from .server_run import ServerRun
from .site_device import SiteDevice
from .site_run import SiteRun


def provision(arguments: Sequence[str]) -> int:
    """Make an authority, and a folder of keys and certificates for the server and every site."""
    parser = _make_parser("provision", provision, "--sites a b --host fl.example.org --output kit")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--sites", nargs="+", help="names of sites")
    which.add_argument("--add", nargs="+", metavar="SITE", help="sites that join a kit's later")
    parser.add_argument("--host", help="by which sites reach the server")
    parser.add_argument("--port", type=int, default=8443, help="the server's (default 8443)")
    parser.add_argument(
        "--output", type=Path, required=True, help="a new folder; with --add that of the kits"
    )
    options = parser.parse_args(list(arguments))
    options.output = expand_path(options.output)
    names = options.sites or options.add
    if len(set(names)) < len(names):
        raise HuscfError(f"--{'sites' if options.sites else 'add'}: a name is given twice")
    if options.add:
        roster = add_kits(options.output, names)
        print(f"{len(roster)} sites now: start the server anew with --ckpt_path last; new kits:")
    else:
        if options.host is None:
            raise HuscfError("--host: by which name or address do sites reach the server?")
        roster = {name: (number,) for number, name in enumerate(names)}
        write_kits(options.output, roster, options.host, options.port)
        server = options.output / "server"
        print(f"kits: {server} for the server, one of each site for that site alone:")
    for name in names:
        print(f"  {options.output / name}")
    print(f"keep {options.output / 'ca.key'} to yourself; who has it can be any site")
    return 0


def serve(arguments: Sequence[str]) -> int:
    """Train with sites that join over the network; the server has no data."""
    parser = _make_parser("serve", serve, "--config run.yaml --tls kit/server")
    parser.add_argument("--config", "-c", action="append", default=[], help="keys as for fit")
    parser.add_argument("--listen", default="0.0.0.0:8443", help="host:port (default %(default)s)")
    parser.add_argument("--tls", type=Path, help="the server's kit")
    parser.add_argument("--local", type=int, metavar="N", help="try it: N sites on this machine")
    parser.add_argument("--ckpt_path", help="go on from last, or from a checkpoint of the server")
    options, others = parser.parse_known_args(list(arguments))
    if (options.tls is None) == (options.local is None):
        raise HuscfError("serve: needs --tls kit/server, or --local 2 for a try on this machine")
    others = [*(f"--config={path}" for path in options.config), *others]
    config = read_run_config(others)
    if not is_folder_name(config.name):
        raise HuscfError(f"run.name is {config.name!r}, must be the name of one folder")
    if config.num_threads or options.local:
        torch.set_num_threads(config.num_threads if options.local is None else 1)
    folder, saved = _find_folder(config, options.ckpt_path)
    with stopping_in_order():
        lock = RunLock(folder)
        try:
            if options.local is not None:
                _serve_locally(config, options.local, folder, saved, others)
            else:
                _serve(config, expand_path(options.tls), options.listen, folder, saved)
        except KeyboardInterrupt:
            is_saved = (folder / "checkpoints" / "last.ckpt").exists()
            how = "go on with --ckpt_path last" if is_saved else "nothing is saved yet, begin anew"
            _say(f"interrupted; {how}")
            return 130
        finally:
            lock.release()
            with contextlib.suppress(OSError):
                folder.rmdir()  # unless something is in it
    return 0


def join(arguments: Sequence[str]) -> int:
    """Take part in a run with the data of this site; no sample or label of it is sent."""
    parser = _make_parser("join", join, "--config site.yaml --tls kit/hospital-a")
    parser.add_argument("--config", "-c", type=Path, action="append", default=[], help="its data")
    parser.add_argument("--tls", type=Path, required=True, help="this site's kit")
    parser.add_argument("--address", help="host:port of the server, where site.yaml has none")
    parser.add_argument("--output", type=Path, help="where its half is kept (default sites/NAME)")
    parser.add_argument(
        "--samples", type=int, default=0, help="drawn at the run's end, of each client and class"
    )
    parser.add_argument(
        "--calibrate", action="store_true", help="measure speed, memory and link, for the plan"
    )
    parser.add_argument(
        "--max_epsilon", type=float, help="of its records; the site takes no step beyond it"
    )
    parser.add_argument(
        "--patience_s",
        type=float,
        default=600.0,
        help="seconds without a server after which the site ends (%(default)s)",
    )
    add_trust(parser, "classes the server's configuration")
    parser.add_argument("--num_threads", type=int, default=0, help=SUPPRESS)
    parser.add_argument("--clients", type=int, nargs="+", help=SUPPRESS)
    options, others = parser.parse_known_args(list(arguments))
    check_count("--samples", options.samples)
    if options.max_epsilon is not None:
        check_number("--max_epsilon", options.max_epsilon, 0, is_open=True)
    kit, configs = expand_path(options.tls), [expand_path(path) for path in options.config]
    if (kit / "server.crt").exists():
        raise HuscfError(f"--tls {kit}: that is the server's kit; give the site's own")
    tls = Tls.read(kit)
    address = options.address or _find_address(configs)
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    data = read_datamodule(configs, others)
    folder = expand_path(options.output or Path("sites") / tls.name)
    _check_writable(folder)

    def say(line: str) -> None:
        _say(f"{tls.name}: {line}")

    exchange = GrpcExchange(address, tls, options.patience_s, say)
    say(f"calling {address}")
    caller, trust = Caller(exchange), Trust(tuple(options.trust))
    device = SiteDevice.read(configs, options.calibrate)
    site = SiteRun(
        *(data, options.clients, tls.secret, folder, caller, device, trust, options.samples, say),
        max_epsilon=options.max_epsilon,
    )
    gc.freeze()  # or a collector's pause over all that is imported holds up every party
    try:
        goodbye = site.run()
    finally:
        exchange.close()
    say(goodbye)
    return 0 if goodbye == ENDED else 1


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "provision": provision,
    "serve": serve,
    "join": join,
    "nvflare": nvflare,
}


def _make_parser(name: str, run: Callable[..., Any], example: str) -> CommandParser:
    return CommandParser(
        prog=f"huscf {name}",
        description=run.__doc__,
        epilog=f"example:\n  huscf {name} {example}\nsee docs/deployment.md",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _find_folder(config: RunConfig, ckpt_path: str | None) -> tuple[Path, dict[str, Any] | None]:
    """Return the run's folder, and the half from which it goes on, if it does."""
    if ckpt_path is None:
        try:
            config.root.mkdir(parents=True, exist_ok=True)
            return make_free_folder(config.root, config.name), None
        except OSError as error:
            raise HuscfError(
                f"run folder: cannot write below {config.root} ({error.strerror}); choose another "
                "with --trainer.default_root_dir"
            ) from error
    path = ckpt_path
    if path == "last":
        path = find_last_checkpoint(config.root, config.name)
    path = str(expand_path(path))
    saved = read_checkpoint(path)
    check_same_config(saved.get("huscf_config") or {}, config.values, path, ("sites", "data"))
    return Path(path).resolve().parents[1], saved


def _serve(
    config: RunConfig, kit: Path, listen: str, folder: Path, saved: dict[str, Any] | None
) -> None:
    """Serve the sites of a kit's roster."""
    run = ServerRun(config, read_roster(kit), folder, saved, note_in(folder / LOG, _say))
    network = GrpcServer(run.sessions, Tls.read(kit), listen)
    _say(f"listening on port {network.port}; run folder: {folder}")
    _lead(run, network)


def _serve_locally(
    config: RunConfig,
    count: int,
    folder: Path,
    saved: dict[str, Any] | None,
    arguments: Sequence[str],
) -> None:
    """Serve, and start the sites on this machine, which share the configuration's data."""
    parser = CommandParser(prog="huscf serve", allow_abbrev=False)
    parser.add_argument("--config", "-c", type=Path, action="append", default=[])
    found, others = parser.parse_known_args(list(arguments))
    clients = read_datamodule(found.config, _take_data(others)).client_sizes
    if not 1 <= count <= len(clients):
        raise HuscfError(f"--local {count}: the data has {len(clients)} clients; each site has one")
    size = -(-len(clients) // count)
    every = sorted(clients)
    roster = {f"site-{n + 1}": every[n * size : (n + 1) * size] for n in range(count)}
    roster = {name: own for name, own in roster.items() if own}
    with tempfile.TemporaryDirectory() as kits:
        kit = Path(kits) / "kit"
        write_kits(kit, roster, "localhost")
        named = {name: tuple(own) for name, own in roster.items()}
        run = ServerRun(config, named, folder, saved, note_in(folder / LOG, _say))
        network = GrpcServer(run.sessions, Tls.read(kit / "server"), "127.0.0.1:0")
        _say(f"trying it on this machine: {len(roster)} sites; run folder: {folder}")
        data = [part for path in found.config for part in ("--config", str(path))]
        if run.planner.needs_devices:
            data.append("--calibrate")
        sites = start_sites(kit, roster, network.port, folder, [*data, *_take_data(others)])
        try:
            _lead(run, network)
        finally:
            for site in sites:
                site.wait_or_end(20.0)


def _lead(run: ServerRun, network: GrpcServer) -> None:
    """Run to the end."""
    sites, endpoint = run.config.sites, None
    try:
        if sites.metrics_port is not None:
            endpoint = MetricsEndpoint(run, sites.metrics_port, sites.metrics_host)
            run.say(f"figures for Prometheus at port {endpoint.port}, /metrics")
        gc.freeze()
        run.run()
    finally:
        network.stop()
        if endpoint is not None:
            endpoint.close()


def _check_writable(folder: Path) -> None:
    """Make a folder and write a file there, before a run waits for this site."""
    probe = folder / f".probe-{os.getpid()}"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.touch()
        finally:
            probe.unlink(missing_ok=True)


def _take_data(options: Sequence[str]) -> list[str]:
    """Return the options of the data and the seed, each with its value."""
    found: list[str] = []
    takes = False
    for option in options:
        if option.startswith("--"):
            takes = option.startswith(("--data", "--seed_everything"))
        if takes:
            found.append(option)
    return found


def _find_address(configs: Sequence[Path]) -> str:
    for path in reversed(configs):
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise HuscfError(f"config {path}: cannot be read: {error}") from error
        if isinstance(values, dict) and isinstance(values.get("address"), str):
            return values["address"]
    raise HuscfError("join: needs --address host:port, or address: in the site's configuration")


def _say(line: str) -> None:
    # In one piece: processes of a try share a terminal.
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {make_printable(line)}\n")
    sys.stdout.flush()
