"""The protocol: what the server gets is the sum, whoever drops out, and nothing else."""

import numpy as np
import pytest
from scipy.stats import chisquare, ks_2samp

from huscf.errors import HuscfError
from huscf.secure import RESOLUTION, SecureMember, SecureSum, count_needed, decode, encode
from huscf.secure.keys import PAIR, PUBLIC_BYTES, KeyPair, make_mask
from tests.secure.test_parts import RARE


class Round:
    """A sum among members 1, 4, 7, ...; parts "all", and "some" of all but the first."""

    def __init__(self, number, size=50):
        self.ids = [1 + 3 * place for place in range(number)]
        rng = np.random.default_rng(number)
        self.weights = dict(zip(self.ids, rng.dirichlet(np.ones(number)), strict=True))
        self.holders = {"all": self.ids, "some": self.ids[1:]}
        self.values = {m: {p: rng.normal(size=size) for p in self.holders} for m in self.ids}
        self.members = {m: SecureMember(m) for m in self.ids}
        self.server = SecureSum(self.holders)
        self.sent = {}

    def words(self, member, part):
        return encode(self.values[member][part], self.weights[member])

    def share(self, but=()):
        self.public = self.server.publish({m: each.public for m, each in self.members.items()})
        sealed = {m: e.share_out(self.public) for m, e in self.members.items() if m not in but}
        self.sealed = self.server.route(sealed)
        for member, texts in self.sealed.items():
            self.members[member].take_shares(texts)

    def mask(self, but=()):
        for member in self.sealed:
            self.sent[member] = {
                part: self.members[member].mask(part, self.words(member, part), own)
                for part, own in self.holders.items()
                if member in own
            }
            if member not in but:
                self.server.add(member, self.sent[member])

    def finish(self, but=()):
        there = self.server.survivors
        revealed = {m: self.members[m].reveal(there) for m in there if m not in but}
        return self.server.finish(revealed)


def check_sums(round_, sums, there):
    """Bit for bit the sum of the words, and the weighted sum to the resolution."""
    for part, holders in round_.holders.items():
        owners = [member for member in holders if member in there]
        words, who = sums[part]
        assert who == frozenset(owners)
        exact = sum(round_.words(member, part) for member in owners)
        assert np.array_equal(words, exact)
        plain = sum(round_.weights[m] * round_.values[m][part] for m in owners)
        assert np.abs(decode(words) - plain).max() <= len(owners) * RESOLUTION / 2 * 1.01


@pytest.mark.parametrize("number", [4, 5, 20])
def test_the_masked_sum_is_the_weighted_sum(number):
    round_ = Round(number)
    round_.share()
    round_.mask()
    check_sums(round_, round_.finish(), round_.ids)


@pytest.mark.parametrize(
    ("number", "at_shares", "at_masks", "at_reveal"),
    [
        (5, [1], [], []),
        (5, [], [7], []),
        (5, [], [], [13]),
        (10, [1], [4], [7]),
        (10, [], [1, 4, 28], []),
        (20, [4, 7], [10, 58], [1, 13]),
    ],
)
def test_drop_outs_are_recovered(number, at_shares, at_masks, at_reveal):
    round_ = Round(number)
    round_.share(at_shares)
    round_.mask(at_masks)
    there = [m for m in round_.ids if m not in (*at_shares, *at_masks)]
    assert round_.server.survivors == there
    check_sums(round_, round_.finish(at_reveal), there)


def test_more_drop_outs_than_the_shares_allow_are_refused():
    for at_shares, at_masks, at_reveal in ([1, 4], [], []), ([], [1, 4], []), ([], [], [1, 4]):
        round_ = Round(5)
        with pytest.raises(HuscfError, match="3 of 5 members are left, needs 4"):
            round_.share(at_shares)
            round_.mask(at_masks)
            round_.finish(at_reveal)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_fewer_than_three_members_are_refused(number):
    with pytest.raises(HuscfError, match=rf"secure sums: {number} members, needs 3: a sum"):
        count_needed(number)
    members = [SecureMember(m) for m in range(number)]
    with pytest.raises(HuscfError, match=f"{number} members, needs 3"):
        SecureSum({}).publish({each.member: each.public for each in members})
    for member in members:
        with pytest.raises(HuscfError, match=f"{number} members, needs 3"):
            member.share_out({each.member: each.public for each in members})
    assert [count_needed(n) for n in (3, 4, 5, 6, 20)] == [3, 3, 4, 5, 14]


