"""Balanced sets of synthetic samples, drawn from clients."""

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..activity import doing
from ..datamodules.shapes import make_grey
from ..errors import HuscfError, make_printable
from ..randomness import make_generator
from ..training import SplitModule
from .saved_gan import SavedGAN, check_known

#: Names of classes and domains are cut to so many signs.
MAX_NAME = 100


@dataclass(frozen=True, eq=False)
class SampleSet:
    """Synthetic samples and where each comes from.

    Args:
        samples: (N, C, H, W) float32 in [-1, 1].
        labels: (N,) int64 class that was asked for.
        client: (N,) int64 client whose generator drew it.
        cluster: (N,) int64 cluster of that client.
        domain: N names of that client's domain, "" where it is not known.
        class_name: N names of the labels, as that domain calls them.
        seed: Of the noise.
    """

    samples: Tensor
    labels: Tensor
    client: Tensor
    cluster: Tensor
    domain: tuple[str, ...]
    class_name: tuple[str, ...]
    seed: int


def draw_sample_set(
    saved: SavedGAN,
    num_samples: int,
    clients: Sequence[int],
    classes: Sequence[int] | None = None,
    seed: int = 0,
) -> SampleSet:
    """Draw samples that are balanced over classes, and each class over clients, to within one.

    A class is drawn by those clients alone whose data may have it. Where these are all clients for
    every class, all samples together are balanced over clients too.

    Args:
        saved: The trained GAN; its state is not changed.
        num_samples: How many in all.
        clients: Who draws.
        classes: Which classes; None means all that one of these clients may have.
        seed: Of the noise.

    Raises:
        HuscfError: Where there is nothing to draw, a class does not exist, the seed has more than
            64 bits, or samples are NaN or Inf because training diverged.
    """
    if num_samples < 1:
        raise HuscfError(f"num_samples is {num_samples}, must be at least 1")
    if not -(2**63) <= seed < 2**63:  # which files of samples can hold
        raise HuscfError(f"seed is {seed}, must be from {-(2**63)} to {2**63 - 1}")
    module = saved.module
    known = list(range(max(saved.num_classes[c] for c in clients)))
    chosen = known if classes is None else sorted(set(classes))
    check_known(chosen, known, "class")
    labels, client = _share_out(saved, num_samples, clients, chosen)
    samples, cluster = torch.empty(num_samples, *_sample_size(module)), torch.empty_like(client)
    drawing = client.unique().tolist()
    for place, client_id in enumerate(drawing, 1):
        mine = client == client_id
        stream = make_generator(seed, "generate", client_id)
        with doing(f"drawing: client {place} of {len(drawing)}"):
            samples[mine] = module.sample(client_id, labels[mine], stream)
        if not samples[mine].isfinite().all():
            raise HuscfError(f"client {client_id} draws NaN or Inf: its training diverged")
        if saved.channels.get(client_id) == 1 < samples.shape[1]:
            samples[mine] = make_grey(samples[mine])
        cluster[mine] = module.clusters[client_id]
    pairs = list(zip(client.tolist(), labels.tolist(), strict=True))
    names = {pair: clip_name(saved.name_class(*pair)) for pair in set(pairs)}
    domain = tuple(clip_name(saved.domains.get(c, "")) for c, _ in pairs)
    named = tuple(names[pair] for pair in pairs)
    return SampleSet(samples, labels, client, cluster, domain, named, seed)


def clip_name(name: str) -> str:
    """Return a name out of a file so that it fits into a table and steers no terminal."""
    return make_printable(name.replace("\n", " "))[:MAX_NAME]


def _share_out(
    saved: SavedGAN, num_samples: int, clients: Sequence[int], chosen: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the class and the client, each (N,), of every sample."""
    turns = torch.arange(num_samples)
    labels = torch.tensor(chosen)[turns % len(chosen)]
    client = torch.empty_like(labels)
    for position, label in enumerate(chosen):
        able = torch.tensor([c for c in clients if label < saved.num_classes[c]])
        mine = turns[position :: len(chosen)]
        # Clients take turns over all samples; one step on after every period, in which a class
        # meets the same clients again.
        period = math.lcm(len(chosen), len(able))
        client[position :: len(chosen)] = able[(mine + mine // period) % len(able)]
    return labels, client


def check_empty(folder: Path) -> None:
    """Raise a HuscfError where a folder has files in it, is a file, or cannot be made."""
    if folder.is_file():
        raise HuscfError(f"output {folder}: is a file, needs to be a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise HuscfError(f"output {folder}: has files in it; nothing was written")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise HuscfError(f"output {folder}: cannot write below {there}")


def check_room(module: SplitModule, num_samples: int, folder: Path) -> None:
    """Raise a HuscfError where so many samples do not fit into memory or on the folder's disk.

    Counted is the least that they take: twice in memory, once as an archive.
    """
    size_bytes = num_samples * (4 * math.prod(_sample_size(module)) + 3 * 8)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    rooms = {"memory": (2 * size_bytes, _free_memory()), "disk": (size_bytes, _free_disk(there))}
    for name, (needed, free) in rooms.items():
        if needed > free:
            raise HuscfError(
                f"num_samples is {num_samples}: needs {needed / 1e9:.1f} GB of {name}, "
                f"{free / 1e9:.1f} GB are free; draw fewer at a time, with other seeds"
            )


def _free_memory() -> float:
    """Return the bytes that the system can give, infinity where it does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else math.inf


def _free_disk(folder: Path) -> float:
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else math.inf  # what is no disk has no size


def _sample_size(module: SplitModule) -> tuple[int, int, int]:
    shape = module.sample_shape
    return shape.channels, shape.image_size, shape.image_size
