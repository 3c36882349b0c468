"""The text of a first configuration."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from ..nested_values import to_yaml
from .folders import Found

#: Kinds of data of one's own.
KINDS = ("folder", "medical", "audio")

_HEAD = Template("""\
# $what, written by huscf init.
#   huscf check-data --config $output     # what a run would read, and how samples look
#   huscf fit --config $output            # train: 600 steps, minutes on two cores
# All keys: huscf fit --help. Options of the data: docs/datamodules.md
seed_everything: 0

data:
  class_path: huscf.datamodules.$datamodule
  init_args:
    root: $root # relative to where huscf is started$found_root
    # A domain each: a folder with one subfolder per class, or a CSV with the columns path and
    # label, and if there are: client, patient, split. Nobody tells the server which is which.
    sources:
$sources
    $classes # the only ones, in order of their numbers$found_classes
""")

_PICTURES = Template("""\
    image_size: $image_size # 64 shows more, and a step takes four times as long$found_image_size
    channels: null # colour where there is any; 1 makes all grey$found_channels
""")

_MEDICAL = Template("""\
    window: null # [0, 4095] shows 0 as black and 4095 as white; null is the file's own
    frames: $frames # of files with several pictures: refuse, first, middle, all, or a number
    axis: axial # along which volumes are sliced: axial, coronal, sagittal
    keep_patients: true # all of a patient on one side of the split, and with one client
""")

_SOUND = Template("""\
    spectrogram:
      sample_rate: $sample_rate # all are resampled to it$found_sample_rate
      duration_s: $duration_s # longer ones are cut, shorter ones end in silence$found_duration_s
      size: 32 # 64 sounds clearer, and a step takes four times as long
    mixed_rates: $mixed_rates # false: files that differ from the most frequent rate are bad
""")

_TAIL = Template("""\
    clients_per_domain: $clients_per_domain # or a number for each
$partitioner    batch_size: 32 # samples of a client in a step; one that has fewer takes all
    steps_per_epoch: 10
    on_bad_data: $on_bad_data # fatal stops at what cannot be read, skip goes on$found_on_bad_data

model:
  method:
    class_path: huscf.methods.HuscfGan # others: docs/methods.md
    init_args:
      generator:
        class_path: huscf.models.ConditionalGenerator
        init_args: {width: 16} # channels; 32 and 64 are better and slower
      discriminator:
        class_path: huscf.models.ConditionalDiscriminator
$discriminator      generator_lr: 0.001
      discriminator_lr: 0.001
  plan:
    # Blocks that a client holds of its generator (head, tail) and discriminator (head, tail); the
    # server has the others. Clients take the profiles in turn.
    class_path: huscf.split.ProfilePlan
    init_args:
      profiles:
        small: [1, 1, 1, 1]
        large: [2, 2, 2, 2]

federation:
  every_n_epochs: 5 # a round: 50 steps, then clusters and averages

samples:
  every_n_rounds: 4 # pictures in runs/$name-<n>/samples

run:
  name: $name

trainer:
  max_epochs: 60 # 12 rounds
""")

#: What measured best of each kind of data (docs/ablations.md).
_DISCRIMINATORS = {
    "folder": """\
        init_args:
          width: 16
          conditioning: both # labels enter in front and at the end
          minibatch_std: true # samples of a label that are all alike are found out
      augmentation: # each client shifts samples while its discriminator learns its own by heart
        policies: [translation]
        strength: 0
        adaptive: true
""",
    "medical": """\
        init_args: {width: 16, minibatch_std: true} # samples of a label all alike are found out
""",
    "audio": """\
        init_args: {width: 16} # to try: minibatch_std, conditioning, shifts (docs/ablations.md)
""",
}

_BY_KEY = """\
    partitioner: {class_path: huscf.datamodules.NaturalIdPartitioner} # the CSV's column client
"""
_AT_RANDOM = """\
    partitioner: {class_path: huscf.datamodules.IidPartitioner} # equal parts, at random
"""


def fill(kind: str, found: Found, name: str, output: Path) -> str:
    """Return the configuration.

    Args:
        kind: One of KINDS.
        found: What is known of the data.
        name: Of runs.
        output: Where it will stand, for its comments.
    """
    options = found.options
    what = {"audio": "Recordings", "medical": "Medical pictures"}.get(kind, "Pictures")
    values: dict[str, Any] = {
        "what": f"{what} of {' '.join(found.root.split())}",
        "output": shlex.quote(str(output)),
        "datamodule": "AudioFolderDataModule" if kind == "audio" else "FolderDataModule",
        "root": _scalar(found.root),
        "sources": "\n".join(
            f"      {_scalar(domain)}: {_scalar(place)}" for domain, place in found.sources.items()
        ),
        "classes": _write_classes(options.get("classes")),
        "name": _scalar(name),
        "image_size": options.get("image_size", 32),
        "frames": options.get("frames", "refuse"),
        "clients_per_domain": options.get("clients_per_domain", 2),
        "discriminator": _DISCRIMINATORS[kind],
        "partitioner": _BY_KEY if options.get("by_key") else _AT_RANDOM,
        "on_bad_data": options.get("on_bad_data", "fatal"),
        "mixed_rates": str(options.get("mixed_rates", False)).lower(),
        **options.get("spectrogram", {"sample_rate": 8000, "duration_s": 0.64}),
    }
    parts = [_HEAD, _SOUND if kind == "audio" else _PICTURES, _TAIL]
    if kind == "medical" or "frames" in options:
        parts.insert(2, _MEDICAL)
    return "".join(part.substitute(_Notes(values, found.notes)) for part in parts)


def _write_classes(names: list[str] | None) -> str:
    """Return the key with its list in one line, or an example as a comment."""
    if names is None:
        return "# classes: [a, b]"
    line = to_yaml(names, allow_unicode=True, width=1 << 30, default_flow_style=True)
    return f"classes: {line.strip()}"


class _Notes(dict[str, Any]):
    """Values, and behind "found_" what was found, as the end of a comment or nothing."""

    def __init__(self, values: Mapping[str, Any], notes: Mapping[str, str]) -> None:
        super().__init__(values)
        self._notes = notes

    def __missing__(self, key: str) -> str:
        note = " ".join(self._notes.get(key.removeprefix("found_"), "").split())
        return f"; found: {note}" if note else ""


def _scalar(text: str) -> str:
    """Return text as it stands in YAML, in quotes where it needs some."""
    line = to_yaml(text, allow_unicode=True, width=1 << 30)
    return line.removesuffix("\n").removesuffix("\n...")