def test_a_part_of_which_two_are_left_is_refused_by_members_and_server():
    round_ = Round(4)
    round_.share()
    round_.mask(but=[4])
    # Member 1 does not add to that part, and cannot know.
    revealed = {1: round_.members[1].reveal([1, 7, 10])}
    with pytest.raises(HuscfError, match="too few members are left that add to some"):
        round_.members[7].reveal([1, 7, 10])
    with pytest.raises(HuscfError, match="1 of 4 members are left, needs 3"):
        round_.server.finish(revealed)
    two = Round(4)
    two.share()
    with pytest.raises(HuscfError, match="2 members add to some, which needs three"):
        two.members[7].mask("some", two.words(7, "some"), [7, 10])


def test_one_masked_vector_says_nothing_of_the_value():
    """Of zeros and of large numbers the server sees the same: uniform words."""
    size = 1 << 14
    seen = {}
    for value in (0.0, 1000.0):
        round_ = Round(4, size)
        for own in round_.values.values():
            own["all"][:] = value
        round_.share()
        round_.mask()
        seen[value] = round_.sent[1]["all"]
        sums = round_.finish()
        assert decode(sums["all"][0]) == pytest.approx(value)
        words = round_.words(1, "all")
        assert not (seen[value] == words).any()
        assert chisquare(np.bincount(seen[value].view(np.uint8), minlength=256)).pvalue > RARE
        # Unmasked words would be told at once.
        assert chisquare(np.bincount(words.view(np.uint8), minlength=256)).pvalue < RARE
    assert ks_2samp(seen[0.0] / 2**64, seen[1000.0] / 2**64).pvalue > RARE
    # Nor do words follow the values within a vector.
    round_ = Round(4, size)
    round_.share()
    round_.mask()
    correlation = np.corrcoef(round_.sent[1]["all"] / 2**64, round_.values[1]["all"])[0, 1]
    assert abs(correlation) < 6 / np.sqrt(size)


def test_what_a_late_member_has_sent_stays_masked():
    """The server then knows its masking key, all pairs' masks, and still not its own seed."""
    round_ = Round(5, size=1 << 12)
    round_.share()
    round_.mask(but=[7])
    there = round_.server.survivors
    revealed = {m: round_.members[m].reveal(there) for m in there}
    round_.server.finish(revealed)
    late = round_.sent[7]["all"].copy()
    key = KeyPair(round_.server._join(7, revealed))
    assert key.public == round_.public[7][:PUBLIC_BYTES]
    for other in there:
        pair = make_mask(key.agree(round_.public[other][:PUBLIC_BYTES], PAIR), "all", len(late))
        late = late - pair if other > 7 else late + pair
    assert chisquare(np.bincount(late.view(np.uint8), minlength=256)).pvalue > RARE
    # Its own mask alone is left.
    own = make_mask(round_.members[7]._own_seed, "all", len(late))
    assert np.array_equal(late - own, round_.words(7, "all"))


def test_secrets_of_one_member_are_never_both_revealed():
    round_ = Round(5)
    round_.share()
    round_.mask(but=[7])
    first = round_.members[1].reveal([1, 4, 10, 13])
    assert set(first) == set(round_.ids) and len({len(share) for share in first.values()}) == 1
    with pytest.raises(HuscfError, match="shares are revealed once"):
        round_.members[1].reveal(round_.ids)


def test_lies_are_told():
    round_ = Round(4)
    public = {m: each.public for m, each in round_.members.items()}
    with pytest.raises(HuscfError, match="names another key for this member"):
        round_.members[1].share_out({**public, 1: public[4]})
    with pytest.raises(HuscfError, match="member 7 has sent no public keys"):
        round_.server.publish({**public, 7: b"short"})
    round_.server.publish(public)
    sealed = {m: each.share_out(public) for m, each in round_.members.items()}
    routed = round_.server.route(sealed)
    changed = {**routed[1], 4: routed[1][4][:-1] + bytes([routed[1][4][-1] ^ 1])}
    with pytest.raises(HuscfError, match="a share was changed on its way"):
        round_.members[1].take_shares(changed)
    with pytest.raises(HuscfError, match="member 5 is not known"):
        round_.members[4].take_shares({5: routed[4][1]})
    with pytest.raises(HuscfError, match="a share was changed on its way"):
        round_.members[7].take_shares({1: routed[7][4]})  # of another sender


def test_the_server_refuses_what_does_not_fit():
    round_ = Round(5)
    round_.share()
    round_.mask()
    with pytest.raises(HuscfError, match="member 1 does not add to some"):
        round_.server.add(1, {**round_.sent[1], "some": round_.sent[4]["some"]})
    with pytest.raises(HuscfError, match="member 4 has not sent some"):
        round_.server.add(4, {"all": round_.sent[4]["all"]})
    other = Round(5)
    other.share()
    other.mask(but=[7])
    there = other.server.survivors
    revealed = {m: dict(other.members[m].reveal(there)) for m in there}
    revealed[1][7] = bytes(len(revealed[1][7]))
    with pytest.raises(HuscfError, match=r"the shares of member 7 (do not fit|are not of its key)"):
        other.server.finish(revealed)
