"""Shows what validate and test measured, and keeps a test's figures as metrics.json."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from ..checkpoint_io import read_checkpoint
from ..metrics.evaluation import find_published
from ..reporting import (
    RunRecord,
    make_published_table,
    make_score_tables,
    summarize_scores,
    write_page,
)
from ..reporting.run_record import find_tests
from ..resuming import find_changed_clients
from ..training import SplitModule
from ..whole_files import write_text
from .run_folder import find_run_folder, read_digests


class ScoreTable(Callback):
    """Prints scores per domain and per cluster; a test also writes them into the run's folder.

    An earlier metrics.json stays; the next test writes metrics-2.json, and so on. The run's page,
    if there is one, is written anew with the figures. Figures of other clients' data than the run
    was trained on say so.
    """

    def __init__(self) -> None:
        self._data_changed = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn, before `huscf validate` measures, where the data are not the run's own."""
        if not trainer.training:
            self._data_changed = warn_of_other_data(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn, before anything is measured, where the data are not the run's own."""
        self._data_changed = warn_of_other_data(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the scores of `huscf validate`."""
        if not trainer.training:
            self._print(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the scores and write them."""
        assert isinstance(pl_module, SplitModule)
        summary = self._print(trainer, pl_module)
        folder = choose_folder(trainer)
        path = choose_file(folder)
        content = {"checkpoint": str(trainer.ckpt_path), "round": pl_module.num_rounds, **summary}
        write_text(path, json.dumps(content, indent=1) + "\n")
        print(f"figures: {path}")
        if (folder / "report.html").exists():
            print(f"page, with these figures: {write_page(RunRecord.read(folder))}")

    def _print(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        from rich.console import Console

        assert isinstance(module, SplitModule)
        console = Console(width=max(110, Console().width))
        book = module.score_book
        summary = summarize_scores(
            book.scores,
            module.clusters,
            module.seed,
            book.inception,
            book.plain_judge,
            book.protocol if trainer.testing else "huscf",
        )
        summary["data_changed"] = self._data_changed
        tables = make_score_tables(summary)
        if summary["protocol"] == "paper":
            summary["published"] = [r._asdict() for r in find_published(summary["domains"])]
            summary["budget"] = measure_budget(trainer, module)
            tables.append(make_published_table(summary))
        for table in tables:
            console.print(table)
        return summary


def measure_budget(trainer: Trainer, module: SplitModule) -> dict[str, int]:
    """Return what the run whose checkpoint is tested has cost, as plain values."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    steps = read_checkpoint(trainer.ckpt_path)["global_step"] if trainer.ckpt_path else 0
    drawn_from = module.method.exported or module.plan.networks[0]
    network = module.engine.whole_network(drawn_from, min(data.client_sizes))
    return {
        "rounds": module.num_rounds,
        "steps": steps,
        "clients": len(data.client_sizes),
        "samples": sum(data.client_sizes.values()),
        "batch_size": max(data.batch_sizes.values()),
        "generator_parameters": sum(p.numel() for p in network.parameters()),
    }


def warn_of_other_data(trainer: Trainer) -> bool:
    """Return whether clients have other data than in the checkpoint's run, naming them if so."""
    if trainer.ckpt_path is None:
        return False
    saved = read_digests(trainer.ckpt_path)
    changed = find_changed_clients(saved, trainer.datamodule.client_digests)  # type: ignore[attr-defined]
    if changed:
        names = ", ".join(map(str, changed[:12])) + (", ..." if len(changed) > 12 else "")
        rank_zero_warn(
            f"these are not the data that the run was trained on: those of {len(changed)} clients "
            f"have changed ({names})"
        )
    return bool(changed)


def choose_folder(trainer: Trainer) -> Path:
    """Return the folder of the checkpoint's run, or the root of runs where that is not known."""
    if trainer.ckpt_path is not None and (folder := find_run_folder(trainer.ckpt_path)):
        return folder
    root = Path(trainer.default_root_dir)
    root.mkdir(parents=True, exist_ok=True)
    return root


def choose_file(folder: Path) -> Path:
    """Return metrics.json, or metrics-<n>.json with an n above those of all earlier tests."""
    number = max(find_tests(folder), default=0) + 1
    return folder / ("metrics.json" if number == 1 else f"metrics-{number}.json")
