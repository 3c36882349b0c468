"""Small runs under differential privacy, and what they leave behind."""

import csv
from pathlib import Path

import torch

from tests.test_security import MINI


def enter(folder, monkeypatch, overlay):
    """Work in a folder where `command` finds its configurations."""
    monkeypatch.chdir(folder)
    Path("mini.yaml").write_text(MINI)
    Path("private.yaml").write_text(overlay)
    return folder


def command(*options):
    return ["fit", "--config", "mini.yaml", "--config", "private.yaml", *options]


def read_rows(run):
    with (Path("runs") / run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def read_tensors(run):
    saved = torch.load(Path("runs") / run / "checkpoints" / "last.ckpt", weights_only=True)
    return saved["state_dict"]
