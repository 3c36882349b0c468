"""A weights file in the layout of the trained Inception network, whose own cannot be had here."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


def write_inception(path: Path) -> Path:
    """Save the state of an untrained network; its activations keep their scale through depth."""
    empty = path.with_suffix(".empty")
    torch.save({}, empty)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        # The constructor knows no network without weights.
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(empty))
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), path)
    return path
