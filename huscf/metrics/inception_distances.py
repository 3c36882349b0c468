"""FID and KID with Inception features, where weights and torch-fidelity are at hand."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import NoTrainInceptionV3
from torchmetrics.utilities.imports import _TORCH_FIDELITY_AVAILABLE

from ..errors import HuscfError, check_count
from ..models import to_uint8
from ..user_paths import expand_path
from .frechet_distance import compare_features
from .kernel_distance import measure_kernel_distance
from .labelled_samples import LabelledSamples, check_samples

WEIGHTS_NAME = "weights-inception-2015-12-05-6726825d.pth"


@dataclass(frozen=True)
class InceptionFeatures:
    """FID and KID by the Inception network, with weights from a file of your own.

    Nothing is downloaded, and no other network takes Inception's place.

    Args:
        weights: Path of torch-fidelity's weights-inception-2015-12-05-6726825d.pth.
        antialias: How pictures are resized to 299 pixels: False is the original TensorFlow
            resizing, on which published figures rest; True is torchmetrics' default since 1.8.
        max_samples: Synthetic, and real test, pictures that are compared; more are thinned at
            random. One takes about 0.15 s of a CPU core. FIDs of different numbers cannot be
            compared.
    """

    weights: str
    antialias: bool = False
    max_samples: int = 5_000

    def __post_init__(self) -> None:
        check_count("inception.max_samples", self.max_samples, 2)

    @cached_property
    def extractor(self) -> nn.Module:
        """The network, loaded when first used; see `load_inception`.

        Raises:
            HuscfError: Where it cannot be loaded.
        """
        return load_inception(expand_path(self.weights), self.antialias)

    def extract(self, data: LabelledSamples) -> Tensor:
        """Return the features, (N, 2048) on the CPU, of samples in 1 or 3 channels."""
        return extract_inception(self.extractor, data.samples)


def load_inception(weights_path: Path, antialias: bool) -> nn.Module:
    """Return torchmetrics' Inception feature extractor with weights from a local file.

    Args:
        weights_path: torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`.
        antialias: See InceptionFeatures.

    Raises:
        HuscfError: Where torch-fidelity or the file is missing, or the file does not fit.
    """
    if not _TORCH_FIDELITY_AVAILABLE:
        raise HuscfError("Inception distances need torch-fidelity: pip install torch-fidelity")
    if not Path(weights_path).is_file():
        raise HuscfError(
            f"no Inception weights at {weights_path}: give the path of torch-fidelity's "
            f"{WEIGHTS_NAME}; nothing is downloaded, and no other network takes its place"
        )
    try:
        # torch-fidelity itself would run code that a pickle holds.
        torch.load(weights_path, map_location="cpu", weights_only=True)
        network = NoTrainInceptionV3(
            name="inception-v3-compat",
            features_list=["2048"],
            feature_extractor_weights_path=str(weights_path),
            antialias=antialias,
        )
    # What a foreign or truncated file raises is not stated: unpickling fails in many ways.
    except Exception as error:
        raise HuscfError(
            f"{weights_path} does not hold Inception weights ({type(error).__name__})"
        ) from error
    return network.to(memory_format=torch.channels_last)


def measure_inception_distances(
    extractor: nn.Module, real: Tensor, synthetic: Tensor, batch_size: int = 50
) -> dict[str, float]:
    """Return "fid" and "kid" of synthetic against real pictures.

    Args:
        extractor: From `load_inception`.
        real: (N, C, H, W) uint8 or float in [-1, 1], C being 1 or 3, N >= 2.
        synthetic: (M, C, H, W), likewise.
        batch_size: Pictures in memory at 299 pixels at a time.

    Raises:
        HuscfError: Where samples are malformed or too few.
    """
    features = [extract_inception(extractor, samples, batch_size) for samples in (real, synthetic)]
    return compare_inception(*features)


@torch.no_grad()
def compare_inception(real: Tensor, synthetic: Tensor) -> dict[str, float]:
    """Return "fid" and "kid" of (N, D) and (M, D) features.

    The KID is exact over all pairs, where torchmetrics' own averages random subsets; the FID is
    the same as torchmetrics'.
    """
    return {
        "fid": compare_features(real, synthetic),
        "kid": measure_kernel_distance(real, synthetic).item(),
    }


@torch.no_grad()
def extract_inception(extractor: nn.Module, samples: Tensor, batch_size: int = 50) -> Tensor:
    """Return features, (N, D) on the CPU, of (N, C, H, W) samples; extractor where they are.

    Raises:
        HuscfError: Where samples are malformed or not of 1 or 3 channels.
    """
    check_samples(samples)
    if samples.shape[1] not in (1, 3):
        raise HuscfError(f"Inception sees 1 or 3 channels, samples have {samples.shape[1]}")
    pictures = to_uint8(samples).expand(-1, 3, -1, -1)
    extractor.to(samples.device)
    return torch.cat([extractor(batch).cpu() for batch in pictures.split(batch_size)])
