"""The wire: the one way by which anything passes from one party to another."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from ..errors import HuscfError
from .message import KINDS, SERVER, Kind, Message, PartyId, TensorSpec, describe
from .traffic import Traffic, TrafficKey


class Wire(ABC):
    """Carries messages between parties, refuses kinds that may not cross, and counts bytes.

    Subclass it for another transport, or MemoryWire to change what arrives.

    Attributes:
        kinds: What may cross; the run's method says it.
        run_seed: The run's, for what a wire draws.
        traffic: What has crossed so far; it goes on where a run is resumed.
    """

    def __init__(self) -> None:
        self.kinds: frozenset[Kind] = frozenset(KINDS)
        self.run_seed = 0
        self.traffic = Traffic()

    @abstractmethod
    def send(self, message: Message) -> None:
        """Take a message on its way."""

    @abstractmethod
    def receive(self, receiver: PartyId, sender: PartyId) -> Message:
        """Return the next message from a sender, waiting for it if need be."""

    def prepare(self, message: Message) -> Mapping[str, Tensor]:
        """Return what a client makes of a block before it masks it for a secure sum (unchanged)."""
        return message.tensors

    def pass_on(self, message: Message) -> Mapping[str, Tensor]:
        """Carry a message between two parties of this process; return what arrives."""
        self.send(message)
        return self.receive(message.receiver, message.sender).tensors

    def check_kind(self, kind: Kind, topic: str) -> None:
        """Raise a HuscfError where the method does not let this kind cross."""
        if kind not in self.kinds:
            raise HuscfError(
                f"{kind} of {topic} may not leave their party under this method; what may cross: "
                f"{', '.join(sorted(self.kinds))}"
            )

    def count(self, message: Message, num_bytes: int) -> None:
        """Count what a message takes on the wire; between two clients both of them count it."""
        key = TrafficKey(message.client_id, message.kind, message.topic, message.direction)
        self.traffic.count(key, num_bytes)
        if message.sender != SERVER and message.receiver != SERVER:
            key = key._replace(client_id=message.receiver, direction="downlink")
            self.traffic.count(key, num_bytes)


class MemoryWire(Wire):
    """The wire between parties of one process; everything arrives as it was sent.

    Subclass it and override `transmit` to add noise or compression; what it returns has the
    names, shapes and types of what was sent. Parties then take turns in one thread, so that what
    it draws is reproducible.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sent: dict[tuple[PartyId, PartyId], list[Message]] = {}

    @property
    def is_identity(self) -> bool:
        """Whether everything arrives as it was sent and counts as large as it is."""
        names = ("transmit", "encode", "measure", "send", "receive", "pass_on", "count")
        return all(getattr(type(self), name) is getattr(MemoryWire, name) for name in names)

    def transmit(self, message: Message) -> Mapping[str, Tensor]:
        """Return the tensors as they arrive at the other end (here: unchanged)."""
        return message.tensors

    def measure(self, message: Message) -> int:
        """Return the bytes that a message takes; override it where `transmit` compresses."""
        return message.num_bytes

    def note(self, message: Message) -> None:
        """Check and count a message that has come over a network."""
        self.check_kind(message.kind, message.topic)
        self.count(message, self.measure(message))

    def depart(self, message: Message) -> Mapping[str, Tensor]:
        """Check and count a message that leaves this machine; return what a network carries."""
        self.note(message)
        return self.encode(message)

    def encode(self, message: Message) -> Mapping[str, Tensor]:
        """Return what a network carries of a message; `decode` makes of it what arrives.

        Override both, and `describe_carried`, where `transmit` compresses.
        """
        return self.transmit(message)

    def decode(
        self, kind: Kind, carried: Mapping[str, Tensor], specs: Mapping[str, TensorSpec]
    ) -> dict[str, Tensor]:
        """Return the tensors that arrive.

        Args:
            kind: Of the message.
            carried: From `encode`, by the names and shapes of `describe_carried`.
            specs: What may arrive.
        """
        return dict(carried)

    def describe_carried(
        self, kind: Kind, specs: Mapping[str, TensorSpec]
    ) -> Mapping[str, TensorSpec]:
        """Return names, types and shapes of what a network carries of such tensors."""
        return specs

    def send(self, message: Message) -> None:
        """Take a message on its way, and count it.

        Raises:
            HuscfError: Where its kind may not cross, or `transmit` returns something else than
                what it is given.
        """
        self.note(message)
        arrived = self.transmit(message)
        self._check(message, arrived)
        arriving = Message(message.sender, message.receiver, message.kind, message.topic, arrived)
        self._sent.setdefault((message.receiver, message.sender), []).append(arriving)

    def receive(self, receiver: PartyId, sender: PartyId) -> Message:
        """Return the oldest message from a sender.

        Raises:
            HuscfError: Where there is none.
        """
        waiting = self._sent.get((receiver, sender))
        if not waiting:
            raise HuscfError(f"{receiver} waits for a message of {sender} that was never sent")
        return waiting.pop(0)

    def _check(self, message: Message, arrived: object) -> None:
        owner = f"{type(self).__name__}.transmit: needs to return what it is given at"
        sent = {name: describe(tensor) for name, tensor in message.tensors.items()}
        got: object = describe(arrived)
        if isinstance(arrived, Mapping):
            got = {name: describe(tensor) for name, tensor in arrived.items()}
        if sent != got:
            raise HuscfError(f"{owner} {message.topic}, {sent}, got {got}")
