"""The command nvflare: writes a job for NVFlare, which runs the same parties as serve and join."""

import json
from argparse import RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..commands import CommandParser
from ..errors import HuscfError
from ..nested_values import to_yaml
from ..trust import Trust
from .kits import check_name, check_roster, read_roster_file
from .run_config import RunConfig, read_data, read_run_config

#: What a site allows in NVFlare's list of classes (`class_allow_list`).
ALLOWED = "huscf.deploy.nvflare_parts."
#: Of the 100 threads of the server's cell a site keeps one while it waits, two if it asks again.
MAX_SITES = 40
SERVER_APP, SITE_APP, CONFIG = "server_app", "site_app", "run.yaml"

DESCRIPTION = """\
Write a job that NVFlare runs: a folder with the run's configuration and no data. NVFlare's server
and sites need pip install 'huscf[nvflare]', and each allows what is run, in local/resources.json of
its workspace: "class_allow_list": ["{allowed}"]. A site names its own data in
local/NAME.yaml there, as for huscf join. The sites are fixed: none comes later, none that is lost
returns, and a run that has stopped is not gone on with."""

EXAMPLE = """\
example:
  huscf nvflare --config run.yaml --sites hospital-a hospital-b --output job
  nvflare simulator job -w work -c hospital-a,hospital-b -t 2    # a try, with work/local as above
  nvflare job submit -j job
see docs/deployment.md"""


def nvflare(arguments: Sequence[str]) -> int:
    """Write a job for NVFlare."""
    parser = CommandParser(
        prog="huscf nvflare",
        description=DESCRIPTION.format(allowed=ALLOWED),
        epilog=EXAMPLE,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", "-c", action="append", default=[], help="keys as for fit")
    parser.add_argument("--sites", nargs="+", required=True, help="as NVFlare's project names them")
    parser.add_argument("--roster", type=Path, help="clients by site, as hospital-a: [0, 1]")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    options, others = parser.parse_known_args(list(arguments))
    if find_spec("nvflare") is None:
        raise HuscfError("nvflare needs the extra nvflare: pip install 'huscf[nvflare]'")
    roster = make_roster(options.sites, options.roster)
    config = read_run_config([*(f"--config={path}" for path in options.config), *others])
    write_job(options.output, config, roster)
    sites = ",".join(roster)
    print(
        f"job: {options.output}, for {len(roster)} sites; try it, once work/local is as in --help:"
    )
    print(f"  nvflare simulator {options.output} -w work -c {sites} -t {len(roster)}")
    print(f"or submit it:\n  nvflare job submit -j {options.output}")
    return 0


def make_roster(sites: Sequence[str], path: Path | None) -> dict[str, tuple[int, ...]]:
    """Return the clients of every site: as a file says, or one each.

    Raises:
        HuscfError: Where a name is none, is given twice, or the file has other sites.
    """
    for name in sites:
        check_name(name)
    if len(set(sites)) < len(sites):
        raise HuscfError("--sites: a name is given twice")
    if len(sites) > MAX_SITES:
        raise HuscfError(f"--sites: {len(sites)}, of which NVFlare's server answers {MAX_SITES}")
    if path is None:
        return {name: (number,) for number, name in enumerate(sites)}
    roster = read_roster_file(path)
    if wrong := sorted(roster.keys() ^ {*sites}):
        where = ("--sites", "--roster") if wrong[0] in roster else ("--roster", "--sites")
        raise HuscfError(f"{where[0]}: lacks {wrong[0]}, which {where[1]} has")
    return roster


def write_job(output: Path, config: RunConfig, roster: Mapping[str, Sequence[int]]) -> None:
    """Write a job.

    Args:
        output: A new folder, or an empty one.
        config: What is trained.
        roster: Clients by name of a site.

    Raises:
        HuscfError: Where the folder holds something, or the run cannot be NVFlare's.
    """
    _check(config)
    check_roster(dict(roster), str(output))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise HuscfError(f"output {output}: holds something already; nothing was written")
    meta = {
        "name": config.name,
        "min_clients": count_needed(config, roster),
        "resource_spec": {},
        "deploy_map": {SERVER_APP: ["server"], SITE_APP: list(roster)},
    }
    own = {"roster": {name: list(clients) for name, clients in roster.items()}, "config": CONFIG}
    server = {"workflows": [{"id": "huscf", "path": f"{ALLOWED}ServerPart", "args": own}]}
    part = {"path": f"{ALLOWED}SitePart", "args": {}}
    site = {"executors": [{"tasks": ["*"], "executor": part}]}
    _write(output / "meta.json", meta)
    _write(output / SERVER_APP / "config" / "config_fed_server.json", _with_version(server))
    _write(output / SITE_APP / "config" / "config_fed_client.json", _with_version(site))
    text = to_yaml(strip_data(config.values), allow_unicode=True)
    (output / SERVER_APP / "config" / CONFIG).write_text(text, encoding="utf-8")


def count_needed(config: RunConfig, roster: Mapping[str, Sequence[int]]) -> int:
    """Return with how many sites NVFlare begins the job and goes on: all, unless the run says."""
    if (least := config.sites.min_clients) is None:
        return len(roster)
    total = 0
    for count, size in enumerate(sorted(map(len, roster.values()), reverse=True), 1):
        total += size
        if total >= least:
            return count
    raise HuscfError(f"sites.min_clients: {least}, and the sites have {total} clients")


def strip_data(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with no more of the section `data` than the server reads."""
    return {**values, "data": read_data(values.get("data") or {}) or None}


def _check(config: RunConfig) -> None:
    """Refuse what a run of NVFlare's cannot do."""
    try:
        Trust().check(config.method_values, "model.method")
    except HuscfError as error:
        raise HuscfError(
            "model.method: names code outside huscf, which NVFlare's sites do not make; those of "
            "huscf serve may --trust it"
        ) from error
    if config.sites.metrics_port is not None:
        raise HuscfError("sites.metrics_port: NVFlare starts the server's part; leave it out")


def _with_version(values: dict[str, Any]) -> dict[str, Any]:
    return {"format_version": 2, **values, "components": []}


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
