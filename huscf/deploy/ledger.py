"""How many private steps or rounds a party has counted, on disk before anything of them leaves."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..engines import PrivateAverages
from ..engines.private.budget import RecordBudget
from ..errors import CheckpointError
from ..whole_files import replacing

_NAME = "privacy.json"


class Ledger:
    """Keeps counts that no crash takes back, as saved halves would.

    Args:
        folder: Of the party's half; made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / _NAME

    def write(self, state: dict[str, Any]) -> None:
        """Replace what is kept; it is on the disk when this returns.

        A larger count stays: a process whose place another has taken may count once more.
        """
        steps, known = dict(state["private_steps"]), self._read() or {"private_steps": {}}
        for client_id, count in known["private_steps"].items():
            steps[client_id] = max(count, steps.get(client_id, 0))
        _write(self.path, {**state, "private_steps": steps})

    def check_kept(self, half: Mapping[str, Any]) -> None:
        """Refuse to go on from a half whose later steps nobody knows any more.

        Args:
            half: State of a budget, as the half has it.

        Raises:
            CheckpointError: Where it has counted steps, and nothing is kept.
        """
        if any(half.get("private_steps", {}).values()) and not self.path.exists():
            raise CheckpointError(
                f"{self.path} is missing, so that nobody knows how many private steps were taken "
                "since the half was saved: bring it back, or train anew"
            )

    def read_into(self, budget: RecordBudget) -> None:
        """Let a budget go on from what is kept, if anything is.

        Raises:
            CheckpointError: Where it is damaged, or of other clients, noise or batches.
        """
        if (known := self._read()) is None:
            return
        if known["private_steps"].keys() - budget.num_steps.keys():
            raise self._complain()
        budget.set_state(known)

    def _read(self) -> dict[str, Any] | None:
        """Return what is kept, if anything is."""
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
            return {
                "private_steps": _read_counts(known["private_steps"]),
                "private_noise": float(known["private_noise"]),
                "private_batches": _read_counts(known["private_batches"]),
            }
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._complain() from error

    def _complain(self) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is damaged, so that nobody knows how many private steps were taken: "
            "train anew"
        )


class RoundLedger:
    """Keeps how many noised averages a server has made, as Ledger keeps steps.

    Args:
        folder: Of the server's half.
        averages: What counts them.
    """

    def __init__(self, folder: Path, averages: PrivateAverages) -> None:
        self.path, self.averages = folder / "private_rounds.json", averages

    def begin(self) -> None:
        """Keep the count; from now on a round is on the disk before its average leaves."""
        self.averages.keep = self._write
        self._write()

    def read(self) -> None:
        """Let the averages of a run that goes on count from what is kept.

        Raises:
            CheckpointError: Where it is missing, damaged or of other noise.
        """
        counted = self.averages
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
            count, noise = known["rounds"], known["noise_multiplier"]
            if not (type(count) is int and count >= 0 and math.isfinite(noise)):
                raise ValueError("no count and noise")
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{self.path} is missing, so that nobody knows how many noised averages were "
                "handed out since the half was saved: bring it back, or train anew"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.path} is damaged, so that nobody knows how many noised averages were "
                "handed out: train anew"
            ) from error
        if noise != counted.options.noise_multiplier:
            raise CheckpointError(
                f"federation.privacy.noise_multiplier is {counted.options.noise_multiplier:g}, and "
                f"the rounds in {self.path} had {noise:g}: keep that, or train anew"
            )
        counted.num_rounds = max(counted.num_rounds, count)

    def _write(self) -> None:
        noise = self.averages.options.noise_multiplier
        _write(self.path, {"rounds": self.averages.num_rounds, "noise_multiplier": noise})


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file of JSON; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("x", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())


def _read_counts(values: dict[str, Any]) -> dict[int, int]:
    counts = {int(client_id): int(count) for client_id, count in values.items()}
    if any(count < 0 for count in counts.values()):
        raise ValueError("a negative count")
    return counts
