"""Keys: how an id becomes a record key and a partition, and what an email address is.

Write path, agents and lookups use this module, so they always agree. The rules here are frozen: a
change would send known ids to other partitions, or change what a replay decides.
"""

import hashlib
import re
import struct
import unicodedata
from binascii import b2a_base64
from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

#: Letters of an address beyond ASCII: everything but controls, white space, invisible marks,
#: surrogates, private use and non-characters of the Basic Multilingual Plane.
_BEYOND_ASCII = (
    "\u00a1-\u00ac\u00ae-\u061b\u061d-\u167f\u1681-\u180d\u180f-\u1fff\u2010-\u2027\u2030-\u205e"
    "\u2070-\u2fff\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufefe\uff00-\uffef\U00010000-\U000effff"
)
_ATOM = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~{_BEYOND_ASCII}-]+"
_EDGE = rf"[A-Za-z0-9{_BEYOND_ASCII}]"
_LABEL = rf"{_EDGE}(?:[A-Za-z0-9{_BEYOND_ASCII}-]{{0,61}}{_EDGE})?"

#: An email address: dot-atom, ``@``, at least two domain labels; spaces around it are tolerated
#: (they do not count when addresses are compared). No nested repetition: matching is linear.
#: Frozen, because a library's rule changes with its releases. Vectors: tests/unit/test_keys.py.
EMAIL_PATTERN = rf"^ *{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})+ *$"

#: A label in ASCII that stands for a label in Unicode begins with this (RFC 5890).
_ACE_PREFIX = "xn--"
_WHOLE_LABEL = re.compile(_LABEL)

Hashes = npt.NDArray[np.uint32]

#: The block of SHA-256, to which HMAC pads the secret.
_HMAC_BLOCK_BYTES = 64

#: With fewer keys than this, one by one is faster.
_WORTH_AN_ARRAY = 16

#: Constants of MurmurHash2, as Kafka uses it.
_SEED, _MULTIPLIER, _32_BITS = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF


def normalised(email: str) -> str:
    """Return the form of an address that counts: two addresses with the same form are equal."""
    text = _normalised_by_0_8(email)
    return _folded(_in_unicode(text)) if _ACE_PREFIX in text else text


def _normalised_by_0_8(email: str) -> str:
    return email.strip(" ").lower() if email.isascii() else _folded(email)


def _folded(email: str) -> str:
    folded = unicodedata.normalize("NFKC", email).strip(" ").casefold()
    # After case folding, NFKC may change the text once more (Unicode 3.13, D145).
    return unicodedata.normalize("NFKC", folded)


def _in_unicode(email: str) -> str:
    """Return an address with the labels of its domain in Unicode."""
    local, at, domain = email.rpartition("@")
    return local + at + ".".join(map(_label_in_unicode, domain.split(".")))


def _label_in_unicode(label: str) -> str:
    """Return the Unicode label for a label ``xn--…`` (RFC 3492); unchanged if there is none."""
    if not label.startswith(_ACE_PREFIX):
        return label
    try:
        found = label.removeprefix(_ACE_PREFIX).encode("ascii").decode("punycode")
    except UnicodeError:
        return label
    return label if found.isascii() or not _WHOLE_LABEL.fullmatch(found) else found


class EmailKeys:
    """Makes the key of an address: HMAC-SHA256 with the deployment's secret, in base64.

    So only the topic and the table of users hold plain addresses.
    """

    def __init__(self, secret: bytes) -> None:
        # RFC 2104. The states of hashlib are kept and copied: `hmac` costs two to four times as
        # much.
        block = hashlib.sha256(secret).digest() if len(secret) > _HMAC_BLOCK_BYTES else secret
        padded = block.ljust(_HMAC_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def key(self, email: str) -> bytes:
        """Return the key of an address: 44 ASCII characters."""
        return self._digest(normalised(email).encode())

    def key_of_0_8(self, email: str) -> bytes | None:
        """Return the key that 0.8 gave an address, if that is another key."""
        text = _normalised_by_0_8(email)
        if _ACE_PREFIX not in text or text == normalised(email):
            return None
        return self._digest(text.encode())

    def fingerprint(self) -> str:
        """Return a text that differs between secrets and reveals nothing else about them."""
        # This text is no address: it is not empty, and has a line end.
        return self._digest(b"\nfingerprint").decode()[:12]

    def _digest(self, message: bytes) -> bytes:
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return b2a_base64(outer.digest(), newline=False)


def encode_key(user_id: str) -> bytes:
    """Return the record key of an id: its UTF-8 bytes."""
    return user_id.encode()


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key, as Kafka's Java client and librdkafka's murmur2 choose it.

    Source: ``Utils.toPositive(Utils.murmur2(key)) % numPartitions`` in kafka-clients.
    """
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def partitions_of(keys: Sequence[bytes], partitions: int) -> list[int]:
    """Return the partition of each key: `partition_of` for many, at a fifteenth of its cost."""
    if len(keys) < _WORTH_AN_ARRAY:
        return [partition_of(key, partitions) for key in keys]
    positive = _murmur2_of_each(keys) & np.uint32(0x7FFFFFFF)
    return cast("list[int]", (positive % np.uint32(partitions)).tolist())


def _murmur2(key: bytes) -> int:
    """Return the 32-bit MurmurHash2 of a key, with Kafka's seed, at half the cost of aiokafka's.

    Source: Austin Appleby's MurmurHash2, as ``Utils.murmur2`` in kafka-clients has it.
    """
    length = len(key)
    whole = length & ~3
    hashed = _SEED ^ length
    for (word,) in struct.iter_unpack("<I", key[:whole]):
        mixed = word * _MULTIPLIER & _32_BITS
        mixed = (mixed ^ mixed >> 24) * _MULTIPLIER & _32_BITS
        hashed = hashed * _MULTIPLIER & _32_BITS ^ mixed
    if whole < length:
        hashed = (hashed ^ int.from_bytes(key[whole:], "little")) * _MULTIPLIER & _32_BITS
    hashed = (hashed ^ hashed >> 13) * _MULTIPLIER & _32_BITS
    return hashed ^ hashed >> 15


def _murmur2_of_each(keys: Sequence[bytes]) -> Hashes:
    """Return the `_murmur2` of each key.

    It works on all keys at once, four bytes at a time. Shorter keys skip the last steps.
    """
    multiplier = np.uint32(_MULTIPLIER)
    lengths = np.fromiter(map(len, keys), dtype=np.uint32, count=len(keys))
    width = max(int(lengths.max()) + 3 & ~3, 4)
    padded = b"".join([key.ljust(width, b"\0") for key in keys])
    # One row for each step, one column for each key.
    words = np.ascontiguousarray(np.frombuffer(padded, dtype="<u4").reshape(len(keys), -1).T)
    whole_words = lengths >> 2
    in_all = int(whole_words.min())
    last = words[np.minimum(whole_words, len(words) - 1), np.arange(len(keys))]
    mixed = words * multiplier
    mixed ^= mixed >> 24
    mixed *= multiplier
    hashes = np.uint32(_SEED) ^ lengths
    for index, word in enumerate(mixed):
        hashed = hashes * multiplier
        hashed ^= word
        hashes = hashed if index < in_all else np.where(index < whole_words, hashed, hashes)
    hashes = np.where(lengths & 3, (hashes ^ last) * multiplier, hashes)
    hashes ^= hashes >> 13
    hashes *= multiplier
    hashes ^= hashes >> 15
    return hashes
