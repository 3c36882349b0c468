"""The forms of file in which a generator is exported, each checked before it counts as written."""

import importlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint_io import write_tensors
from ..errors import HuscfError

#: Numbers of samples on which a file is held against the generator: first traced with, then other.
COUNTS = (2, 5)


@dataclass(frozen=True)
class Exported:
    """A generator on its way into files.

    Args:
        sampler: Noise (N, ...) and labels (N,) in, samples (N, C, H, W) out; in evaluation mode.
        tensors: Of the network, by name.
        noise_size: What one sample's noise looks like, such as (latent_dim,).
        facts: What is said of it inside of files, as JSON.
    """

    sampler: nn.Module
    tensors: Mapping[str, Tensor]
    noise_size: tuple[int, ...]
    facts: Mapping[str, Any]

    def examples(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield noise and labels for each of COUNTS, always the same."""
        stream = torch.Generator().manual_seed(0)
        for count in COUNTS:
            noise = torch.randn(count, *self.noise_size, generator=stream)
            yield noise, torch.arange(count) % int(self.facts["num_classes"])

    def check(self, draw: Callable[[Tensor, Tensor], Tensor], tolerance: float = 1e-5) -> None:
        """Raise an AssertionError where a file does not draw what the generator does."""
        for noise, labels in self.examples():
            wanted = self.sampler(noise, labels)
            torch.testing.assert_close(draw(noise, labels), wanted, rtol=1e-3, atol=tolerance)


def write_torchscript(exported: Exported, path: Path) -> None:
    """Write a trace, for `torch.jit.load`."""
    # Deviation: torch recommends torch.export, whose files other versions may not read.
    script = torch.jit.trace(exported.sampler, next(exported.examples()), check_trace=False)
    assert isinstance(script, torch.jit.ScriptModule)
    exported.check(script)
    path.write_bytes(script.save_to_buffer(_extra_files={"huscf.json": json.dumps(exported.facts)}))
    exported.check(torch.jit.load(path))


def write_state(exported: Exported, path: Path) -> None:
    """Write the network's tensors by name, for `torch.load`."""
    write_tensors(dict(exported.tensors), path)


def write_safetensors(exported: Exported, path: Path) -> None:
    """Write the network's tensors by name as safetensors."""
    safetensors = _import("safetensors.torch", "export")
    metadata = {"format": "pt", "huscf": json.dumps(exported.facts)}
    path.write_bytes(safetensors.save(dict(exported.tensors), metadata))
    read = safetensors.load_file(path)
    assert read.keys() == exported.tensors.keys()
    assert all(torch.equal(read[name], exported.tensors[name]) for name in read)


def write_program(exported: Exported, path: Path) -> None:
    """Write a program of torch.export, for any number of samples."""
    program = _export(exported)
    with path.open("xb") as file:
        torch.export.save(program, file, extra_files={"huscf.json": json.dumps(exported.facts)})
    with path.open("rb") as file:
        exported.check(torch.export.load(file).module())


def write_onnx(exported: Exported, path: Path) -> None:
    """Write ONNX, for any number of samples; onnxruntime tries it."""
    for name in ("onnx", "onnxscript"):
        _import(name, "onnx")
    runtime = _import("onnxruntime", "onnx")
    write: Any = torch.onnx.export  # whose annotations know the old exporter
    program = write(
        _export(exported),
        input_names=["noise", "labels"],
        output_names=["samples"],
        external_data=False,
        verbose=False,
    )
    program.model.metadata_props["huscf"] = json.dumps(exported.facts)
    program.save(path, external_data=False)
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def draw(noise: Tensor, labels: Tensor) -> Tensor:
        (samples,) = session.run(None, {"noise": noise.numpy(), "labels": labels.numpy()})
        return torch.from_numpy(samples)

    exported.check(draw, tolerance=1e-4)


#: Name of the form, ending of its file, and who writes it.
FORMATS: dict[str, tuple[str, Callable[[Exported, Path], None]]] = {
    "torchscript": (".pt", write_torchscript),
    "safetensors": (".safetensors", write_safetensors),
    "pt2": (".pt2", write_program),
    "onnx": (".onnx", write_onnx),
}


@contextmanager
def explaining(form: str) -> Iterator[None]:
    """Silence what exporters say, and raise a HuscfError with the reason where one fails."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecations, and tracers' guesses: files are tried
            yield
    except (HuscfError, OSError):
        raise
    except Exception as error:  # exporters raise whatever their parts do
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"this generator cannot be exported as {form}: {lines[0]:.200}"
        raise HuscfError(reason) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _export(exported: Exported) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    shapes = ({0: batch}, {0: batch})
    return torch.export.export(
        exported.sampler, next(exported.examples()), dynamic_shapes=shapes, strict=False
    )


def _import(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise HuscfError(
            f"--format needs the package {package}: pip install 'huscf[{extra}]'"
        ) from error
