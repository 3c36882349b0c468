"""A generator for those who have neither this package nor the run: TorchScript and plain state."""

import copy
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoint_io import write_tensors
from ..datamodules.shapes import make_grey
from ..errors import HuscfError
from ..models import MAIN, Carry, Network
from ..training import SplitModule
from ..whole_files import replacing
from .saved_gan import SavedGAN


def merge_cluster(module: SplitModule, members: Sequence[int]) -> Network:
    """Return one generator for some clients: what they have in common, else their mean.

    After a federation the members of a cluster are equal; within a round they have drifted
    apart, and the mean over members stands for what the next federation would make of them.

    Args:
        module: The trained root module.
        members: The clients, at least one.
    """
    name = _exported_name(module)
    networks = [module.engine.sampling_network(name, client) for client in members]
    merged = copy.deepcopy(networks[0]).cpu()
    states = [network.state_dict() for network in networks]
    mean = {}
    for name, first in states[0].items():
        values = [state[name].cpu() for state in states]
        alike = all(torch.equal(values[0], value) for value in values[1:])
        is_kept = alike or not first.is_floating_point()
        mean[name] = values[0] if is_kept else torch.stack(values).mean(0)
    merged.load_state_dict(mean)
    return merged.eval()


def export_generator(saved: SavedGAN, members: Sequence[int], output: Path) -> tuple[Path, Path]:
    """Write a generator as TorchScript, and its tensors by name beside it.

    `torch.jit.load(output)(noise, labels)` takes noise (N, latent_dim) float32 from N(0, 1) and
    labels (N,) int64, and returns (N, C, H, W) in [-1, 1]. Members whose own data is grey get equal
    planes, as `draw_sample_set` gives them; the tensors are the network's alone.

    Args:
        saved: The trained GAN.
        members: Clients whose generators are merged.
        output: The TorchScript file; <stem>.state_dict.pt is written beside it.

    Returns:
        The two files.

    Raises:
        HuscfError: Where a file exists already, the folder does not, or training diverged.
    """
    state_file = output.with_name(f"{output.stem}.state_dict.pt")
    for path in (output, state_file):
        if path.exists():
            raise HuscfError(f"output {path}: exists already; nothing was written")
    if not output.parent.is_dir():
        raise HuscfError(f"output {output}: the folder {output.parent} does not exist")
    network = merge_cluster(saved.module, members)
    if not all(t.isfinite().all() for t in network.state_dict().values()):
        raise HuscfError("the generator holds NaN or Inf: its training diverged")
    sampled: nn.Module = network
    if saved.module.sample_shape.channels > 1 and all(saved.channels.get(c) == 1 for c in members):
        sampled = _GreyGenerator(network)
    script = _trace(sampled, saved.module.engine.example_inputs[_exported_name(saved.module)])
    extra = _extra_files(saved, members)
    with replacing(output) as partial:
        partial.write_bytes(script.save_to_buffer(_extra_files=extra))
        with replacing(state_file) as partial_state:
            write_tensors(_plain_state(network), partial_state)
    return output, state_file


class _GreyGenerator(nn.Module):
    """The generator of clients whose own data is grey, in a run that has colour elsewhere."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return make_grey(self.network(noise, labels))


def _exported_name(module: SplitModule) -> str:
    name = module.method.exported
    if name is None:
        raise HuscfError(
            f"{type(module.method).__name__} has no network that can be exported alone"
        )
    return name


def _trace(network: nn.Module, example: Carry) -> torch.jit.ScriptModule:
    """Trace a generator, and check that the trace holds for other numbers of samples too."""
    noise = example[MAIN].shape[1:]
    inputs, others = (
        (torch.randn(count, *noise), torch.zeros(count, dtype=torch.long)) for count in (2, 5)
    )
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
        # Deviation: torch recommends torch.export, whose files other versions may not read.
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*")
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # the check below sees the effect
        try:
            script = torch.jit.trace(network, inputs, check_trace=False)
            torch.testing.assert_close(script(*others), network(*others))
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0]
            raise HuscfError(f"this generator cannot be exported: {reason}") from error
    assert isinstance(script, torch.jit.ScriptModule)
    return script


def _extra_files(saved: SavedGAN, members: Sequence[int]) -> dict[str, str]:
    shape = saved.module.sample_shape
    facts = {
        "latent_dim": getattr(saved.module.method, "latent_dim", None),
        "sample_shape": [shape.channels, shape.image_size, shape.image_size],
        "num_classes": shape.num_classes,
        "class_names": saved.class_names,
        "clients": list(members),
        "num_rounds": saved.module.num_rounds,
        # How pictures become sound (huscf.datamodules.LogMel says what the numbers mean).
        "spectrogram": saved.spectrogram and asdict(saved.spectrogram),
    }
    return {"huscf.json": json.dumps(facts)}


def _plain_state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}
