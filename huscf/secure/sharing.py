"""Secrets in shares: so many of them give the secret, fewer tell nothing of it."""

import secrets
from collections.abc import Iterable, Mapping

# A Mersenne prime, larger than any secret.
_PRIME = 2**521 - 1

#: Bytes of a secret, and of a share of one.
SECRET_BYTES, SHARE_BYTES = 32, 66


def split_secret(secret: bytes, holders: Iterable[int], needed: int) -> dict[int, bytes]:
    """Return a share for every holder.

    Source: Shamir 1979, How to share a secret.

    Args:
        secret: SECRET_BYTES.
        holders: Numbers >= 0; a polynomial of the secret is evaluated at each number plus 1.
        needed: Shares that give the secret.
    """
    rest = [secrets.randbelow(_PRIME) for _ in range(needed - 1)]
    coefficients = [int.from_bytes(secret, "big"), *rest]
    shares = {}
    for holder in holders:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * (holder + 1) + coefficient) % _PRIME
        shares[holder] = value.to_bytes(SHARE_BYTES, "big")
    return shares


def join_shares(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret of as many shares as are needed, by holder.

    Raises:
        ValueError: Where they are of no secret.
    """
    secret = 0
    for holder, share in shares.items():
        top = bottom = 1
        for other in shares:
            if other != holder:
                top = top * (other + 1) % _PRIME
                bottom = bottom * (other - holder) % _PRIME
        secret += int.from_bytes(share, "big") * top * pow(bottom, -1, _PRIME)
    secret %= _PRIME
    if secret >> (8 * SECRET_BYTES):
        raise ValueError("shares of different secrets")
    return secret.to_bytes(SECRET_BYTES, "big")
