"""A round's secure sums over sites: what the server asks for, and what a site answers.

    server                                          site
    sum_keys    whose keys                          public keys
    sum_shares  public keys of each cluster         sealed shares for every other member
    sum_give    shares, weights, who adds what      `block` with masked words, for each
    sum_reveal  whose words have arrived            shares of seeds and keys, never both of one

The members are clients, not sites; see huscf.secure.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...parties import read_block
from ..base import Mixture
from ..secure_mixing import State, SumPlan, SumRef, read_sum, write_words
from .block_frames import BlockRef, send_blocks
from .fields import Spec, fits, natural_number
from .protocol import SEALED

if TYPE_CHECKING:
    from ...secure import SecureMember
    from .engine import RemoteEngine
    from .site import Ask, SiteHalf

#: What a site is asked within a secure sum.
SUM_COMMANDS = ("sum_keys", "sum_shares", "sum_give", "sum_reveal")

#: Texts by client, as they stand in a header.
Pairs = list[list[Any]]


class SiteSums:
    """Leads the sums of one round at the server.

    Args:
        engine: Asks the sites.
        mixture: What is averaged, over the clients that are there.
        plan: Who adds which blocks.
    """

    def __init__(self, engine: "RemoteEngine", mixture: Mixture, plan: SumPlan) -> None:
        from ...secure import SecureSum

        self.engine, self.mixture, self.plan = engine, mixture, plan
        self.members = plan.members()
        self.cluster_of = {c: cluster for cluster, own in self.members.items() for c in own}
        self.sums: dict[int, SecureSum] = {
            cluster: SecureSum(
                {ref.part: own for ref, own in plan.parts.items() if ref.cluster == cluster}
            )
            for cluster in self.members
        }

    def run(self) -> dict[SumRef, State]:
        """Return the weighted mean of every part.

        Raises:
            HuscfError: Where in some cluster too few members stay to the end.
        """
        public = self._publish()
        routed = self._route(public)
        self._collect(routed)
        revealed = self._reveal()
        found: dict[SumRef, State] = {}
        for cluster, total in self.sums.items():
            own = {c: shares for c, shares in revealed.items() if self.cluster_of[c] == cluster}
            sums = total.finish(own)
            for ref in (ref for ref in self.plan.parts if ref.cluster == cluster):
                like = read_block(self.engine.networks[ref.network][ref.block])
                found[ref] = read_sum(*sums[ref.part], self.mixture.weights, like)
        return found

    def _publish(self) -> dict[int, dict[int, bytes]]:
        """Return the public keys of every cluster's members."""
        answers = self._call("sum_keys", self.cluster_of, lambda own: {"clients": own})
        keys = self._read(answers, "public")
        return {
            cluster: total.publish({c: keys[c] for c in self.members[cluster] if c in keys})
            for cluster, total in self.sums.items()
        }

    def _route(self, public: Mapping[int, Mapping[int, bytes]]) -> dict[int, dict[int, bytes]]:
        """Return the sealed shares for every member, by sender."""
        there = [c for keys in public.values() for c in keys]

        def describe(own: list[int]) -> dict[str, Any]:
            wanted = {self.cluster_of[c] for c in own}
            return {"groups": [_pairs(public[cluster]) for cluster in sorted(wanted)]}

        answers = self._call("sum_shares", there, describe)
        sealed = {c: dict(own) for c, own in self._read(answers, "sealed", SEALED).items()}
        routed: dict[int, dict[int, bytes]] = {}
        for cluster, total in self.sums.items():
            own = {c: texts for c, texts in sealed.items() if self.cluster_of[c] == cluster}
            # Who has left one out takes part no further.
            whole = {c: texts for c, texts in own.items() if texts.keys() >= own.keys() - {c}}
            routed |= total.route(whole)
        return routed

    def _collect(self, routed: Mapping[int, Mapping[int, bytes]]) -> None:
        """Let the members send their masked blocks, and add those of whom all have come."""
        engine, parts = self.engine, self.plan.parts
        wanted = {
            BlockRef(c, ref.holding, ref.network, ref.block): ref
            for ref, holders in parts.items()
            for c in holders
            if c in routed
        }
        counts = {
            ref: _count(read_block(engine.networks[ref.network][ref.block])) for ref in wanted
        }

        def describe(own: list[int]) -> dict[str, Any]:
            return {
                "sealed": [[c, _pairs(routed[c])] for c in own],
                "weights": [[c, float(self.mixture.weights[c])] for c in own],
                "parts": [
                    [ref.holding, ref.network, ref.block, list(holders)]
                    for ref, holders in parts.items()
                    if set(holders) & set(own)
                ],
            }

        with engine.blocks.taking_words(counts) as given:
            self._call("sum_give", routed, describe)
        for client_id in routed:
            mine = {part.part: ref for ref, part in wanted.items() if ref.client_id == client_id}
            if all(ref in given for ref in mine.values()):
                total = self.sums[self.cluster_of[client_id]]
                total.add(client_id, {p: given[ref] for p, ref in mine.items()})

    def _reveal(self) -> dict[int, dict[int, bytes]]:
        survivors = [c for total in self.sums.values() for c in total.survivors]
        answers = self._call("sum_reveal", survivors, lambda own: {"survivors": survivors})
        return {c: dict(own) for c, own in self._read(answers, "shares", SEALED).items()}

    def _call(self, kind: str, clients: Iterable[int], describe: Any) -> Mapping[str, Any]:
        """Give a command to the sites of some clients; return the answers that came in time."""
        commands = {
            name: {"kind": kind, **describe(own)}
            for name, own in self.engine.by_site(clients).items()
        }
        return self.engine.sessions.call(commands, self.engine.timeout_s)

    def _read(self, answers: Mapping[str, Any], field: str, spec: Spec = bytes) -> dict[int, Any]:
        """Return what sites say of their own clients; one that says something else is left out."""
        found: dict[int, Any] = {}
        for name, answer in answers.items():
            own, said = self.engine.sessions.roster[name], answer.get(field)
            if fits(said, [(natural_number, spec)]):
                found |= {c: value for c, value in said if c in own}
        return {c: value for c, value in found.items() if c in self.cluster_of}


