"""Keys: how an id becomes a record key and a partition, and what counts as an email address.

Write path, agent and lookups all use this module, so that they can never disagree. What stands
here is frozen: a change would send known ids to other partitions or change what a replay decides.
"""

from aiokafka.partitioner import murmur2

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


def encode_key(user_id: str) -> bytes:
    """Return the record key of an id: its UTF-8 bytes."""
    return user_id.encode()


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key, as Kafka's Java client and librdkafka's murmur2 choose it.

    Source: ``Utils.toPositive(Utils.murmur2(key)) % numPartitions`` in kafka-clients.
    """
    return int(murmur2(key) & 0x7FFFFFFF) % partitions
