"""Judges kept on disk: a domain's classifier is trained once and found again by its content."""

import hashlib
import io
import logging
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..activity import doing
from ..cache_folder import default_cache_dir
from ..errors import HuscfError
from .class_scores import measure_label_accuracy
from .classifier_training import ClassifierTraining, private_training, train_classifier
from .content_cache import add_samples, as_buffer, write_whole
from .domain_classifier import DomainClassifier
from .labelled_samples import LabelledSamples, RealData

logger = logging.getLogger(__name__)

# Part of every key: raise it when judges of old files would no longer be what we train.
CACHE_FORMAT = 1


@dataclass(frozen=True)
class JudgeSettings:
    """How a domain's judge is built and trained.

    Args:
        width: Channels of its first convolution.
        num_features: Width of its feature layer.
        normalize: Whether batch norm follows its layers.
        seed: Of its initial weights and of the order of samples.
        training: How long; the default takes some 50 s for MNIST on two cores.
    """

    width: int = 24
    num_features: int = 128
    normalize: bool = True
    seed: int = 0
    training: ClassifierTraining = field(
        default_factory=lambda: ClassifierTraining(
            epochs=40, max_samples_seen=300_000, learning_rate=3e-3, one_cycle=True
        )
    )

    @classmethod
    def plain(cls) -> "JudgeSettings":
        """Return settings of the downstream classifier's network and the paper's 15 epochs.

        On large sets it is surer of itself than the default, and less often right, so that
        scores are higher. The paper's compare with them (docs/evaluation.md).
        """
        return cls(width=32, normalize=False, training=ClassifierTraining(epochs=15))


def load_judge(
    real: RealData,
    settings: JudgeSettings | None = None,
    cache_dir: Path | None = None,
    device: torch.device | None = None,
) -> DomainClassifier:
    """Return the judge of a domain from the cache, trained and stored there first if need be.

    A file that is damaged, or not what its name says, is replaced by a newly trained judge. A
    folder that cannot be written will do where it has the judge.

    Args:
        real: The domain's data; the accuracy on its test split is stored with the judge.
        settings: None means JudgeSettings().
        cache_dir: None means $HUSCF_CACHE, or ~/.cache/huscf where that is not set.
        device: Where the judge is and is trained; None is where the data are.

    Raises:
        HuscfError: Where a judge has to be trained and the folder cannot be written.
    """
    settings = settings or JudgeSettings()
    device = device or real.train.samples.device
    key = content_hash(real, settings)
    folder = cache_dir or default_cache_dir()
    path = folder / f"judge-{key[:32]}.pt"
    if os.path.exists(path):  # Path.exists would raise for a folder that may not be entered
        judge = _read(path, key, real.train, settings, device)
        if judge is not None:
            return judge
    _check_writable(folder)
    with doing("training the judge", is_once=True):
        judge = train_judge(real, settings, device)
    try:
        _write(path, key, judge)
    except OSError as error:
        logger.warning("the judge cannot be kept in %s (%s) for the next time", folder, error)
    return judge


def train_judge(
    real: RealData, settings: JudgeSettings, device: torch.device | None = None
) -> DomainClassifier:
    """Return a newly trained judge in evaluation mode, its test accuracy measured.

    Args:
        real: The domain's data.
        settings: How.
        device: Where; None is where the data are.
    """
    with private_training(settings.seed):
        judge = _build(real.train, settings).to(device or real.train.samples.device)
        train_classifier(judge, real.train, settings.training)
    judge.requires_grad_(False)
    judge.test_accuracy = measure_label_accuracy(
        judge.inspect(real.test).probabilities, real.test.labels.to(judge.device)
    )
    return judge


def content_hash(real: RealData, settings: JudgeSettings) -> str:
    """Return the SHA-256, in hex, of all that makes a judge and its accuracy what they are."""
    digest = hashlib.sha256(f"{CACHE_FORMAT} {settings}".encode())
    for data in (real.train, real.test):
        add_samples(digest, data)
    return digest.hexdigest()


def _build(data: LabelledSamples, settings: JudgeSettings) -> DomainClassifier:
    return DomainClassifier(
        data.shape, data.num_classes, settings.width, settings.num_features, settings.normalize
    )


def _check_writable(folder: Path) -> None:
    """Make the folder before minutes of training are spent on what cannot be stored."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HuscfError(
            f"cache folder {folder} cannot be made ({error}); set HUSCF_CACHE"
        ) from error
    if not os.access(folder, os.W_OK):
        raise HuscfError(f"cache folder {folder} cannot be written; set HUSCF_CACHE")


def _write(path: Path, key: str, judge: DomainClassifier) -> None:
    """Write a judge's file.

    Raises:
        OSError: Where it cannot be written.
    """
    state = {name: tensor.cpu().contiguous() for name, tensor in judge.state_dict().items()}
    record = {
        "key": key,
        "state": state,
        "content_hash": _record_hash(state, judge.test_accuracy),
        "test_accuracy": judge.test_accuracy,
    }
    content = io.BytesIO()
    torch.save(record, content)
    write_whole(path, content.getbuffer())


def _read(
    path: Path, key: str, train: LabelledSamples, settings: JudgeSettings, device: torch.device
) -> DomainClassifier | None:
    """Return the stored judge, or say why not and return None."""
    reason = "is damaged"
    # A damaged file may fail anywhere in unpickling, with errors of many types.
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
        found = _record_hash(record["state"], record["test_accuracy"])
        if (record["key"], record["content_hash"]) == (key, found):
            judge = _restore(record, train, settings, device)
            if judge is not None:
                return judge
    except PermissionError:
        reason = "is not yours to read"
    except Exception:
        pass
    logger.warning("%s %s; the judge is trained again", path, reason)
    return None


def _restore(
    record: dict[str, Any], train: LabelledSamples, settings: JudgeSettings, device: torch.device
) -> DomainClassifier | None:
    accuracy = float(record["test_accuracy"])
    if not math.isfinite(accuracy):
        return None
    with private_training(settings.seed):
        judge = _build(train, settings)
    judge.load_state_dict(record["state"])
    judge.test_accuracy = accuracy
    # As training leaves it: convolutions of a small judge are then twice as fast on a CPU.
    judge.to(device).to(memory_format=torch.channels_last)
    return judge.eval().requires_grad_(False)


def _record_hash(state: dict[str, Tensor], test_accuracy: float) -> str:
    digest = hashlib.sha256(repr(test_accuracy).encode())
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(as_buffer(tensor))
    return digest.hexdigest()
