"""A client whose batch has as many records as were drawn, and as many fakes as always."""

import torch
from torch import Tensor
from torch.nn import functional

from ...methods import Pass
from ...models import Carry
from ...parties import Client


class PrivateClient(Client):
    """Gives passes without records a fixed number of samples, and every record one of those.

    So nothing that a pass without records does depends on how many records were drawn. Which of
    its samples goes with which record is drawn too, without regard to the records, so that the
    others keep theirs where one is missing.

    Attributes:
        record_free: Names of private tensors that touch no record.
        expected_size: Mean number of records of a batch; samples of passes without records.
        free_passes: Names of the step's passes without records.
    """

    record_free: frozenset[str] = frozenset()
    expected_size = 1
    free_passes: frozenset[str] = frozenset()

    def count_rows(self, item: Pass) -> int:
        """Return how many samples a pass has in this step."""
        return self.expected_size if item.name in self.free_passes else self.num_rows

    def fill_batch(
        self, samples: Tensor, labels: Tensor, most: int, stream: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw partners for a batch's records; return it filled up to the expected number.

        Args:
            samples: (B, C, H, W); there may be none.
            labels: (B,).
            most: Records of the client.
            stream: Of this client and step.
        """
        self.draw_partners(len(labels), most, stream)
        missing = max(0, self.expected_size - len(labels))
        filled = functional.pad(samples, (0, 0) * (samples.ndim - 1) + (0, missing))
        return filled, functional.pad(labels, (0, missing))

    def draw_partners(self, num_records: int, most: int, stream: torch.Generator) -> None:
        """Draw for each record of a batch the sample without records that goes with it.

        Args:
            num_records: Of the batch; a batch without any has one row that does not count.
            most: Records of the client.
            stream: Of this client and step.
        """
        self.is_counted = num_records > 0
        self.num_rows = max(1, num_records)
        rounds = -(-most // self.expected_size)
        drawn = torch.randperm(rounds * self.expected_size, generator=stream)
        self.partners = drawn[: self.num_rows] % self.expected_size

    def view(self, item: Pass) -> Carry:
        """Return the private tensors as a pass is given them; free ones see no record's."""
        free = {
            n: t[: self.expected_size] for n, t in self.private.items() if n in self.record_free
        }
        if item.name in self.free_passes:
            return free
        return {n: t[: self.num_rows] for n, t in self.private.items()} | self._pair(free)

    def view_outputs(self, item: Pass) -> dict[str, Carry]:
        """Return what earlier passes wrote, as a pass is given it."""
        if item.name in self.free_passes:
            return self.outputs
        return {
            name: self._pair(written) if name in self.free_passes else written
            for name, written in self.outputs.items()
        }

    def _pair(self, free: Carry) -> Carry:
        return {name: tensor[self.partners.to(tensor.device)] for name, tensor in free.items()}
