"""The script of docs/python.md as printed, made small, and callbacks that lack others."""

import re
import subprocess
import sys
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer

from huscf.callbacks import (
    ClusteredFederation,
    FederationLog,
    RunFolder,
    RunReport,
    SampleGrid,
    SplitTraining,
)
from huscf.datamodules import DigitsDataModule
from huscf.errors import HuscfError
from huscf.models import ConditionalDiscriminator, ConditionalGenerator
from huscf.modules import SplitGAN
from tests.conftest import REPOSITORY

SMALL = {
    "width=16": "width=4",
    "steps_per_epoch=30": "steps_per_epoch=2",
    "max_epochs=12": "max_epochs=2",
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
def test_the_script_trains_draws_and_exports(tmp_path):
    guide = (REPOSITORY / "docs" / "python.md").read_text()
    script = re.search(r"```python\n(.*?)```", guide, re.DOTALL).group(1)
    for long, short in SMALL.items():
        assert long in script
        script = script.replace(long, short)
    (tmp_path / "train.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (
        "torch.Size([100, 1, 8, 8]) tensor([10, 10, 10, 10, 10, 10, 10, 10, 10, 10])" in done.stdout
    )
    generator = torch.jit.load(tmp_path / "generator.pt")
    assert generator(torch.randn(3, 100), torch.arange(3)).shape == (3, 1, 8, 8)
    run = tmp_path / "runs" / "digits-1"
    assert len((run / "federation.csv").read_text().splitlines()) == 1 + 2 * 8
    assert len((run / "metrics.csv").read_text().splitlines()) == 1 + 2
    assert (run / "checkpoints" / "last.ckpt").exists()


def fit(tmp_path, *callbacks):
    data = DigitsDataModule(
        clients_per_domain=1, batch_size=8, samples_per_client=24, steps_per_epoch=1
    )
    module = SplitGAN(
        data.sample_shape,
        data.batch_sizes,
        data.client_sizes,
        generator=partial(ConditionalGenerator, width=4),
        discriminator=partial(ConditionalDiscriminator, width=4),
    )
    Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
        callbacks=[SplitTraining(), *callbacks],
    ).fit(module, datamodule=data)
    return module


def test_a_page_needs_a_configuration_and_is_left_out_without_one(tmp_path):
    module = fit(tmp_path, ClusteredFederation(), SampleGrid(), RunFolder(), RunReport())
    assert module.num_rounds == 1
    assert not (tmp_path / "run-1" / "report.html").exists()


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([ClusteredFederation, SampleGrid], "need huscf.callbacks.RunFolder"),
        ([RunFolder, ClusteredFederation], "need RunFolder after ClusteredFederation"),
        ([FederationLog, RunFolder], "ClusteredFederation before FederationLog"),
        ([FederationLog, ClusteredFederation, RunFolder], "ClusteredFederation before"),
    ],
)
def test_callbacks_that_lack_others_say_so(tmp_path, callbacks, message):
    with pytest.raises(HuscfError, match=message):
        fit(tmp_path, *(make() for make in callbacks))