class SiteMembers:
    """The clients of one site as members of a round's sums.

    Args:
        half: Whose clients.
    """

    def __init__(self, half: "SiteHalf") -> None:
        self.half = half
        self._members: dict[int, SecureMember] = {}

    def answer(self, command: Mapping[str, Any], ask: "Ask") -> dict[str, Any]:
        """Do what the server asks for within a sum; return the answer."""
        kind = command["kind"]
        if kind == "sum_keys":
            return {"public": _pairs(self._begin(command["clients"]))}
        if kind == "sum_shares":
            return {"sealed": [[c, _pairs(t)] for c, t in self._share(command["groups"])]}
        if kind == "sum_give":
            self._give(command, ask)
            return {}
        survivors = command["survivors"]
        found = [
            [c, _pairs(member.reveal(survivors))]
            for c, member in self._members.items()
            if c in survivors
        ]
        self._members = {}
        return {"shares": found}

    def _begin(self, clients: Iterable[int]) -> dict[int, bytes]:
        from ...secure import SecureMember

        self._members = {c: SecureMember(c) for c in clients if c in self.half.clients}
        return {c: member.public for c, member in self._members.items()}

    def _share(
        self, groups: Iterable[list[tuple[int, bytes]]]
    ) -> list[tuple[int, dict[int, bytes]]]:
        found = []
        for public in (dict(group) for group in groups):
            own = (self._members[c] for c in public if c in self._members)
            found += [(member.member, member.share_out(public)) for member in own]
        return found

    def _give(self, command: Mapping[str, Any], ask: "Ask") -> None:
        """Take the others' shares, and send the own blocks, masked."""
        send_blocks(self._mask(command), ask)

    def _mask(self, command: Mapping[str, Any]) -> Iterator[tuple[BlockRef, dict[str, Tensor]]]:
        weights = dict(command["weights"])
        for client_id, texts in command["sealed"]:
            if client_id not in self._members or client_id not in weights:
                continue
            member = self._members[client_id]
            member.take_shares(dict(texts))
            for holding, network, index, holders in command["parts"]:
                if client_id not in holders:
                    continue
                ref = BlockRef(client_id, holding, network, index)
                state = read_block(self.half.find_block(ref))
                words = write_words(client_id, state, weights[client_id])
                part = SumRef(0, holding, network, index).part
                masked = torch.from_numpy(member.mask(part, words, holders).view(np.int64))
                yield ref, {"masked": masked}


def _count(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())


def _pairs(texts: Mapping[int, bytes]) -> Pairs:
    return [[client_id, text] for client_id, text in texts.items()]
