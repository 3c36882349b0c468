"""FID and KID with Inception features, where weights and torch-fidelity are at hand."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import NoTrainInceptionV3
from torchmetrics.utilities.imports import _TORCH_FIDELITY_AVAILABLE

from ..errors import HuscfError
from .frechet_distance import FrechetDistance
from .kernel_distance import measure_kernel_distance
from .labelled_samples import check_samples, to_uint8


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
        # torch-fidelity itself would run code that a pickle holds.
        torch.load(weights_path, map_location="cpu", weights_only=True)
        return NoTrainInceptionV3(
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


@torch.no_grad()
def measure_inception_distances(
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
    features = _extract(extractor, real, batch_size), _extract(extractor, synthetic, batch_size)
    frechet = FrechetDistance(features[0].shape[1])
    frechet.update(features[0], real=True)
    frechet.update(features[1], real=False)
    return {
        "fid": frechet.compute().item(),
        "kid": measure_kernel_distance(*features).item(),
    }


def _extract(extractor: nn.Module, samples: Tensor, batch_size: int) -> Tensor:
    check_samples(samples)
    if samples.shape[1] not in (1, 3):
        raise HuscfError(f"Inception sees 1 or 3 channels, samples have {samples.shape[1]}")
    pictures = to_uint8(samples).expand(-1, 3, -1, -1)
    return torch.cat([extractor(batch).cpu() for batch in pictures.split(batch_size)])
