"""FID and KID with Inception features, where weights and torch-fidelity are at hand."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import NoTrainInceptionV3
from torchmetrics.utilities.imports import _TORCH_FIDELITY_AVAILABLE

from ..errors import HuscfError
from .frechet_distance import FrechetDistance
from .kernel_distance import KernelDistance
from .labelled_samples import check_samples, to_uint8

NUM_FEATURES = 2048


def load_inception(weights_path: Path, antialias: bool) -> nn.Module:
    """Return torchmetrics' Inception feature extractor with weights from a local file.

    Nothing is downloaded, and no other network takes Inception's place.

    Args:
        weights_path: torch-fidelity's `pt_inception-2015-12-05-6726825d.pth`.
        antialias: How pictures are resized to 299 pixels: True is torchmetrics' default since 1.8,
            False is the original TensorFlow resizing, on which published figures rest.

    Raises:
        HuscfError: Where torch-fidelity or the file is missing, or the file does not fit.
    """
    if not _TORCH_FIDELITY_AVAILABLE:
        raise HuscfError("Inception distances need torch-fidelity: pip install torch-fidelity")
    if not Path(weights_path).is_file():
        raise HuscfError(
            f"no Inception weights at {weights_path}: give the path of torch-fidelity's "
            "pt_inception-2015-12-05-6726825d.pth"
        )
    try:
        return NoTrainInceptionV3(
            name="inception-v3-compat",
            features_list=[str(NUM_FEATURES)],
            feature_extractor_weights_path=str(weights_path),
            antialias=antialias,
        )
    # What a foreign or truncated file raises is not stated: unpickling fails in many ways.
    except Exception as error:
        raise HuscfError(
            f"{weights_path} does not hold Inception weights ({type(error).__name__})"
        ) from error


@torch.no_grad()
def inception_distances(
    extractor: nn.Module, real: Tensor, synthetic: Tensor, batch_size: int = 50
) -> dict[str, float]:
    """Return "fid" and "kid" of synthetic against real pictures.

    Features are extracted once for both, and the KID is exact over all pairs, where torchmetrics'
    own averages random subsets; the FID is the same as torchmetrics'.

    Args:
        extractor: From `load_inception`.
        real: (N, C, H, W) uint8 or float in [-1, 1], C being 1 or 3, N >= 2.
        synthetic: (M, C, H, W), likewise.
        batch_size: Pictures in memory at 299 pixels at a time.

    Raises:
        HuscfError: Where samples are malformed or too few.
    """
    frechet, kernel = FrechetDistance(NUM_FEATURES), KernelDistance()
    for samples, is_real in ((real, True), (synthetic, False)):
        check_samples(samples)
        for features in _extract(extractor, samples.split(batch_size)):
            frechet.update(features, real=is_real)
            kernel.update(features, real=is_real)
    return {"fid": frechet.compute().item(), "kid": kernel.compute().item()}


def _extract(extractor: nn.Module, batches: Iterable[Tensor]) -> Iterable[Tensor]:
    for batch in batches:
        pictures = to_uint8(batch)
        if pictures.shape[1] not in (1, 3):
            raise HuscfError(f"Inception sees 1 or 3 channels, samples have {pictures.shape[1]}")
        yield extractor(pictures.expand(-1, 3, -1, -1)).cpu()
