"""Where parties live, and how what they hold gets from one process to another."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..errors import HuscfError
from ..federation import mix_states
from ..wire import PartyId

State = Mapping[str, Tensor]


class Processes:
    """The processes of a run, as far as a round's end sees them; here one, which holds everything.

    Every process calls the same methods in the same order. The server is in all of them.
    """

    def holds(self, party: PartyId) -> bool:
        """Return whether this process has a party's tensors."""
        return True

    def mix(
        self, parties: Sequence[PartyId], states: Sequence[State], matrix: Tensor
    ) -> list[dict[str, Tensor] | None]:
        """Return weighted means over copies of a block, as `mix_states` does, in every process.

        Args:
            parties: Who holds each copy.
            states: Of copies that are not here anything.
            matrix: (C, C), alike everywhere.
        """
        return mix_states(states, matrix)

    def agree(self, parties: Sequence[PartyId], flags: Sequence[bool]) -> list[bool]:
        """Return for every party what the process says that holds it."""
        return list(flags)

    def raise_together(self, error: HuscfError | None) -> None:
        """Raise in every process what stops any of them, before they wait for each other."""
        if error is not None:
            raise error

    def carry(self, sender: PartyId, receiver: PartyId, state: State) -> State:
        """Return what a party sends where its receiver is; elsewhere nothing.

        Args:
            sender: Who sends.
            receiver: Who gets it.
            state: What is sent; where the sender is not, anything.
        """
        return state

    def add_up(self, counts: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Return what all processes have counted, summed by client."""
        return dict(counts)
