"""Builds field lists of the newer ("flexible") encoding.

It has compact arrays and texts, and tags behind each struct.
"""

from typing import Any

from aiokafka.protocol.types import CompactArray, CompactString, Int32, Schema, TaggedFields

TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)


def flexible(*fields: tuple[str, Any]) -> Schema:
    """Return a struct."""
    return Schema(*fields, _TAGS)


def each(*fields: tuple[str, Any]) -> CompactArray:
    """Return an array of structs."""
    return CompactArray(*fields, _TAGS)


#: Partitions by topic.
PLACES = ("topics", each(("topic", TEXT), ("partitions", CompactArray(Int32))))


def answers(*fields: tuple[str, Any]) -> tuple[str, Any]:
    """Return a field of structs by topic and partition."""
    return "topics", each(("topic", TEXT), ("partitions", each(("partition", Int32), *fields)))
