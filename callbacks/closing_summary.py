"""What a run says when it ends: clusters, losses, scores, and where everything is."""

import shlex
from collections.abc import Mapping, Sequence

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ..checkpoint_io import read_checkpoint
from ..errors import HuscfError
from ..reporting import make_evaluation_table, make_usefulness_table
from ..resuming import find_newest
from ..training import RoundResult, SplitModule
from .base import RoundCallback
from .evaluation import EVALUATION_SECONDS
from .run_folder import RunFolder


class ClosingSummary(RoundCallback):
    """Prints a table of the clusters and the last round's figures, or how to go on."""

    def __init__(self) -> None:
        self.unplaced: frozenset[int] = frozenset()

    def on_round_end(self, trainer: Trainer, module: SplitModule, result: RoundResult) -> None:
        """Keep who has not been seen yet."""
        self.unplaced = result.decision.unplaced

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a run without a folder."""
        RunFolder.of(trainer, self)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print, once everything is written."""
        from rich.console import Console
        from rich.table import Table

        assert isinstance(pl_module, SplitModule)
        run = RunFolder.of(trainer, self)
        console = Console(width=max(100, Console().width))
        table = Table("cluster", "clients", "domains (simulation only)", "cuts")
        domains = getattr(trainer.datamodule, "client_domains", {})  # type: ignore[attr-defined]
        for cluster in sorted(set(pl_module.clusters.values())):
            members = [c for c, label in pl_module.clusters.items() if label == cluster]
            names = sorted({domains[c] for c in members if c in domains})
            cuts = sorted({str(pl_module.plan.by_client[c].cuts.as_list()) for c in members})
            name = "not seen yet" if self.unplaced.issuperset(members) else str(cluster)
            table.add_row(name, _join(members), ", ".join(names), " ".join(cuts))
        console.print(table)
        if run.rows:
            last = run.rows[-1]
            if any(name.startswith("eval/") for name in last):
                console.print(make_evaluation_table(last))
                if usefulness := make_usefulness_table(last):
                    console.print(usefulness)
            hidden = ("eval/", "evaluation/", "epoch", "sec")
            others = {k: v for k, v in last.items() if not k.startswith(hidden)}
            console.print(", ".join(f"{name} {value:.4g}" for name, value in others.items()))
            console.print(describe_time(run.rows))
        if not trainer.global_step:
            console.print("nothing was trained: not a single step was asked for")
        elif run.num_open_epochs:
            console.print(
                f"the last {run.num_open_epochs} epochs ended no round: they are neither federated "
                "nor saved (huscf.callbacks.RoundEarlyStopping stops at a round's end)"
            )
        console.print(f"run folder: {run.path}", soft_wrap=True)
        if run.path is not None and (run.path / "report.html").exists():
            console.print(f"its page: {run.path / 'report.html'}", soft_wrap=True)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Say, where a run is interrupted or cannot write, what is saved and how to go on."""
        ended_by = (KeyboardInterrupt, SIGTERMException, OSError)
        if trainer.state.fn == "fit" and isinstance(exception, ended_by):
            print(_describe_interrupt(RunFolder.of(trainer, self)), flush=True)


def describe_time(rows: Sequence[Mapping[str, float]]) -> str:
    """Return how long a run has trained, and how long it was measured in between.

    Args:
        rows: Those of metrics.csv.
    """
    training = sum(row["seconds"] for row in rows)
    measuring = [row[EVALUATION_SECONDS] for row in rows if EVALUATION_SECONDS in row]
    text = f"{_count(len(rows), 'round')} in {training:.0f} s of training"
    if measuring:
        text += f", {_count(len(measuring), 'evaluation')} in {sum(measuring):.0f} s"
    return text


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _describe_interrupt(run: RunFolder) -> str:
    """Return what is left of an interrupted run, and the command that goes on with it."""
    if run.path is None or (last := find_newest(run.path)) is None:
        return "\ninterrupted before a first round was saved"
    try:
        rounds = read_checkpoint(last)["huscf"]["num_rounds"]
    except (HuscfError, LookupError, TypeError) as error:
        return f"\ninterrupted: {error}"
    command = ["huscf", "fit", "--config", str(run.path / "config.yaml"), "--ckpt_path", str(last)]
    return f"\ninterrupted; rounds saved: {rounds}; go on with:\n  {shlex.join(command)}"


def _join(numbers: list[int], limit: int = 12) -> str:
    text = " ".join(map(str, numbers[:limit]))
    return text if len(numbers) <= limit else f"{text} ... ({len(numbers)})"
