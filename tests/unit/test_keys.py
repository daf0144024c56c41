"""Keys: partitions as Kafka chooses them, and the frozen rule for email addresses."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.keys import EMAIL_PATTERN, encode_key, partition_of, partitions_of
from app.records import Email

_EMAIL = TypeAdapter(Email)

#: From kafka-clients' UtilsTest.testMurmur2: the hashes that Kafka's Java client computes.
JAVA_MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}

GOOD = [
    "ada@example.com",
    "a@b.co",
    "first.last+tag@sub.example.org",
    "o'hara!#$%&*/=?^_`{|}~-@example.com",
    "1@2.3",
    "ü@exämple.de",
    "用户@例子.公司",
    "😀@example.com",
    " ada@example.com ",
    "a@xn--bcher-kva.example",
    "x@" + "d" * 63 + ".example",
]

BAD = [
    "",
    "ada",
    "ada@",
    "@example.com",
    "ada@example",
    "a@b@example.com",
    "a..b@example.com",
    ".a@example.com",
    "a.@example.com",
    "a@.example.com",
    "a@example..com",
    "a@-example.com",
    "a@example-.com",
    "a@ex_ample.com",
    "a b@example.com",
    "a@exam ple.com",
    "ada@example.com\n",
    "\tada@example.com",
    "a\u0000@example.com",
    "a\u00a0b@example.com",
    "a\u200bb@example.com",
    "a\u202eb@example.com",
    "a\ufeffb@example.com",
    "<a@example.com>",
    '"a b"@example.com',
    "x@" + "d" * 64 + ".example",
    "a" * 250 + "@b.co",
]


@pytest.mark.parametrize(("key", "java"), JAVA_MURMUR2.items())
@pytest.mark.parametrize("partitions", [1, 8, 12, 97])
def test_partition_is_the_one_that_kafkas_java_client_chooses(
    key: bytes, java: int, partitions: int
) -> None:
    assert partition_of(key, partitions) == (java & 0x7FFFFFFF) % partitions


def test_key_is_the_utf8_of_the_id() -> None:
    assert encode_key("ä/😀") == b"\xc3\xa4/\xf0\x9f\x98\x80"


@pytest.mark.parametrize("address", GOOD)
def test_address_is_accepted(address: str) -> None:
    assert _EMAIL.validate_python(address) == address


@pytest.mark.parametrize("address", BAD)
def test_address_is_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        _EMAIL.validate_python(address)


@pytest.mark.parametrize("address", GOOD + BAD[:-1])
def test_rule_is_the_same_in_pythons_regular_expressions(address: str) -> None:
    matches = re.fullmatch(EMAIL_PATTERN[1:-1], address) is not None
    assert matches == (address in GOOD)


def test_hostile_address_is_refused_quickly() -> None:
    with pytest.raises(ValidationError):
        _EMAIL.validate_python("a." * 126 + "!")


@given(st.lists(st.binary(max_size=70), max_size=40), st.integers(1, 1000))
def test_many_keys_at_once_have_the_partitions_that_each_has_alone(
    keys: list[bytes], partitions: int
) -> None:
    assert partitions_of(keys, partitions) == [partition_of(key, partitions) for key in keys]
