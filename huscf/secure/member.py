"""A member's part in a sum: keys, shares of its secrets, masked words, and shares of others'."""

import secrets
from collections.abc import Collection, Mapping

from ..errors import HuscfError
from .fixed_point import Words
from .keys import PAIR, PUBLIC_BYTES, KeyPair, make_mask, seal, unseal
from .sharing import SECRET_BYTES, SHARE_BYTES, split_secret

#: Of two members each would know the other's numbers, of one everybody.
LEAST_MEMBERS = 3


def count_needed(num_members: int) -> int:
    """Return how many members must stay to the end: more than two thirds, at least three.

    Raises:
        HuscfError: Where there are too few to begin with.
    """
    if num_members < LEAST_MEMBERS:
        raise HuscfError(
            f"secure sums: {num_members} members, needs {LEAST_MEMBERS}: a sum of fewer gives "
            "single ones away"
        )
    return 2 * num_members // 3 + 1


class SecureMember:
    """One member of one sum; for the next sum there is a new one, with new keys.

    In the order of calls: `public`, `share_out`, `take_shares`, `mask`, `reveal`. The server
    carries all that is said, learns the sums, and of single members nothing, as long as it does
    not lie and fewer than `count_needed` members tell it what they know.

    Source: Bonawitz et al. 2017, doi:10.1145/3133956.3133982, protocol for an honest but curious
        server.

    Args:
        member: Number of this member, >= 0.
    """

    def __init__(self, member: int) -> None:
        self.member = member
        self._masking, self._sealing = KeyPair(), KeyPair()
        self._own_seed = secrets.token_bytes(SECRET_BYTES)
        self._public: dict[int, bytes] = {}
        self._shares: dict[int, bytes] = {}
        self._pair_seeds: dict[int, bytes] = {}
        self._parts: dict[str, frozenset[int]] = {}
        self._has_revealed = False

    @property
    def public(self) -> bytes:
        """Return the public keys: one to agree on masks, one to seal shares."""
        return self._masking.public + self._sealing.public

    def share_out(self, public: Mapping[int, bytes]) -> dict[int, bytes]:
        """Return for every other member sealed shares of this one's two secrets.

        Args:
            public: What all members that take part have published, this one too.

        Raises:
            HuscfError: Where there are too few, or a key is none.
        """
        needed = count_needed(len(public))
        if public.get(self.member) != self.public:
            raise HuscfError("secure sums: the server names another key for this member")
        self._public = dict(public)
        keys = split_secret(self._masking.private, public, needed)
        seeds = split_secret(self._own_seed, public, needed)
        self._shares[self.member] = keys[self.member] + seeds[self.member]
        return {
            other: seal(self._seal_key(self.member, other), keys[other] + seeds[other])
            for other in public
            if other != self.member
        }

    def take_shares(self, sealed: Mapping[int, bytes]) -> None:
        """Take the sealed shares of the members that have sent theirs; masks are with these.

        Raises:
            HuscfError: Where they are too few, or a share was changed.
        """
        for other, text in sealed.items():
            share = unseal(self._seal_key(other, self.member), text)
            if len(share) != 2 * SHARE_BYTES:
                raise HuscfError(f"secure sums: member {other} has sent no shares")
            self._shares[other] = share
            public = self._public[other][:PUBLIC_BYTES]
            self._pair_seeds[other] = self._masking.agree(public, PAIR)
        check_enough(self._shares, len(self._public))

    def mask(self, part: str, words: Words, holders: Collection[int]) -> Words:
        """Return words of which nothing can be told but in the sum with those of all holders.

        Args:
            part: Name of what is added, used once.
            words: (n,).
            holders: The members that add to it, this one too.

        Raises:
            HuscfError: Where they are too few.
        """
        both = frozenset(holders) & self._shares.keys()
        if len(both) < LEAST_MEMBERS or self.member not in both or part in self._parts:
            raise HuscfError(f"secure sums: {len(both)} members add to {part}, which needs three")
        self._parts[part] = both
        masked = words + make_mask(self._own_seed, part, len(words))
        for other in both - {self.member}:
            pair = make_mask(self._pair_seeds[other], part, len(words))
            masked = add_pair(masked, pair, self.member < other)
        return masked

    def reveal(self, survivors: Collection[int]) -> dict[int, bytes]:
        """Return this member's shares of the survivors' seeds and of the others' masking keys.

        Never both of one: what a late member has sent stays masked by its seed.

        Args:
            survivors: Members whose masked words have arrived.

        Raises:
            HuscfError: Where too few have, in all or in one part; or where it has revealed already.
        """
        there = frozenset(survivors) & self._shares.keys()
        check_enough(there, len(self._public))
        for part, holders in self._parts.items():
            if len(holders & there) < LEAST_MEMBERS:
                raise HuscfError(f"secure sums: too few members are left that add to {part}")
        if self._has_revealed:
            raise HuscfError("secure sums: shares are revealed once")
        self._has_revealed = True
        return {
            other: share[SHARE_BYTES:] if other in there else share[:SHARE_BYTES]
            for other, share in self._shares.items()
        }

    def _seal_key(self, sender: int, receiver: int) -> bytes:
        other = receiver if sender == self.member else sender
        if other not in self._public:
            raise HuscfError(f"secure sums: member {other} is not known")
        public = self._public[other][PUBLIC_BYTES:]
        return self._sealing.agree(public, f"shares from {sender} to {receiver}")


def check_enough(members: Collection[int], num_members: int) -> None:
    """Raise a HuscfError unless of so many members enough are left."""
    needed = count_needed(num_members)
    if len(members) < needed:
        raise HuscfError(
            f"secure sums: {len(members)} of {num_members} members are left, needs {needed}"
        )


def add_pair(words: Words, mask: Words, is_first: bool) -> Words:
    """Return words with a pair's mask, which the first of the two adds and the other takes off."""
    return words + mask if is_first else words - mask
