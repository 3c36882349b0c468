"""Kills runs and fills disks: what is lost, and does a resumed run end as an undisturbed one?

python benchmarks/kill.py [--moments 50] [--operations 0] [--bytes 10] [--sizes 10] [--json]

A small run of three rounds is killed (kill -9) at random moments, before and after every
operation on a file of its second round, and in the middle of writing a checkpoint; then it is run
on disks that fill up. After each, the newest checkpoint must hold every round that was saved, and
the run that goes on from it must end bit-equal to one that nobody disturbed. Each trial is a fork
of this process. Disks that fill up are small tmpfs, which only root can mount; for others the size
of a file is limited instead. Linux only.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import huscf.cli  # what a trial imports is imported before the fork
import huscf.reporting  # noqa: F401
from huscf.__main__ import main as huscf_main
from huscf.callbacks import RoundCheckpoint
from huscf.checkpoint_io import read_checkpoint
from huscf.resuming import find_newest

CONFIG = """
data:
  class_path: huscf.datamodules.DigitsDataModule
  init_args: {clients_per_domain: 1, batch_size: 4, steps_per_epoch: 1, samples_per_client: 8}
model:
  method:
    class_path: huscf.methods.HuscfGan
    init_args:
      generator: {class_path: huscf.models.ConditionalGenerator, init_args: {width: 2, depth: 4}}
      discriminator:
        class_path: huscf.models.ConditionalDiscriminator
        init_args: {width: 2, depth: 4}
      latent_dim: 2
