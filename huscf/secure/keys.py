"""Keys that two members agree on, and what they make of them: X25519, HKDF, ChaCha20."""

import secrets
from functools import cached_property

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import HuscfError
from .fixed_point import Words

#: Bytes of a public key.
PUBLIC_BYTES = 32

#: What two members agree on for.
PAIR = "pair of masks"

# A key is used for one text or stream alone, so that there is one nonce.
_NONCE = bytes(12)


class KeyPair:
    """A private key and its public one.

    Args:
        private: 32 bytes; None draws them.
    """

    def __init__(self, private: bytes | None = None) -> None:
        self.private = private or secrets.token_bytes(32)

    @cached_property
    def public(self) -> bytes:
        """Return the public key, PUBLIC_BYTES."""
        return self._key.public_key().public_bytes_raw()

    def agree(self, public: bytes, purpose: str) -> bytes:
        """Return the key that only the two owners know, 32 bytes.

        Raises:
            HuscfError: Where the public key is none.
        """
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise HuscfError("secure sums: a member has sent a public key that is none") from error
        return derive_key(shared, purpose)

    @cached_property
    def _key(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self.private)


def derive_key(secret: bytes, purpose: str) -> bytes:
    """Return a key of 32 bytes for one purpose."""
    return HKDF(SHA256(), 32, salt=None, info=f"huscf {purpose}".encode()).derive(secret)


def make_mask(seed: bytes, purpose: str, size: int) -> Words:
    """Return uniform words for one purpose, (size,)."""
    key = derive_key(seed, purpose)
    stream = Cipher(ChaCha20(key, bytes(4) + _NONCE), mode=None).encryptor()
    return np.frombuffer(stream.update(bytes(8 * size)), dtype="<u8").astype(np.uint64, copy=False)


def seal(key: bytes, text: bytes) -> bytes:
    """Return a text that only owners of the key can read or change; a key seals one text."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, text, None)


def unseal(key: bytes, sealed: bytes) -> bytes:
    """Return the text.

    Raises:
        HuscfError: Where it was changed on its way.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, None)
    except InvalidTag as error:
        raise HuscfError("secure sums: a share was changed on its way") from error
