"""Pictures, sounds and the configuration of a run for loggers of Lightning's, as each can.

A package such as tensorboard or mlflow is imported by its logger alone, which the user has chosen.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from ..nested_values import flatten


def send_config(logger: Logger, config: Mapping[str, Any]) -> None:
    """Log a run's configuration as hyper-parameters, one a dotted key.

    Args:
        logger: Any.
        config: Plain values.
    """
    values = {
        key: value if isinstance(value, int | float | str | bool) else str(value)
        for key, value in flatten(config).items()
    }
    logger.log_hyperparams(values)


def send_media(logger: Logger, media: Mapping[str, Path], step: int, number: int) -> None:
    """Log pictures and sounds; a logger that knows neither is left alone.

    Args:
        logger: TensorBoard and W&B show them by step or round, MLflow keeps the files.
        media: PNG and WAV files by name, as samples/digits.
        step: Steps of all clients so far.
        number: Rounds so far.
    """
    if isinstance(logger, TensorBoardLogger):
        for name, path in media.items():
            _add_to_tensorboard(logger.experiment, name, path, step)
    elif isinstance(logger, MLFlowLogger):
        for name, path in media.items():
            logger.experiment.log_artifact(logger.run_id, str(path), name.rpartition("/")[0])
    elif isinstance(logger, WandbLogger):
        from .wandb_media import make_media

        shown = {name: make_media(path) for name, path in media.items()}
        logger.experiment.log({"round": number, **shown})


def _add_to_tensorboard(writer: Any, name: str, path: Path, step: int) -> None:
    if path.suffix == ".wav":
        import soundfile

        samples, rate = soundfile.read(path, dtype="float32")
        writer.add_audio(name, samples[None], step, sample_rate=rate)
        return
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    writer.add_image(name, pixels, step, dataformats="HWC")
