"""What a card is about: the files beside it, how they are read, whose they are."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import HuscfError
from ..models import MAIN
from ..sampling import SampleSet, SavedGAN
from ..sampling.exported_generator import exported_name

#: What a licence's name looks like, as hubs know them: mit, cc-by-4.0, other.
LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,39}")
UNKNOWN_LICENCE = "unknown"
LOAD_SAMPLES = """\
import numpy as np

with np.load("samples.npz") as archive:
    samples, labels = archive["samples"], archive["labels"]  # (N, C, H, W) and (N,)
    domains, classes = archive["domain"], archive["class"]  # names, (N,) each"""


@dataclass(frozen=True)
class CardFacts:
    """What a card is about beside the run.

    Args:
        kind: What lies beside the card.
        title: The card's heading.
        members: Clients whose generators are in it.
        files: Name and content of each file.
        use: Code that reads them.
        licence: Name of a licence, as hubs know it.
        num_samples: How many samples there are; 0 for a model.
    """

    kind: Literal["samples", "model"]
    title: str
    members: Sequence[int]
    files: Sequence[tuple[str, str]]
    use: str
    licence: str = UNKNOWN_LICENCE
    num_samples: int = 0


def describe_samples(drawn: SampleSet, saved: SavedGAN, licence: str) -> CardFacts:
    """Return what a card says of the files of `write_sample_set`."""
    kind, ending = ("pictures", "png") if saved.spectrogram is None else ("recordings", "wav")
    files = [
        (f"DOMAIN/CLASS/NUMBER.{ending}", f"{kind}; where domains are not known, by cluster"),
        ("manifest.csv", "file, domain, cluster, class, label, client and seed of each"),
        ("samples.npz", "the same columns, and the samples as numbers in [-1, 1]"),
        ("DOMAIN.png", "some of each class, a row each"),
    ]
    if saved.spectrogram is not None:
        files.append(("index.html", "some of each class to listen to"))
    members = drawn.client.unique().tolist()
    title = f"Synthetic {kind}: {', '.join(sorted({*drawn.domain} - {''})) or 'all clusters'}"
    return CardFacts("samples", title, members, files, LOAD_SAMPLES, licence, len(drawn.labels))


#: What a card says of a form of file, and how it is read.
FORMS = {
    "torchscript": (
        "TorchScript: noise and labels in, samples out; needs PyTorch alone",
        """\
import torch

generator = torch.jit.load("{name}")
samples = generator(torch.randn(8, {noise}), torch.arange(8) % {classes})""",
    ),
    "onnx": (
        "ONNX: noise and labels in, samples out",
        """\
import numpy as np
import onnxruntime

generator = onnxruntime.InferenceSession("{name}")
noise = np.random.randn(8, {noise}).astype("float32")
(samples,) = generator.run(None, {{"noise": noise, "labels": np.arange(8) % {classes}}})""",
    ),
    "pt2": (
        "torch.export: noise and labels in, samples out; for PyTorch of the same version or newer",
        """\
import torch

generator = torch.export.load("{name}").module()
samples = generator(torch.randn(8, {noise}), torch.arange(8) % {classes})""",
    ),
    "safetensors": (
        "the network's tensors by name",
        """\
from safetensors.torch import load_file

tensors = load_file("{name}")""",
    ),
    "state": ("the same network's tensors by name, for torch.load", ""),
}


def describe_model(
    files: Mapping[str, Path], saved: SavedGAN, members: Sequence[int], licence: str
) -> CardFacts:
    """Return what a card says of the files of `export_generator`."""
    module = saved.module
    noise = module.engine.example_inputs[exported_name(module)][MAIN].shape[1:]
    size = ", ".join(map(str, noise))
    classes = module.sample_shape.num_classes
    shown = [(path.name, FORMS[form][0]) for form, path in files.items() if form in FORMS]
    first = next(form for form in FORMS if form in files)
    use = FORMS[first][1].format(name=files[first].name, noise=size, classes=classes)
    use += "  # (8, C, H, W) in [-1, 1]" if first != "safetensors" else ""
    domains = sorted({saved.domains.get(client, "") for client in members} - {""})
    title = f"Generator: {', '.join(domains) or 'one cluster'}"
    return CardFacts("model", title, members, shown, use, licence)


def check_licence(name: str) -> str:
    """Return a licence's name as hubs write it.

    Raises:
        HuscfError: Where it is none.
    """
    if not LICENCE.fullmatch(lower := name.strip().lower()):
        raise HuscfError(f"--license {name!r:.60}: give a name such as mit, cc-by-4.0 or other")
    return lower
