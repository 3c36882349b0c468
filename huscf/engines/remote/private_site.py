"""A site's part of differential privacy of its records: it clips them and adds its own noise."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import HuscfError
from ...methods import Pass, Phase
from ...parties import Client
from ...randomness import make_generator, make_wide_rng
from ...split import ClientPlan
from ...wire import SERVER, Message
from ...wire.frames import FrameError, TensorSpec
from ..private.budget import RecordBudget
from ..private.checks import check_private, check_samplewise, reads_records
from ..private.client import PrivateClient
from ..private.clipping import Reading, add_noise, clip_client
from .expected import open_frame
from .protocol import Ask
from .site import SiteHalf


class PrivateSiteHalf(SiteHalf):
    """Holds the clients of one site, whose records are private.

    Args:
        *args: As of SiteHalf.
        budget: Counts the steps of this site's clients, whatever the server counts.
        noise_seed: Of this site's noise and of what goes with which record; only it may know.
        **kwargs: As of SiteHalf.
    """

    def __init__(self, *args: Any, budget: RecordBudget, noise_seed: int, **kwargs: Any) -> None:
        self.budget, self.noise_seed = budget, noise_seed
        super().__init__(*args, **kwargs)
        # Whatever the server has checked: epsilon says nothing where a batch's records are mixed.
        phase = check_private(self.method, budget.options, "stop")
        check_samplewise(self.method, self.networks, self.shape, phase)
        if self.comparison.shown != "nothing":
            raise HuscfError(
                f"the server compares clients {self.comparison.explain()}, which tells of records, "
                "and the run was said to be private"
            )
        for wire in self.wires.values():
            wire.kinds |= {"norms"}

    def make_client(self, entry: ClientPlan, averaged: tuple[str, ...]) -> Client:
        """Return a client."""
        client = PrivateClient(entry, self.networks, averaged)
        client.record_free = self.method.record_free
        client.expected_size = self.batch_sizes[entry.client_id]
        return client

    def client(self, client_id: int) -> PrivateClient:
        """Return one client."""
        client = super().client(client_id)
        assert isinstance(client, PrivateClient)
        return client

    def begin_step(self, client_ids: Sequence[int]) -> None:
        """Count a step, whatever becomes of it.

        Raises:
            HuscfError: Where it would exceed this site's budget; nothing of it has left then.
        """
        if not self.budget.allows(client_ids):
            raise HuscfError(
                f"privacy: epsilon is {self.budget.epsilon():.4g}, and another step would exceed "
                f"this site's {self.budget.options.max_epsilon:g}: it takes part no longer"
            )
        self.budget.count(client_ids)

    def fill_batch(
        self, client_id: int, batch: tuple[Tensor, Tensor], step: int
    ) -> tuple[Tensor, Tensor]:
        """Return a client's batch, filled up to the expected number of records."""
        client = self.client(client_id)
        client.free_passes, client.noted = Reading.of(self.method, self.method.phases(step))
        stream = make_generator(self.noise_seed, "partners of records", client_id, step)
        return client.fill_batch(*batch, self.budget.client_sizes[client_id], stream)

    def begin_phases(self, client_ids: Sequence[int], step: int, ask: Ask) -> None:
        """Tell the server how many records clients have drawn, where it gets anything of them."""
        told = [c for c in client_ids if self._uses_server(c, self.plan.networks)]
        if told:
            ask(
                "records",
                {"step": step, "counts": [[c, self.client(c).num_rows] for c in told]},
                {},
            )

    def count_rows(self, client_id: int, item: Pass) -> int:
        """Return how many samples a client's pass has."""
        return self.client(client_id).count_rows(item)

    def end_passes(self, client_id: int, phase: Phase, place: Mapping[str, int], ask: Ask) -> None:
        """Clip what each record adds, at the client and, by telling it factors, at the server."""
        if not reads_records(self.method, phase):
            return
        client, told = self.client(client_id), []  # type: PrivateClient, list[str]
        place = {"client": client_id, **place}

        def ask_server() -> Tensor | None:
            if not self._uses_server(client_id, phase.trains):
                return None
            spec = TensorSpec(torch.float32, (client.num_rows,))
            answer = ask("norms", place, {})
            told.extend(answer.names)
            if not told:
                return None
            wire = self.wires[client_id]
            squares = open_frame(answer, wire, "norms", {"squares": spec})["squares"]
            if bool((squares < 0).any()):
                raise FrameError("the server's squared norms of records are negative")
            return squares

        factors = clip_client(client, phase, self.budget.options, ask_server)
        if told:
            content = {"factors": factors}
            message = Message(client_id, SERVER, "norms", phase.name, content)
            ask("norms", place, self.wires[client_id].depart(message))

    def finish_gradients(self, client_id: int, phase: Phase, step: int) -> None:
        """Add noise to a client's gradients."""
        if reads_records(self.method, phase):
            client = self.client(client_id)
            rng = make_wide_rng(self.noise_seed, "noise of privacy", step, client_id)
            scales = dict.fromkeys(client.parameters(), 1 / client.expected_size)
            add_noise(client, phase.trains, self.budget.options, scales, rng)

    def get_state(self) -> dict[str, Any]:
        """Return the clients' half, and how many steps of what they have taken."""
        return {**super().get_state(), "budget": self.budget.get_state()}

    def set_state(self, state: Mapping[str, Any], ask: Ask) -> None:
        """Go on from a saved half; the steps that were counted since stay counted."""
        self.budget.set_state(state.get("budget", {}))
        super().set_state(state, ask)

    def _uses_server(self, client_id: int, networks: Iterable[str]) -> bool:
        """Return whether a client has left blocks of some networks to the server."""
        cuts = self.clients[client_id].cuts
        return any(cuts.server_range(name, self.plan.num_blocks(name)) for name in networks)
