"""A network as an ordered list of blocks that no cut divides."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..errors import HuscfError


@dataclass(frozen=True)
class SampleShape:
    """What one sample looks like, shared by all clients of a run.

    Args:
        channels: Colour planes: 1 for grey pictures and spectrograms, 3 for colour.
        image_size: Height and width in pixels (samples are square).
        num_classes: Number of labels; labels run from 0 to num_classes - 1.
    """

    channels: int
    image_size: int
    num_classes: int

    def __post_init__(self) -> None:
        for name in ("channels", "image_size", "num_classes"):
            if getattr(self, name) < 1:
                raise HuscfError(f"sample shape: {name} is {getattr(self, name)}, must be >= 1")


class Network(nn.ModuleList):
    """An ordered list of blocks; the first takes (input, labels), every other one tensor.

    A block is the smallest unit that a cut may not divide, for instance layer + norm +
    activation. State keys begin with the block's index, so the state of any run of blocks is
    named like the full network's.

    Args:
        blocks: The blocks in forward order.

    Raises:
        HuscfError: For layers that cannot be copied, as every client needs them.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__(blocks)
        for index, block in enumerate(self):
            hooks = (h for m in block.modules() for h in m._forward_pre_hooks.values())
            if any(isinstance(hook, (SpectralNorm, WeightNorm)) for hook in hooks):
                raise HuscfError(
                    f"block {index}: torch.nn.utils.spectral_norm and weight_norm make layers that "
                    "cannot be copied: use those of torch.nn.utils.parametrizations"
                )

    def __getitem__(self, index: int | slice) -> nn.Module:  # type: ignore[override]
        """Return one block, or a slice as a network of its own."""
        if isinstance(index, slice):
            return Network(list(self)[index])
        return super().__getitem__(index)

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Run all blocks, uncut.

        Args:
            inputs: Noise (B, latent_dim) or samples (B, C, H, W).
            labels: (B,) int64.
        """
        return run_blocks(self, inputs, labels)


def run_blocks(blocks: Iterable[nn.Module], inputs: Tensor, labels: Tensor | None = None) -> Tensor:
    """Pass inputs through consecutive blocks.

    Args:
        blocks: Consecutive blocks of one network.
        inputs: Input of the first of them, (B, ...).
        labels: (B,) int64 if the first of them is the network's first block, else None.
    """
    for block in blocks:
        inputs = block(inputs) if labels is None else block(inputs, labels)
        labels = None
    return inputs


def initialize_weights(network: nn.Module, std: float) -> None:
    """Draw every layer's weights from N(0, std); biases 0, norms 1 and 0, embeddings N(0, 1).

    Embeddings keep unit variance: at 0.02 the samples ignore their labels.

    Args:
        network: Changed in place; uses torch's global random stream.
        std: Standard deviation of the weights; 0.02 is DCGAN's.
    """
    weighted = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Conv1d, nn.ConvTranspose1d)
    for module in network.modules():
        if isinstance(module, weighted):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
