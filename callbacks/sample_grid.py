"""Pictures, and sounds, of what the clients generate: one row per class, one file per domain."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional

from ..datamodules import LogMel
from ..errors import HuscfError
from ..metrics.labelled_samples import to_uint8
from ..modules import SplitGAN
from ..randomness import make_generator
from .run_folder import RunFolder


class SampleGrid(Callback):
    """Draws every domain's samples with fixed noise, so that progress is visible.

    Rows are classes; the columns are shared out over the domain's clients in turn. Where samples
    are spectrograms, a WAV of the first column stands beside the picture.

    Args:
        every_n_rounds: How often; 0 only at the end of the run.
        num_columns: Samples per class.
        min_pixels: Small samples are enlarged to at least so many pixels a side.
    """

    def __init__(
        self, every_n_rounds: int = 5, num_columns: int = 12, min_pixels: int = 32
    ) -> None:
        if every_n_rounds < 0 or num_columns < 1:
            raise HuscfError("samples: every_n_rounds must be >= 0 and num_columns >= 1")
        self.every_n_rounds = every_n_rounds
        self.num_columns = num_columns
        self.min_pixels = min_pixels

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw after every n-th round's federation."""
        assert isinstance(pl_module, SplitGAN)
        round_ended = bool(pl_module.round_metrics)
        if round_ended and self.every_n_rounds and pl_module.num_rounds % self.every_n_rounds == 0:
            self._write(trainer, pl_module, f"round-{pl_module.num_rounds:04d}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last state."""
        assert isinstance(pl_module, SplitGAN)
        self._write(trainer, pl_module, "final")

    def _write(self, trainer: Trainer, module: SplitGAN, suffix: str) -> None:
        from torchvision.utils import save_image

        run = RunFolder.of(trainer)
        assert run.path is not None
        folder = run.path / "samples"
        folder.mkdir(exist_ok=True)
        data = trainer.datamodule  # type: ignore[attr-defined]
        for domain in data.domains.values():
            members = [c for c, name in data.client_domains.items() if name == domain.name]
            grid = draw_grid(module, members, domain.num_classes, self.num_columns)
            scale = max(1, -(-self.min_pixels // grid.shape[-1]))
            large = functional.interpolate(grid, scale_factor=scale, mode="nearest")
            path = folder / f"{domain.name}-{suffix}.png"
            save_image(large, path, nrow=self.num_columns, normalize=True, value_range=(-1, 1))
            if data.spectrogram is not None:
                first_column = grid[:: self.num_columns]
                write_sounds(path.with_suffix(".wav"), first_column, data.spectrogram)


def write_sounds(path: Path, samples: Tensor, spectrogram: LogMel) -> None:
    """Write samples one after the other as one WAV, a quarter of a second apart.

    Args:
        path: The file.
        samples: (N, 1, S, S) spectrograms in [-1, 1].
        spectrogram: How they become sound.
    """
    import soundfile

    waves = spectrogram.invert(to_uint8(samples))
    spaced = functional.pad(waves, (0, spectrogram.sample_rate // 4))
    soundfile.write(path, spaced.flatten().numpy(), spectrogram.sample_rate, "PCM_16")


def draw_grid(module: SplitGAN, members: list[int], num_classes: int, num_columns: int) -> Tensor:
    """Return (num_classes * num_columns, C, H, W) samples, class by class.

    Args:
        module: The root module.
        members: Clients; column j is drawn by the j-th of them, in turn.
        num_classes: Number of rows.
        num_columns: Number of columns.
    """
    columns = []
    labels = torch.arange(num_classes)
    for column in range(num_columns):
        stream = make_generator(module.seed, "sample grid", column)
        columns.append(module.sample(members[column % len(members)], labels, stream))
    return torch.stack(columns, dim=1).flatten(0, 1)
