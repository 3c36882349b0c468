"""The script of docs/python.md as printed, made small, and callbacks that lack others."""

import re
import subprocess
import sys
from functools import partial
from itertools import permutations

import pytest
import torch
from lightning.pytorch import Trainer

from huscf.callbacks import (
    ClosingSummary,
    ClusteredFederation,
    Evaluation,
    FederationLog,
    Replanning,
    RoundProgressBar,
    RunFolder,
    RunReport,
    SampleGrid,
    ScoreTable,
    SplitTraining,
    WandbLog,
)
from huscf.datamodules import DigitsDataModule
from huscf.errors import HuscfError
from huscf.methods import HuscfGan
from huscf.models import ConditionalDiscriminator, ConditionalGenerator
from huscf.training import SplitModule
from tests.conftest import REPOSITORY

SMALL = {
    "width=16": "width=4",
    "steps_per_epoch=30": "steps_per_epoch=2",
    "max_epochs=12": "max_epochs=2",
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
def test_the_script_trains_draws_and_exports(tmp_path):
    guide = (REPOSITORY / "docs" / "python.md").read_text()
    script = "\n".join(re.findall(r"```python\n(.*?)```", guide, re.DOTALL))
    for long, short in SMALL.items():
        assert long in script
        script = script.replace(long, short)
    (tmp_path / "train.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith(("GPU ", "TPU "))]
    assert said == ["Seed set to 0", "`Trainer.fit` stopped: `max_epochs=2` reached."]
    assert "Params" not in done.stdout
    assert (
        "torch.Size([100, 1, 8, 8]) tensor([10, 10, 10, 10, 10, 10, 10, 10, 10, 10])" in done.stdout
    )
    assert "['discriminator', 'generator'] True" in done.stdout
    generator = torch.jit.load(tmp_path / "generator.pt")
    assert generator(torch.randn(3, 100), torch.arange(3)).shape == (3, 1, 8, 8)
    run = tmp_path / "runs" / "digits-1"
    assert len((run / "federation.csv").read_text().splitlines()) == 1 + 2 * 8
    assert len((run / "metrics.csv").read_text().splitlines()) == 1 + 2
    assert (run / "checkpoints" / "last.ckpt").exists()


def fit(root, *callbacks, epochs=1):
    data = DigitsDataModule(
        clients_per_domain=1, batch_size=8, samples_per_client=24, steps_per_epoch=1
    )
    method = HuscfGan(
        partial(ConditionalGenerator, width=4), partial(ConditionalDiscriminator, width=4)
    )
    module = SplitModule(data.sample_shape, data.batch_sizes, data.client_sizes, method)
    Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=any(isinstance(c, RoundProgressBar) for c in callbacks),
        enable_model_summary=False,
        limit_val_batches=0,
        accelerator="cpu",
        default_root_dir=root,
        callbacks=list(callbacks),
    ).fit(module, datamodule=data)
    return module


def test_a_page_needs_a_configuration_and_is_left_out_without_one(tmp_path):
    parts = ClusteredFederation(), SampleGrid(), RunFolder(), RunReport(), SplitTraining()
    module = fit(tmp_path, *parts)
    assert module.num_rounds == 1
    assert not (tmp_path / "run-1" / "report.html").exists()


ALONE = [Evaluation, Replanning, RoundProgressBar, ScoreTable, RunFolder]
WRITERS = [FederationLog, SampleGrid, RunReport, WandbLog, ClosingSummary]
ARGUMENTS = {Evaluation: {"every_n_rounds": -1}, WandbLog: {"enabled": True, "offline": True}}


def make(kind):
    return kind(**ARGUMENTS.get(kind, {}))


@pytest.mark.parametrize("kind", [None, *ALONE, *WRITERS])
@pytest.mark.parametrize("is_first", [False, True])
def test_each_callback_works_without_the_others_or_says_what_it_needs(tmp_path, kind, is_first):
    callbacks = [SplitTraining(), ClusteredFederation(), *([] if kind is None else [make(kind)])]
    if is_first:
        callbacks.reverse()
    if kind in WRITERS:
        with pytest.raises(HuscfError, match=f"^{kind.__name__} writes .* put huscf.callbacks.Run"):
            fit(tmp_path, *callbacks)
        assert not list(tmp_path.iterdir())
    else:
        assert fit(tmp_path, *callbacks).num_rounds == 1


def test_the_order_of_callbacks_changes_nothing(tmp_path):
    kinds = [SplitTraining, ClusteredFederation, RunFolder, FederationLog, SampleGrid]
    written = set()
    for number, order in enumerate(list(permutations(kinds))[::17]):
        root = tmp_path / str(number)
        fit(root, *(make(kind) for kind in order), epochs=2)
        lines = (root / "run-1" / "metrics.csv").read_text().splitlines()
        figures = tuple(line.rpartition(",")[0] for line in lines)  # the last are seconds
        log = (root / "run-1" / "federation.csv").read_text()
        grids = tuple(p.read_bytes() for p in sorted((root / "run-1" / "samples").iterdir()))
        written.add((figures, log, grids))
    assert number > 5
    assert len(written) == 1
    ((figures, _, grids),) = written
    assert figures[0].endswith("traffic/mbytes,dropped_steps")
    assert len(figures) == 3 and len(grids) == 2


def test_a_run_without_a_folder_evaluates_at_rounds_only(tmp_path, monkeypatch):
    rounds = []

    def measure(self, module, data, domain, settings):
        rounds.append((module.num_rounds, domain))
        return {}

    monkeypatch.setattr(Evaluation, "_measure", measure)
    evaluation = Evaluation(every_n_rounds=1, max_time_share=1.0)
    fit(tmp_path, evaluation, SplitTraining(), ClusteredFederation(every_n_epochs=3), epochs=7)
    domains = ("digits", "negatives")
    assert rounds == [(number, domain) for number in (1, 2, 3) for domain in domains]


def test_callbacks_that_wait_for_rounds_which_nobody_ends_are_named(tmp_path):
    with pytest.warns(UserWarning, match="Evaluation, RunFolder: no round ends unless"):
        fit(tmp_path, SplitTraining(), Evaluation(), RunFolder())
    assert (tmp_path / "run-1" / "plan.yaml").exists()
