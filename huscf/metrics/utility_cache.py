"""Downstream figures of real data kept on disk: they are the same for every run on those data."""

import hashlib
import json
import logging
from pathlib import Path

import torch

from ..cache_folder import default_cache_dir
from .classifier_training import ClassifierTraining
from .content_cache import add_samples, write_whole
from .downstream_utility import measure_downstream_utility
from .labelled_samples import LabelledSamples

logger = logging.getLogger(__name__)

# Part of every key: raise it when figures of old files would no longer be what we measure.
CACHE_FORMAT = 1


def load_downstream_utility(
    train: LabelledSamples,
    test: LabelledSamples,
    training: ClassifierTraining,
    seed: int,
    steps: int,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Return `measure_downstream_utility` from $HUSCF_CACHE, measured and stored there if need be.

    A file that is damaged, or not what its name says, is replaced; where none can be written, the
    figures are measured every time.

    Args:
        train: Real samples to train on.
        test: Real samples to test on.
        training: How the classifier is trained.
        seed: Of its initial weights and of the order of samples.
        steps: Optimiser steps.
        device: Where it is trained; None is where the samples are.
    """
    digest = hashlib.sha256(f"{CACHE_FORMAT} {training} {seed} {steps}".encode())
    for data in (train, test):
        add_samples(digest, data)
    key = digest.hexdigest()
    path = default_cache_dir() / f"utility-{key[:32]}.json"
    figures = _read(path, key)
    if figures is None:
        figures = measure_downstream_utility(train, test, training, seed, steps, device)
        _write(path, key, figures)
    return figures


def _read(path: Path, key: str) -> dict[str, float] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        figures = {str(name): float(value) for name, value in record["figures"].items()}
        is_ours = record["key"] == key and all(0 <= value <= 1 for value in figures.values())
        return figures if is_ours and "accuracy" in figures else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _write(path: Path, key: str, figures: dict[str, float]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"key": key, "figures": figures}).encode())
    except OSError as error:
        logger.warning("%s cannot be kept for the next time (%s)", path, error)
