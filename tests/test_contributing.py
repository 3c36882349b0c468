"""Every example of CONTRIBUTING.md is saved as printed, and trains a round through the real CLI."""

import csv
import re

import pytest

from huscf.__main__ import main
from tests.conftest import REPOSITORY

GUIDE = (REPOSITORY / "CONTRIBUTING.md").read_text()
FILES = {
    name: text
    for text, name in re.findall(
        r"```(?:python|yaml)\n(# (my_\w+\.(?:py|yaml))\n.*?)```", GUIDE, re.DOTALL
    )
}
OVERLAYS = [name for name in FILES if name.endswith(".yaml")]


def fit(tmp_path, monkeypatch, overlays, options=()):
    """Train a round of two steps; return its row of metrics.csv."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    code = main(
        [
            "fit",
            *("--config", str(REPOSITORY / "configs" / "quickstart.yaml")),
            *(f"--config={tmp_path / overlay}" for overlay in overlays),
            "--trainer.max_epochs=1",
            "--trainer.limit_train_batches=2",
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
            f"--trainer.default_root_dir={tmp_path / 'runs'}",
            "--evaluation.every_n_rounds=-1",
            "--data.init_args.batch_size=8",
            "--data.init_args.clients_per_domain=2",
            "--report.enabled=false",
            *options,
        ]
    )
    assert code == 0
    (path,) = tmp_path.glob("runs/*/metrics.csv")
    (row,) = csv.DictReader(path.read_text().splitlines())
    return row


def test_every_python_file_has_an_overlay():
    assert len(OVERLAYS) == 5
    assert sorted(FILES) == sorted(OVERLAYS + [f"{name[:-5]}.py" for name in OVERLAYS])


def test_the_method_trains_alike_by_both_engines(tmp_path, monkeypatch):
    losses = []
    for engine in ("stacked", "serial"):
        (tmp_path / engine).mkdir()
        options = [f"--model.engine={engine}"]
        row = fit(tmp_path / engine, monkeypatch, ["my_method.yaml"], options)
        losses.append(float(row["train/encoder+decoder_loss"]))
        assert 0 < losses[-1] < 4  # squared differences of values in [-1, 1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_network_trains(tmp_path, monkeypatch):
    row = fit(tmp_path, monkeypatch, ["my_network.yaml"])
    assert float(row["train/generator_loss"]) > 0
    assert float(row["traffic/mbytes"]) > 0


def test_rules_wire_and_callback_train_together(tmp_path, monkeypatch):
    row = fit(tmp_path, monkeypatch, ["my_rules.yaml", "my_wire.yaml", "my_callback.yaml"])
    assert float(row["federation/num_clusters"]) == 2
    assert float(row["mine/uplink_mbytes"]) > 0
    assert float(row["train/discriminator_loss"]) > 0
