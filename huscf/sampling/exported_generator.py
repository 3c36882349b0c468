"""A generator for those who have neither this package nor the run, in the forms of FORMATS."""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn

from ..datamodules.shapes import make_grey
from ..errors import HuscfError
from ..models import MAIN, Network
from ..training import SplitModule
from ..whole_files import replacing, write_text
from .export_formats import FORMATS, Exported, explaining, write_state
from .sample_set import check_empty
from .saved_gan import SavedGAN


def merge_cluster(module: SplitModule, members: Sequence[int]) -> Network:
    """Return the one generator that some clients have in common, as after a federation.

    Args:
        module: The trained root module.
        members: The clients, at least one.

    Raises:
        HuscfError: Where theirs differ: no client has, and nobody has tried, what the mean of their
            weights would be.
    """
    name, first = exported_name(module), members[0]
    for other in members[1:]:
        if not module.draws_alike(first, other):
            raise HuscfError(
                f"clients {first} and {other} have different generators, as within a round or "
                f"where a method lets clients keep their own: export one, with --client {first}, "
                "or a checkpoint of a round's end"
            )
    return copy.deepcopy(module.engine.sampling_network(name, first)).cpu().eval()


def export_generator(
    saved: SavedGAN,
    members: Sequence[int],
    output: Path,
    formats: Sequence[str] = (),
    card: str = "",
) -> dict[str, Path]:
    """Write a generator in one or more forms, each held against the original first.

    What is written takes noise (N, ...) float32 from N(0, 1) and labels (N,) int64, and returns
    (N, C, H, W) in [-1, 1]; safetensors and the state beside TorchScript are tensors by name.
    Members whose own data is grey get equal planes, as `draw_sample_set` gives them; the tensors
    are the network's alone. Methods that draw in steps are exported with all of them.

    Args:
        saved: The trained GAN.
        members: Clients that have it in common.
        output: A file, whose name without its ending all files have, or, without an ending, a new
            or empty folder.
        formats: Names of FORMATS; () takes the one of the output's ending, else TorchScript.
        card: Text that is written as README.md; "" leaves it out.

    Returns:
        The files by name of the form; "state" and "card" beside these.

    Raises:
        HuscfError: Where a file exists already, the folder does not, training diverged, members
            have different generators, a package is missing, or a file would not draw what the
            original does.
    """
    writers = {form: FORMATS[form][1] for form in choose_formats(output, formats)}
    files = name_files(output, formats)
    if not card:
        del files["card"]
    _check_free(files, output)
    exported = _prepare(saved, members)
    with ExitStack() as stack:
        folder = next(iter(files.values())).parent
        if not folder.exists():
            folder.mkdir()
            stack.callback(_remove_if_empty, folder)
        for form, path in files.items():
            partial = stack.enter_context(replacing(path))
            if form == "card":
                write_text(partial, card)
                continue
            with explaining(form):
                writers.get(form, write_state)(exported, partial)
    return files


def choose_formats(output: Path, formats: Sequence[str]) -> list[str]:
    """Return the forms that are wanted: those named, else the one of the output's ending."""
    if formats:
        return list(dict.fromkeys(formats))
    named = [form for form, (ending, _) in FORMATS.items() if ending == output.suffix]
    return named or ["torchscript"]


def name_files(output: Path, formats: Sequence[str]) -> dict[str, Path]:
    """Return the path of every file by form; "state" and "card" are among them."""
    forms = choose_formats(output, formats)
    is_folder = not output.suffix
    stem = output / "generator" if is_folder else output.with_suffix("")
    files = {form: stem.with_name(stem.name + FORMATS[form][0]) for form in forms}
    others = {ending for form, (ending, _) in FORMATS.items() if form != "torchscript"}
    if "torchscript" in files:
        if not is_folder and output.suffix not in others:
            files["torchscript"] = output
        files["state"] = stem.with_name(f"{stem.name}.state_dict.pt")
    name = "README.md" if is_folder else f"{stem.name}.README.md"
    return {**files, "card": stem.with_name(name)}


def _check_free(files: dict[str, Path], output: Path) -> None:
    if not output.suffix:
        check_empty(output)
    for path in files.values():
        if path.exists():
            raise HuscfError(f"output {path}: exists already; nothing was written")
    folder = output.parent
    if not folder.is_dir():
        raise HuscfError(f"output {output}: the folder {folder} does not exist")


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def _prepare(saved: SavedGAN, members: Sequence[int]) -> Exported:
    """Return the generator, and what is said of it."""
    module = saved.module
    network = merge_cluster(module, members)
    tensors = {name: t.detach().clone().contiguous() for name, t in network.state_dict().items()}
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise HuscfError("the generator holds NaN or Inf: its training diverged")
    sampler = module.method.make_sampler(network)
    if module.sample_shape.channels > 1 and all(saved.channels.get(c) == 1 for c in members):
        sampler = _GreyGenerator(sampler)
    noise = module.engine.example_inputs[exported_name(module)][MAIN]
    return Exported(sampler.eval(), tensors, tuple(noise.shape[1:]), _tell_facts(saved, members))


class _GreyGenerator(nn.Module):
    """The generator of clients whose own data is grey, in a run that has colour elsewhere."""

    def __init__(self, sampler: nn.Module) -> None:
        super().__init__()
        self.sampler = sampler

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return make_grey(self.sampler(noise, labels))


def exported_name(module: SplitModule) -> str:
    """Return the network that is exported.

    Raises:
        HuscfError: Where the method has none.
    """
    name = module.method.exported
    if name is None:
        raise HuscfError(
            f"{type(module.method).__name__} has no network that can be exported alone"
        )
    return name


def _tell_facts(saved: SavedGAN, members: Sequence[int]) -> dict[str, object]:
    module = saved.module
    shape = module.sample_shape
    return {
        "latent_dim": getattr(module.method, "latent_dim", None),
        "noise_shape": list(module.engine.example_inputs[exported_name(module)][MAIN].shape[1:]),
        "num_steps": getattr(module.method, "num_steps", None),
        "sample_shape": [shape.channels, shape.image_size, shape.image_size],
        "num_classes": shape.num_classes,
        "class_names": saved.class_names,
        "clients": list(members),
        "num_rounds": module.num_rounds,
        # How pictures become sound (huscf.datamodules.LogMel says what the numbers mean).
        "spectrogram": saved.spectrogram and asdict(saved.spectrogram),
    }
