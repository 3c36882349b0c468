"""Where a party keeps its half of a run: the two newest of its saves."""

import io
import os
import re
from pathlib import Path
from typing import Any

import torch

from ..checkpoint_io import read_checkpoint
from ..errors import CheckpointError
from ..whole_files import write_bytes


class Folder:
    """Saved halves by step.

    Args:
        path: Made when something is saved.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, step: int, half: dict[str, Any], last: bool = False) -> None:
        """Save a half, and keep the one before it.

        Args:
            step: After so many steps.
            half: Tensors and plain values.
            last: Whether it is last.ckpt too.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(half, content)
        write_bytes(self.file(step), content.getvalue())
        if last:
            link = self.path / "last.ckpt.partial"
            link.unlink(missing_ok=True)
            try:
                os.link(self.file(step), link)
            except OSError:  # no hard links there
                write_bytes(self.path / "last.ckpt", content.getvalue())
            else:
                os.replace(link, self.path / "last.ckpt")
        for old in self.steps()[:-2]:
            self.file(old).unlink()

    def steps(self) -> list[int]:
        """Return the steps of what is saved, ascending."""
        matches = (re.fullmatch(r"step-(\d+)\.ckpt", p.name) for p in self.path.glob("step-*.ckpt"))
        return sorted(int(match[1]) for match in matches if match)

    def file(self, step: int) -> Path:
        """Return the file of a step."""
        return self.path / f"step-{step:09d}.ckpt"

    def newest_until(self, step: int) -> int | None:
        """Return the newest step that is not after another, or None where there is none."""
        return max((own for own in self.steps() if own <= step), default=None)

    def read(self, step: int) -> dict[str, Any]:
        """Read a half as tensors and plain values.

        Raises:
            CheckpointError: Where it is damaged.
        """
        half = read_checkpoint(self.file(step))
        if not isinstance(half["huscf"].get("site", {}), dict):
            raise CheckpointError(f"checkpoint {self.file(step)}: not a half of a run")
        return half

    def forget_after(self, step: int) -> None:
        """Remove what was saved after a step: the server goes on from there."""
        for later in self.steps():
            if later > step:
                self.file(later).unlink()
