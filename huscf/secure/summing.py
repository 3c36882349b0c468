"""The server's part in a sum: carries keys and shares, adds words, takes off what is left."""

from collections.abc import Collection, Mapping

from ..errors import HuscfError
from .fixed_point import Words
from .keys import PAIR, PUBLIC_BYTES, KeyPair, make_mask
from .member import LEAST_MEMBERS, add_pair, check_enough, count_needed
from .sharing import join_shares


class SecureSum:
    """Adds the words of members, of which it sees masked ones alone.

    In the order of calls: `publish`, `route`, `add` for every member, `finish`. Who has not
    answered is left out, as long as `count_needed` members stay.

    Args:
        holders: Name of every part -> members that add to it.
    """

    def __init__(self, holders: Mapping[str, Collection[int]]) -> None:
        self.holders = {part: frozenset(own) for part, own in holders.items()}
        self._public: dict[int, bytes] = {}
        self._sharing: frozenset[int] = frozenset()
        self._masked: dict[int, Mapping[str, Words]] = {}

    @property
    def survivors(self) -> list[int]:
        """Return the members whose words have arrived, ascending.

        Raises:
            HuscfError: Where they are too few, so that nobody is asked to reveal anything.
        """
        check_enough(self._masked, len(self._public))
        return sorted(self._masked)

    def publish(self, public: Mapping[int, bytes]) -> dict[int, bytes]:
        """Take the public keys of members; return them for everybody.

        Raises:
            HuscfError: Where they are too few.
        """
        count_needed(len(public))
        if wrong := [m for m, key in public.items() if len(key) != 2 * PUBLIC_BYTES]:
            raise HuscfError(f"secure sums: member {wrong[0]} has sent no public keys")
        self._public = dict(public)
        return self._public

    def route(self, sealed: Mapping[int, Mapping[int, bytes]]) -> dict[int, dict[int, bytes]]:
        """Take sealed shares by sender and receiver; return them by receiver and sender.

        Raises:
            HuscfError: Where too few members have sent theirs.
        """
        self._sharing = frozenset(sealed)
        check_enough(self._sharing, len(self._public))
        return {
            receiver: {
                sender: texts[receiver] for sender, texts in sealed.items() if sender != receiver
            }
            for receiver in sealed
        }

    def add(self, member: int, masked: Mapping[str, Words]) -> None:
        """Take a member's masked words by part."""
        if wrong := [p for p in masked if member not in self.holders[p] & self._sharing]:
            raise HuscfError(f"secure sums: member {member} does not add to {wrong[0]}")
        if missing := [p for p, own in self.holders.items() if member in own and p not in masked]:
            raise HuscfError(f"secure sums: member {member} has not sent {missing[0]}")
        self._masked[member] = masked

    def finish(
        self, revealed: Mapping[int, Mapping[int, bytes]]
    ) -> dict[str, tuple[Words, frozenset[int]]]:
        """Return the sum of every part, and whose words are in it.

        Args:
            revealed: What members that are still there have revealed, by member and of whom.

        Raises:
            HuscfError: Where too few have, or what they have revealed does not fit.
        """
        check_enough(revealed, len(self._public))
        secrets = {of: self._join(of, revealed) for of in self._sharing}
        dropped = {m: KeyPair(s) for m, s in secrets.items() if m not in self._masked}
        for member, pair in dropped.items():
            if pair.public != self._public[member][:PUBLIC_BYTES]:
                raise HuscfError(f"secure sums: the shares of member {member} are not of its key")
        return {part: self._sum(part, secrets, dropped) for part in self.holders}

    def _sum(
        self, part: str, secrets: Mapping[int, bytes], dropped: Mapping[int, KeyPair]
    ) -> tuple[Words, frozenset[int]]:
        both = self.holders[part] & self._sharing
        there = both & self._masked.keys()
        if len(there) < LEAST_MEMBERS:
            raise HuscfError(f"secure sums: too few members are left that add to {part}")
        first, *others = sorted(there)
        total = self._masked[first][part].copy()
        for member in others:
            total += self._masked[member][part]
        for member in there:
            total -= make_mask(secrets[member], part, len(total))
            public = self._public[member][:PUBLIC_BYTES]
            for other in both - there:
                seed = dropped[other].agree(public, PAIR)
                # What the member has added comes off again.
                total = add_pair(total, make_mask(seed, part, len(total)), other < member)
        return total, there

    def _join(self, of: int, revealed: Mapping[int, Mapping[int, bytes]]) -> bytes:
        needed = count_needed(len(self._public))
        shares = {member: own[of] for member, own in revealed.items() if of in own}
        try:
            return join_shares(dict(list(shares.items())[:needed]))
        except (ValueError, ZeroDivisionError) as error:
            raise HuscfError(f"secure sums: the shares of member {of} do not fit") from error
