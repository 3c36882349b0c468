"""The embedded quickstart data: scikit-learn's real handwritten digits, two domains."""

import torch

from .domain import Domain
from .federated_datamodule import FederatedDataModule


class DigitsDataModule(FederatedDataModule):
    """Handwritten digits of 8x8 pixels as they are, and the same as photographic negatives.

    The data comes with scikit-learn: nothing is downloaded. Of its 1,797 images every fifth
    of each class is held out for testing (the split is the same for both domains). The
    argument root is not used.
    """

    def load_domains(self) -> list[Domain]:
        """Return the domains "digits" and "negatives"."""
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        samples = torch.from_numpy(images).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
        targets = torch.from_numpy(labels).long()
        held_out = _every_fifth_of_each_class(targets)
        return [
            Domain(
                name,
                pixels[~held_out],
                targets[~held_out],
                pixels[held_out],
                targets[held_out],
                class_names=tuple("0123456789"),
            )
            for name, pixels in (("digits", samples), ("negatives", 255 - samples))
        ]


def _every_fifth_of_each_class(labels: torch.Tensor) -> torch.Tensor:
    """Mark (N,) positions whose rank within their class is 5, 10, 15, ..."""
    one_hot = torch.nn.functional.one_hot(labels)
    rank = (one_hot.cumsum(0) * one_hot).sum(1)
    return rank % 5 == 0
