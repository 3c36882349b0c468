"""Runs a server and sites as processes of this machine: milliseconds a step, and a soak.

    python benchmarks/sites.py [--steps 200]            # against one process with the serial engine
    python benchmarks/sites.py --nvflare                # and as a job in NVFlare's simulator
    python benchmarks/sites.py --soak --steps 1000      # sites are killed and started again

Quickstart at a width of one's choice, over gRPC with mutual TLS on the loopback. A soak kills a
site with SIGKILL every few seconds and starts it again; all steps must be run, and the server's
memory is printed over time. --kill_server kills the server too, at so many moments, and goes on.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from huscf.deploy.nvflare_job import ALLOWED
from huscf.named_configs import find_config

HUSCF = [sys.executable, "-m", "huscf"]
#: Seconds between two kills of a soak, from and to.
PAUSE_S = (4.0, 9.0)


def main() -> None:
    """Time or soak, and print what came of it, or one JSON object with --json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--sites", type=int, default=2, help="with four clients each")
    parser.add_argument("--width", type=int, default=16, help="64: the paper's")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--nvflare", action="store_true", help="time that, too")
    parser.add_argument("--soak", action="store_true")
    parser.add_argument("--kill_server", type=int, default=0, metavar="N", help="in a soak")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), arguments)
        soaks = arguments.soak
        found = run.soak(arguments.kill_server) if soaks else run.time(arguments.nvflare)
    print(json.dumps(found) if arguments.json else yaml.safe_dump(found, sort_keys=False))


