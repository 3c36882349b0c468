"""The whole generator that a site has at the end of a run whose server hands it out."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..checkpoint_io import SafeCheckpointIO
from ..engines import SerialEngine
from ..training import FORMAT
from .site_samples import SiteData

#: The file's name, beside the site's half.
GENERATOR = "generator.ckpt"


def write_generator(
    engine: SerialEngine, own: SiteData, said: Mapping[str, Any], folder: Path
) -> Path:
    """Write what `huscf generate` and `huscf export` need, and nothing else of the run.

    Args:
        engine: Whose clients draw as the site's do.
        own: The site's data, for names and sizes.
        said: What the server has said: method, seed, rounds and step.
        folder: Where the file is written.
    """
    drawn = set(engine.list_drawn())
    tensors = {f"parties.{n}": t for n, t in engine.parties.state_dict().items() if n in drawn}
    huscf = {
        "format": FORMAT,
        "method": type(engine.method).__name__,
        "engine": engine.get_state(),
        "num_rounds": int(said["rounds"]),
        "torch_rng": torch.Generator().get_state(),  # of none of the site's streams
        "draws_only": True,
    }
    seed = int(said["seed"])
    config = {
        "seed_everything": seed,
        "model": {"method": said["method"], "seed": seed},
        "run": {"share_generator": True},
    }
    content = {
        "state_dict": tensors,
        "huscf": huscf,
        "huscf_config": config,
        "huscf_data": {"sample_shape": asdict(engine.shape), **_describe_data(own)},
        "global_step": int(said["step"]),
    }
    SafeCheckpointIO().save_checkpoint(content, folder / GENERATOR)
    return folder / GENERATOR


def _describe_data(own: SiteData) -> dict[str, Any]:
    """Return names and sizes of the site's data, under the numbers of its clients in the run."""
    domains = {client.client_id: client.domain for client in own.clients}
    channels = own.data.client_channels
    by_domain = {c.domain.name: channels[c.client_id] for c in own.data.clients}
    return {
        "class_names": list(own.data.common_class_names),
        "num_classes": {c: domain.num_classes for c, domain in domains.items()},
        "channels": {c: by_domain[domain.name] for c, domain in domains.items()},
        "domains": {c: domain.name for c, domain in domains.items()},
        "domain_class_names": {name: list(d.class_names) for name, d in own.domains.items()},
        "spectrogram": own.spectrogram and asdict(own.spectrogram),
    }
