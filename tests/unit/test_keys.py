"""Record keys: partitions as Kafka chooses them."""

import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from app.domain.keys import encode_key, partition_of, partitions_of

#: From kafka-clients' UtilsTest.testMurmur2: the hashes that Kafka's Java client computes.
JAVA_MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "java"), JAVA_MURMUR2.items())
@pytest.mark.parametrize("partitions", [1, 8, 12, 97])
def test_partition_is_the_one_that_kafkas_java_client_chooses(
    key: bytes, java: int, partitions: int
) -> None:
    assert partition_of(key, partitions) == (java & 0x7FFFFFFF) % partitions


@given(st.binary(max_size=70), st.integers(1, 1000))
def test_partition_is_the_one_that_aiokafka_chooses(key: bytes, partitions: int) -> None:
    assert partition_of(key, partitions) == (murmur2(key) & 0x7FFFFFFF) % partitions


def test_key_is_the_utf8_of_the_id() -> None:
    assert encode_key("ä/😀") == b"\xc3\xa4/\xf0\x9f\x98\x80"


@given(st.lists(st.binary(max_size=70), max_size=40), st.integers(1, 1000))
def test_many_keys_at_once_have_the_partitions_that_each_has_alone(
    keys: list[bytes], partitions: int
) -> None:
    assert partitions_of(keys, partitions) == [partition_of(key, partitions) for key in keys]