class Run:
    """A run of sites in a folder.

    Args:
        folder: For kits, configurations and runs.
        arguments: Of the command line.
    """

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder, self.steps, self.seed = folder, arguments.steps, arguments.seed
        self.names = [f"site-{number}" for number in range(arguments.sites)]
        self.port = 0
        width = {"init_args": {"width": arguments.width}}
        own = {
            "data": {"init_args": {"batch_size": arguments.batch_size, "steps_per_epoch": 10}},
            "model": {"method": {"init_args": {"generator": width, "discriminator": width}}},
            "federation": {"every_n_epochs": 1},
            "trainer": {"max_epochs": -1, "max_steps": self.steps},
            "evaluation": {"every_n_rounds": -1},
        }
        (folder / "own.yaml").write_text(yaml.safe_dump(own))
        self.configs = ["--config", find_config("quickstart"), "--config", str(folder / "own.yaml")]
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def time(self, with_nvflare: bool) -> dict[str, Any]:
        """Return milliseconds a step of each way, without the first round, and their ratio."""
        options = ["--model.engine=serial", "--report.enabled=false", "--samples.every_n_rounds=0"]
        options += ["--trainer.enable_progress_bar=false", "--federation_log.first_rounds=0"]
        self._run_to_the_end("fit", *options, "--training.num_threads=1", root="one")
        server = self._serve()
        sites = [self._join(name) for name in self.names]
        self._end(server, *sites)
        one, many = (self._step_ms(root) for root in ("one", "served"))
        found = {"one_process_ms": one, "sites_ms": many, "ratio": many / one}
        if with_nvflare:
            self._simulate()
            third = self._step_ms("work/server/simulate_job")
            found |= {"nvflare_ms": third, "nvflare_ratio": third / one}
        return found

    def soak(self, num_server_kills: int) -> dict[str, Any]:
        """Kill sites, and the server, and start them again, until all steps are run."""
        stream = random.Random(self.seed)
        server = self._serve()
        sites = {name: self._join(name) for name in self.names}
        while not list((self.folder / "served").glob("*/checkpoints/last.ckpt")):
            time.sleep(0.1)  # before, there is nothing to go on from
        memory, kills, left = [], 0, num_server_kills
        while server.poll() is None:
            time.sleep(stream.uniform(*PAUSE_S))
            memory.append(_resident_mib(server.pid))
            if server.poll() is not None:
                break
            if left and stream.random() < 0.5:
                left -= 1
                server.kill()
                server.wait()
                server = self._serve("--ckpt_path", "last")
                continue
            name = stream.choice(self.names)
            sites[name].kill()
            sites[name].wait()
            kills += 1
            sites[name] = self._join(name)
        row = self._read_rows("served")[-1]
        return {
            "steps": int(row["step"]),
            "exit_code": server.wait(),
            "sites_that_heard_of_the_end": sum(map(_has_ended, sites.values())),
            "kills_of_sites": kills,
            "kills_of_the_server": num_server_kills - left,
            "dropped_steps": int(row["dropped_steps"]),
            "server_mib": [round(value) for value in memory if value],
        }

    def _serve(self, *options: str) -> subprocess.Popen[bytes]:
        kit = self.folder / "kit"
        if not kit.exists():
            self._call("provision", "--sites", *self.names, "--host", "localhost")
            roster = {name: [4 * n + i for i in range(4)] for n, name in enumerate(self.names)}
            (kit / "server" / "roster.yaml").write_text(yaml.safe_dump(roster))
        log = (self.folder / f"serve-{time.monotonic()}.log").open("w")
        limits = ["--sites.step_timeout_s=5", "--sites.min_clients=1"]
        root = f"--trainer.default_root_dir={self.folder / 'served'}"
        listen = ["--listen", f"127.0.0.1:{self.port}", "--tls", str(kit / "server")]
        listen += ["--training.num_threads=1"]
        command = [*HUSCF, "serve", *self.configs, *listen, *limits, root, *options]
        server = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)
        while not (port := re.search(r"listening on port (\d+)", Path(log.name).read_text())):
            if server.poll() is not None:
                raise RuntimeError(Path(log.name).read_text())
            time.sleep(0.1)
        self.port = int(port[1])
        return server

    def _join(self, name: str) -> subprocess.Popen[bytes]:
        number = self.names.index(name)
        command = [*HUSCF, "join", "--config", find_config("quickstart")]
        command += ["--tls", str(self.folder / "kit" / name), "--output", str(self.folder / name)]
        command += ["--address", f"localhost:{self.port}", "--data.batch_size", self._batch_size()]
        command += ["--clients", *(str(4 * (number % 2) + i) for i in range(4))]
        log = (self.folder / f"{name}.log").open("a")
        return subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)

    def _simulate(self) -> None:
        """Run the same as a job in NVFlare's simulator, where each site is a process."""
        local = self.folder / "work" / "local"
        local.mkdir(parents=True)
        (local / "resources.json").write_text(json.dumps({"class_allow_list": [ALLOWED]}))
        data = yaml.safe_load(Path(find_config("quickstart")).read_text())["data"]
        data.setdefault("init_args", {})["batch_size"] = int(self._batch_size())
        for number, name in enumerate(self.names):
            own = {"clients": [4 * (number % 2) + i for i in range(4)], "num_threads": 1}
            (local / f"{name}.yaml").write_text(yaml.safe_dump({"data": data, "join": own}))
        job, roster = self.folder / "job", self.folder / "kit" / "server" / "roster.yaml"
        command = [*HUSCF, "nvflare", *self.configs, "--training.num_threads=1", "--sites"]
        command += [*self.names, "--roster", str(roster), "--output", str(job)]
        subprocess.run(command, check=True, capture_output=True, env=self.environment)
        simulator = [sys.executable, "-m", "nvflare.cli", "simulator", str(job)]
        simulator += ["-w", str(self.folder / "work"), "-c", ",".join(self.names)]
        simulator += ["-t", str(len(self.names))]
        subprocess.run(simulator, check=True, capture_output=True, env=self.environment)

    def _batch_size(self) -> str:
        own = yaml.safe_load((self.folder / "own.yaml").read_text())
        return str(own["data"]["init_args"]["batch_size"])

    def _call(self, *arguments: str) -> None:
        command = [*HUSCF, *arguments, "--output", str(self.folder / "kit")]
        subprocess.run(command, check=True, capture_output=True)

    def _run_to_the_end(self, *arguments: str, root: str) -> None:
        folder = f"--trainer.default_root_dir={self.folder / root}"
        command = [*HUSCF, arguments[0], *self.configs, *arguments[1:], folder]
        subprocess.run(command, check=True, capture_output=True, env=self.environment)

    def _end(self, *processes: subprocess.Popen[bytes]) -> None:
        try:
            codes = [process.wait() for process in processes]
            if any(codes):
                raise RuntimeError(f"exit codes {codes}")
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)

    def _step_ms(self, root: str) -> float:
        rows = self._read_rows(root)
        steps = [0, *(int(row["step"]) for row in rows)]
        counts = [after - before for before, after in pairwise(steps)]
        seconds = [float(row["seconds"]) for row in rows]
        each = [1000 * s / c for s, c in zip(seconds[1:], counts[1:], strict=True)]
        return statistics.median(each)

    def _read_rows(self, root: str) -> list[dict[str, str]]:
        (table,) = (self.folder / root).glob("*/metrics.csv")
        return list(csv.DictReader(table.read_text().splitlines()))


def _has_ended(site: subprocess.Popen[bytes]) -> bool:
    """Return whether a site has ended in order; one that came after the server's end waits on."""
    try:
        return site.wait(60) == 0
    except subprocess.TimeoutExpired:
        site.kill()
        site.wait()
        return False


def _resident_mib(pid: int) -> float:
    """Return a process's resident memory, 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


if __name__ == "__main__":
    main()