evaluation: {every_n_rounds: -1}
samples: {every_n_rounds: 1, num_columns: 1}
federation_log: {first_rounds: 0, every_n_rounds: 0}
report: {enabled: false}
trainer: {max_epochs: 3, enable_progress_bar: false, accelerator: cpu}
"""
ROUND = 2  # whose operations on files are all met
MARK = b"r"  # what a trial tells of every round that it has saved
#: How long a resumed run may take at most.
PATIENCE_S = 120


class LostError(Exception):
    """A round that was saved is gone, or a resumed run ended otherwise."""


@dataclass
class Ending:
    """How a trial ended.

    Args:
        status: As of os.waitpid.
        saved: Rounds that it had saved.
        output: What it printed.
    """

    status: int
    saved: int
    output: str


def main() -> int:
    """Run all series and print their counts; 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=50, help="kills at random moments")
    parser.add_argument("--operations", type=int, default=0, help="so many of all; 0 all")
    parser.add_argument("--bytes", type=int, default=10, help="kills within a checkpoint")
    parser.add_argument("--sizes", type=int, default=10, help="disks that fill up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp(prefix="huscf-kill-"))
    try:
        counts = run_series(work, arguments)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if arguments.json:
        print(json.dumps(counts))
    else:
        for name, row in counts.items():
            print(f"{name:12}", *(f"{key} {value}" for key, value in row.items()))
    return int(any(row["lost"] for row in counts.values()))


def run_series(work: Path, arguments: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Run the undisturbed run and all series; return the counts by series."""
    stream = random.Random(arguments.seed)
    with trial(work / "whole"):
        ending = fork(lambda: None)
        if ending.status:
            raise LostError(f"the undisturbed run fails: {ending.output}")
        expected = read_state(Path("runs/run-1"))
    with trial(work / "count"):
        start = time.monotonic()
        num_operations = int(fork(lambda: kill_at_operation(None)).output.splitlines()[-1])
        seconds = time.monotonic() - start
    size = next((work / "whole").rglob("last.ckpt")).stat().st_size
    moments = [stream.uniform(0, seconds) for _ in range(arguments.moments)]
    operations = [*range(num_operations)]
    if arguments.operations:
        operations = sorted(stream.sample(operations, min(arguments.operations, num_operations)))
    places = [size * (part + 1) // (arguments.bytes + 1) for part in range(arguments.bytes)]
    sizes = [int(size * (0.4 + 0.4 * part)) for part in range(arguments.sizes)]
    series: dict[str, list[Callable[[Path], bool]]] = {
        "moments": [lambda p, m=m: kill(p, expected, after_s=m) for m in moments],  # type: ignore[misc]
        "operations": [
            lambda p, n=n: kill(p, expected, lambda: kill_at_operation(n))  # type: ignore[misc]
            for n in operations
        ],
        "bytes": [
            lambda p, b=b: kill(p, expected, lambda: kill_at_byte(b))  # type: ignore[misc]
            for b in places
        ],
        "disks": [lambda p, s=s: fill(p, expected, s) for s in sizes],  # type: ignore[misc]
    }
    return {name: count(name, trials, work) for name, trials in series.items()}


def count(name: str, trials: list[Callable[[Path], bool]], work: Path) -> dict[str, int]:
    """Run the trials of a series; return how many there were, were stopped, and lost something."""
    row = {"trials": 0, "stopped": 0, "lost": 0}
    for number, one in enumerate(trials):
        row["trials"] += 1
        try:
            row["stopped"] += one(work / f"{name}-{number}")
        except LostError as error:
            row["lost"] += 1
            print(f"{name} {number}: {error}", file=sys.stderr, flush=True)
    return row


def kill(
    folder: Path,
    expected: dict[str, Any],
    prepare: Callable[[], None] = lambda: None,
    after_s: float | None = None,
) -> bool:
    """Kill a run, go on with it, and compare; return whether it was killed before its end."""
    with trial(folder):
        ending = fork(prepare, after_s)
        was_killed = os.WIFSIGNALED(ending.status)
        if not was_killed and ending.status:
            raise LostError(f"fails by itself: {ending.output[-300:]}")
        check_saved(ending.saved)
        go_on(expected)
        return was_killed


def fill(folder: Path, expected: dict[str, Any], size: int) -> bool:
    """Run on a disk of so many bytes, make room, go on, and compare; return whether it was full."""
    with trial(folder), small_disk(Path("runs"), size) as (prepare, make_room):
        ending = fork(prepare)
        code = os.waitstatus_to_exitcode(ending.status)
        if code not in (0, 2):
            raise LostError(f"a full disk ends with {code}: {ending.output[-300:]}")
        if code == 2 and ("Traceback" in ending.output or "runs/run-1" not in ending.output):
            raise LostError(f"a full disk is not named in one line: {ending.output[-300:]}")
        if rest := [str(path) for path in Path("runs").rglob("*.partial")]:
            raise LostError(f"a full disk leaves {rest}")
        check_saved(ending.saved)
        make_room()
        go_on(expected)
        return code == 2


def check_saved(saved: int) -> None:
    """Raise a LostError unless the newest checkpoint is whole and holds all rounds saved."""
    newest = find_newest(Path("runs/run-1"))
    found = read_checkpoint(newest)["huscf"]["num_rounds"] if newest else 0
    if found < saved:
        raise LostError(f"{saved} rounds were saved, {newest} holds {found}")


def go_on(expected: dict[str, Any]) -> None:
    """Go on with the run, or begin anew where it saved nothing, and compare its end."""
    newest = find_newest(Path("runs/run-1"))
    is_new = newest is None
    ending = fork(lambda: None, options=[] if is_new else ["--ckpt_path=last"])
    if ending.status:
        raise LostError(f"does not go on: {ending.output[-300:]}")
    runs = sorted(Path("runs").glob("run-*"))
    state = read_state(runs[-1])
    if difference := find_difference(expected, state):
        raise LostError(f"ends otherwise than undisturbed: {difference}")
    if rest := [str(path) for path in runs[-1].rglob("*.partial") if not is_new]:
        raise LostError(f"leaves {rest}")


def read_state(run: Path) -> dict[str, Any]:
    """Return everything of a run's end that is not a matter of time."""
    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    lines = (run / "federation.csv").read_text().splitlines()
    rows = checkpoint["callbacks"]["RunFolder"]["rows"]
    table = (run / "metrics.csv").read_text().splitlines()
    place = table[0].split(",").index("seconds")
    return {
        "tensors": checkpoint["state_dict"],
        "huscf": checkpoint["huscf"],
        "epoch": [checkpoint["epoch"], checkpoint["global_step"]],
        "rows": [{k: v for k, v in row.items() if k != "seconds"} for row in rows],
        "metrics.csv": [[c for i, c in enumerate(r.split(",")) if i != place] for r in table],
        "federation.csv": lines,
        "pictures": {p.name: p.read_bytes() for p in sorted((run / "samples").glob("*.png"))},
    }


def find_difference(one: Any, other: Any, name: str = "") -> str:
    """Return where two nested values differ first, "" where they are equal bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        found = (find_difference(one[key], other[key], f"{name}/{key}") for key in one)
        return next(filter(None, found), "")
    if isinstance(one, (list, tuple)) and isinstance(other, type(one)) and len(one) == len(other):
        found = (find_difference(a, b, f"{name}/{i}") for i, (a, b) in enumerate(zip(one, other)))  # noqa: B905
        return next(filter(None, found), "")
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return "" if one.dtype == other.dtype and torch.equal(one, other) else name
    if isinstance(one, dict) and isinstance(other, dict):
        return f"{name}: only one has {sorted(one.keys() ^ other.keys())}"
    is_same = type(one) is type(other) and not isinstance(one, (dict, list, tuple)) and one == other
    return "" if is_same else name or "all"


@contextlib.contextmanager
def trial(folder: Path) -> Iterator[None]:
    """Work in a new folder, which is removed where nothing was lost."""
    before = Path.cwd()
    folder.mkdir()
    (folder / "small.yaml").write_text(CONFIG)
    os.chdir(folder)
    try:
        yield
        if folder.name != "whole":
            shutil.rmtree(folder)
    finally:
        os.chdir(before)


def fork(
    prepare: Callable[[], None], after_s: float | None = None, options: list[str] | None = None
) -> Ending:
    """Run huscf fit in a fork of this process, and kill that after some seconds if wanted."""
    reader, writer = os.pipe()
    output = Path("output.txt")
    output.touch()  # a kill may come before the child has begun to write
    if (child := os.fork()) == 0:
        os.close(reader)
        os._exit(run_child(prepare, options or [], writer))
    os.close(writer)
    if after_s is not None:
        time.sleep(after_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise LostError("does not end")
        time.sleep(0.01)
    with os.fdopen(reader, "rb") as stream:
        saved = stream.read().count(MARK)
    return Ending(done[1], saved, output.read_text(errors="replace"))


def run_child(prepare: Callable[[], None], options: list[str], writer: int) -> int:
    """Run huscf fit; what it prints goes to a file, and a sign for every round saved to a pipe."""
    output = Path("output.txt").open("w", buffering=1)  # noqa: SIM115  open until the end
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    sys.stdout = sys.stderr = output
    save = RoundCheckpoint.on_train_epoch_end

    def save_and_tell(self: Any, trainer: Any, module: Any) -> None:
        before = self._num_rounds
        save(self, trainer, module)
        if self._num_rounds > before:
            os.write(writer, MARK)
            state["round"] = self._num_rounds + 1

    RoundCheckpoint.on_train_epoch_end = save_and_tell  # type: ignore[method-assign]
    try:
        prepare()
        code = huscf_main(["fit", "--config", "small.yaml", *options])
        if "operations" in state:
            print(state["operations"])
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 3
    output.flush()
    return code


#: Of the child: the round that it is in, and how many operations on files of ROUND it has met.
state: dict[str, int] = {"round": 1}


def kill_at_operation(number: int | None) -> None:
    """Let this process be killed at an operation on a file in a round; None counts them only.

    Operations are every opening for writing, renaming, removing, making of folders, and fsync,
    each just before it happens; and each renaming and removing just after it, too.
    """
    state["operations"] = 0

    def meet() -> None:
        if state["round"] != ROUND:
            return
        if state["operations"] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        state["operations"] += 1

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            meet()

    def follow(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            meet()
            return result

        return run

    sys.addaudithook(watch)
    for name in ("replace", "unlink", "fsync", "open"):
        setattr(os, name, follow(getattr(os, name)))


def kill_at_byte(number: int) -> None:
    """Let this process be killed when a file of it grows beyond so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Give what a fork does so that its disk is small, and what makes room again."""
    folder.mkdir()

    def mount(*options: str) -> bool:
        command = ["mount", *options, str(folder.resolve())]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        limit = (size, size)
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit), lambda: None
        return
    try:
        yield lambda: None, lambda: mount("-o", "remount,size=256m") and None
    finally:
        subprocess.run(["umount", str(folder.resolve())], check=True)


if __name__ == "__main__":
    with contextlib.redirect_stderr(sys.stderr or io.StringIO()):
        sys.exit(main())
