"""Pictures, and sounds, of what the clients generate: one row per class, one file per domain."""

import io
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional

from ..datamodules import LogMel
from ..datamodules.shapes import make_grey
from ..errors import check_number
from ..models import to_uint8
from ..randomness import make_generator
from ..sampling.picture_grid import draw_picture_grid
from ..training import RoundResult, SplitModule
from ..whole_files import write_bytes
from .base import RoundCallback
from .run_folder import RunFolder

#: A sample that is enlarged to more than this a side fills no screen, and the memory.
MAX_PIXELS = 4096


class SampleGrid(RoundCallback):
    """Draws every domain's samples with fixed noise, so that progress is visible.

    Rows are classes, with their names; the columns are shared out over the domain's clients in
    turn. Where samples are spectrograms, a WAV of the first column stands beside the picture.

    Args:
        every_n_rounds: How often; 0 only at the end of the run.
        num_columns: Samples per class.
        min_pixels: Small samples are enlarged to at least so many pixels a side.
    """

    def __init__(
        self, every_n_rounds: int = 5, num_columns: int = 12, min_pixels: int = 32
    ) -> None:
        check_number("samples.every_n_rounds", every_n_rounds)
        check_number("samples.num_columns", num_columns, 1)
        check_number("samples.min_pixels", min_pixels, 0, MAX_PIXELS)
        self.every_n_rounds = every_n_rounds
        self.num_columns = num_columns
        self.min_pixels = min_pixels

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a run without a folder."""
        RunFolder.of(trainer, self)

    def on_round_end(self, trainer: Trainer, module: SplitModule, result: RoundResult) -> None:
        """Draw after every n-th round's federation."""
        if self.every_n_rounds and result.number % self.every_n_rounds == 0:
            self._write(trainer, module, f"round-{result.number:04d}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last state."""
        assert isinstance(pl_module, SplitModule)
        self._write(trainer, pl_module, "final")

    def _write(self, trainer: Trainer, module: SplitModule, suffix: str) -> None:
        run = RunFolder.of(trainer, self)
        assert run.path is not None
        folder = run.path / "samples"
        folder.mkdir(exist_ok=True)
        data = trainer.datamodule  # type: ignore[attr-defined]
        for domain in data.domains.values():
            members = [c for c, name in data.client_domains.items() if name == domain.name]
            grid = draw_grid(module, members, domain.num_classes, self.num_columns)
            if data.client_channels[members[0]] == 1 < grid.shape[1]:
                grid = make_grey(grid)
            path = folder / f"{domain.name}-{suffix}.png"
            rows = to_uint8(grid).split(self.num_columns)
            names = domain.class_names or [str(label) for label in range(domain.num_classes)]
            write_bytes(path, draw_picture_grid(rows, names, self.min_pixels))
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
    content = io.BytesIO()  # soundfile's own error does not say that a disk is full
    wave = spaced.flatten().numpy()
    soundfile.write(content, wave, spectrogram.sample_rate, "PCM_16", format="WAV")
    write_bytes(path, content.getvalue())


def draw_grid(
    module: SplitModule, members: list[int], num_classes: int, num_columns: int
) -> Tensor:
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
