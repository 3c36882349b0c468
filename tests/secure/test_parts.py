"""Fixed point, shares of secrets, and masks, each by itself."""

import hashlib
import hmac
import itertools
import secrets

import numpy as np
import pytest
from scipy.stats import chisquare

from huscf.errors import HuscfError
from huscf.secure import LIMIT, RESOLUTION, decode, encode
from huscf.secure.keys import KeyPair, derive_key, make_mask, seal, unseal
from huscf.secure.sharing import SHARE_BYTES, join_shares, split_secret

#: A test that is run once in a while may not fail by chance.
RARE = 1e-6


def test_numbers_are_off_by_half_the_resolution_at_most_and_sums_are_exact():
    values = np.random.default_rng(0).normal(size=(5, 1000)) * np.logspace(-12, 6, 1000)
    weights = [0.1, 0.2, 0.3, 0.25, 0.15]
    words = [encode(own, weight) for own, weight in zip(values, weights, strict=True)]
    for own, weight, word in zip(values, weights, words, strict=True):
        assert np.abs(decode(word) - weight * own).max() <= RESOLUTION / 2 * (1 + 1e-9) + 1e-9
        small = np.abs(own) < 100
        assert np.abs(decode(word) - weight * own)[small].max() <= RESOLUTION / 2 * 1.01
    total = decode(np.sum(words, axis=0))
    assert total == pytest.approx(np.array(weights) @ values, rel=1e-12, abs=5 * RESOLUTION / 2)
    # The order of sums does not matter, as it does of floating point numbers.
    assert np.array_equal(total, decode(np.sum(words[::-1], axis=0)))


def test_the_largest_numbers_fit_and_larger_ones_are_refused():
    ends = np.array([LIMIT, -LIMIT, 0.0])
    assert decode(encode(ends, 0.5) + encode(ends, 0.5)).tolist() == ends.tolist()
    for bad in (np.nextafter(LIMIT, np.inf), -2 * LIMIT, np.nan, np.inf):
        with pytest.raises(HuscfError, match=r"secure sums take finite numbers up to 4.1943e"):
            encode(np.array([0.0, bad]), 1e-9)


def test_shares_of_a_line_are_on_the_line(monkeypatch):
    monkeypatch.setattr(secrets, "randbelow", lambda most: 5)
    shares = split_secret((7).to_bytes(32, "big"), [0, 3, 9], 2)
    assert {h: int.from_bytes(s, "big") for h, s in shares.items()} == {0: 12, 3: 27, 9: 57}


def test_enough_shares_give_the_secret_and_fewer_fit_any():
    secret = secrets.token_bytes(32)
    shares = split_secret(secret, range(6), 4)
    assert all(len(share) == SHARE_BYTES for share in shares.values())
    for chosen in itertools.combinations(shares, 4):
        assert join_shares({holder: shares[holder] for holder in chosen}) == secret
    assert join_shares(shares) == secret  # more do as well
    # Three shares and any other secret are on one polynomial: they rule nothing out.
    known = {holder: shares[holder] for holder in (0, 2, 5)}
    for guess in (bytes(32), secrets.token_bytes(32)):
        point = {**known, -1: guess.rjust(SHARE_BYTES, b"\0")}  # holder -1 lies at 0
        missing = _evaluate(point, 4)
        assert join_shares({**known, 3: missing}) == guess
    # What three come to is not the secret.
    try:
        assert join_shares(known) != secret
    except ValueError as error:
        assert "different secrets" in str(error)


def _evaluate(points, x):
    """The value at x of the polynomial through shares, by Lagrange's formula."""
    prime, total = 2**521 - 1, 0
    for holder, share in points.items():
        top = bottom = 1
        for other in points:
            if other != holder:
                top, bottom = top * (x - other - 1), bottom * (holder - other)
        total += int.from_bytes(share, "big") * top * pow(bottom, -1, prime)
    return (total % prime).to_bytes(SHARE_BYTES, "big")


def test_keys_follow_the_standard():
    """RFC 5869 by hand, of one block."""
    secret = bytes(range(32))
    inner = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    expected = hmac.new(inner, b"huscf pair of masks\x01", hashlib.sha256).digest()
    assert derive_key(secret, "pair of masks") == expected


def test_two_agree_and_a_third_does_not():
    one, other, third = (KeyPair() for _ in range(3))
    assert one.agree(other.public, "a") == other.agree(one.public, "a")
    assert one.agree(other.public, "a") != one.agree(other.public, "b")
    assert third.agree(other.public, "a") != one.agree(other.public, "a")
    assert KeyPair(one.private).public == one.public != other.public
    with pytest.raises(HuscfError, match="a public key that is none"):
        one.agree(bytes(32), "a")


def test_what_is_sealed_cannot_be_changed():
    key = secrets.token_bytes(32)
    sealed = seal(key, b"text")
    assert unseal(key, sealed) == b"text" and b"text" not in sealed
    with pytest.raises(HuscfError, match="a share was changed on its way"):
        unseal(key, sealed[:-1] + bytes([sealed[-1] ^ 1]))


def test_masks_are_uniform_and_each_is_another():
    seed = secrets.token_bytes(32)
    mask = make_mask(seed, "one", 1 << 15)
    assert np.array_equal(mask, make_mask(seed, "one", 1 << 15))
    assert np.array_equal(mask[:100], make_mask(seed, "one", 100))
    counts = np.bincount(mask.view(np.uint8), minlength=256)
    assert chisquare(counts).pvalue > RARE
    bits = np.unpackbits(mask.view(np.uint8)).reshape(-1, 64).mean(0)
    assert np.abs(bits - 0.5).max() < 6 * 0.5 / np.sqrt(len(mask))
    for other in (make_mask(seed, "other", 1 << 15), make_mask(bytes(32), "one", 1 << 15)):
        counts = np.bincount((mask ^ other).view(np.uint8), minlength=256)
        assert chisquare(counts).pvalue > RARE
