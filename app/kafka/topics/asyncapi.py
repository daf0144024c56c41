"""Describes the topics and their records as an AsyncAPI 3 document.

``python -m app.kafka.topics.asyncapi FILE`` writes it (``make clients``).
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from app.config.settings import Settings
from app.domain.email_claims import Claim, Holder, Verdict
from app.domain.outcomes import Outcome
from app.domain.parsing import MOVED_FROM_HEADER
from app.domain.records import Erasure, PositionToken, Registration, Update, UserId, UserRow
from app.kafka.topics.declaration import TopicSpec, declare
from app.system.files import write_whole

_Schema = dict[str, Any]

#: Topic settings that AsyncAPI has as lists.
_LISTS: Final = {"cleanup.policy"}

_POSITION: Final = TypeAdapter(PositionToken).json_schema()
_EMAIL_KEY: Final = {
    "type": "string",
    "description": "HMAC-SHA256 of the normalised address under EMAIL_SECRET.",
}


@dataclass(frozen=True, slots=True)
class _Message:
    """A kind of record: its key, its value, its headers."""

    summary: str
    key: _Schema
    payload: _Schema
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class _Channel:
    """A topic: its records, and what workers do with them."""

    description: str
    messages: tuple[str, ...]
    actions: tuple[str, ...]
    #: Whether other programs may rely on its records.
    is_public: bool = False


def _schema(type_: Any) -> _Schema:
    """Return a type's schema, with all schemas that it refers to."""
    schema: _Schema = TypeAdapter(type_).json_schema()
    return schema


def _outcome() -> _Schema:
    # An unreadable record may have no id, which is the key here.
    told = set(Outcome) - {Outcome.PENDING, Outcome.DEAD_LETTER}
    final = sorted(told)
    return {
        "type": "object",
        "required": ["position", "outcome"],
        "properties": {
            "position": _POSITION,
            "outcome": {"enum": list(dict.fromkeys(outcome.word for outcome in final))},
            "reason": {"enum": [outcome.reason for outcome in final if outcome.reason]},
            "moved_to": _POSITION,
        },
    }


_ID: Final = _schema(UserId)
_MOVED: Final = {MOVED_FROM_HEADER: "The position at which a moved record first stood."}

_MESSAGES: Final[Mapping[str, _Message]] = {
    "registration": _Message("Registers a user.", _ID, _schema(Registration), _MOVED),
    "update": _Message("Changes a user.", _ID, _schema(Update), _MOVED),
    "erasure": _Message("Erases a user: a tombstone.", _ID, {"type": "null"}, _MOVED),
    "conditionalErasure": _Message(
        "Erases a user, in one state of it if it names one.", _ID, _schema(Erasure), _MOVED
    ),
    "claim": _Message("An attempt wants an address, or releases it.", _EMAIL_KEY, _schema(Claim)),
    "verdict": _Message("The answer to a claim.", _ID, _schema(Verdict)),
    "outcome": _Message("What became of a record of user-registrations.", _ID, _outcome()),
    "deadLetter": _Message(
        "The original bytes of a record that cannot be applied.",
        {"type": "string", "description": "<source topic>/<position>"},
        {"description": "Any bytes."},
        {
            "error": "The cause, a stable word.",
            "error-detail": "The cause as a sentence, without personal data.",
            "source-topic": "The topic of the original.",
            "source-partition": "Its partition.",
            "source-offset": "Its offset.",
            "source-position": "Its position.",
            "source-timestamp-ms": "Its timestamp.",
        },
    ),
    "userRow": _Message("A row of the table users.", _ID, _schema(UserRow)),
    "emailRow": _Message("A row of the table emails.", _EMAIL_KEY, _schema(Holder)),
    "partitioning": _Message(
        "How many partitions the registry has.", {"const": "partitioning"}, {"type": "object"}
    ),
}

#: By the field of `Topics`.
_CHANNELS: Final[Mapping[str, _Channel]] = {
    "user_registrations": _Channel(
        "Registrations, updates and erasures, from workers and from any producer. The partition "
        "of a record should be murmur2 of its key; workers move records that stand elsewhere.",
        ("registration", "update", "erasure", "conditionalErasure"),
        ("receive", "send"),
        is_public=True,
    ),
    "email_claims": _Channel("Claims of addresses.", ("claim",), ("receive", "send")),
    "email_decisions": _Channel("Answers to claims.", ("verdict",), ("receive", "send")),
    "registration_outcomes": _Channel(
        "One record for each record of user-registrations that is settled, except dead letters.",
        ("outcome",),
        ("send",),
        is_public=True,
    ),
    "dead_letter": _Channel(
        "Records that cannot be applied.", ("deadLetter",), ("send",), is_public=True
    ),
    "users_changelog": _Channel("Changelog of users.", ("userRow",), ("receive", "send")),
    "emails_changelog": _Channel("Changelog of emails.", ("emailRow",), ("receive", "send")),
    "partitioning": _Channel("Partitioning.", ("partitioning",), ("receive", "send")),
}


def document(settings: Settings) -> dict[str, Any]:
    """Return the document of the topics of some settings."""
    topics = declare(settings)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "User registry",
            "version": version("user-registry"),
            "description": "Topics and records. Programs may rely on the channels with the tag "
            "public; all others are internal, and may change with each version.",
        },
        "defaultContentType": "application/json",
        "channels": {
            name: _channel(channel, getattr(topics, name)) for name, channel in _CHANNELS.items()
        },
        "operations": dict(_operations()),
        "components": {
            "messages": {name: _message(name, message) for name, message in _MESSAGES.items()}
        },
    }


def _channel(channel: _Channel, topic: TopicSpec) -> dict[str, Any]:
    binding = {
        "partitions": topic.partitions,
        "topicConfiguration": {name: _value(name, text) for name, text in topic.config.items()},
        "bindingVersion": "0.5.0",
    }
    return {
        "address": topic.name,
        "description": channel.description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in channel.messages},
        "tags": [{"name": "public" if channel.is_public else "internal"}],
        "bindings": {"kafka": binding},
    }


def _value(name: str, text: str) -> object:
    return text.split(",") if name in _LISTS else int(text) if text.isdigit() else text


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, channel in _CHANNELS.items():
        for action in channel.actions:
            yield (
                f"{action}_{name}",
                {"action": action, "channel": {"$ref": f"#/channels/{name}"}},
            )


def _message(name: str, message: _Message) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": name,
        "summary": message.summary,
        "payload": message.payload,
        "bindings": {"kafka": {"key": message.key, "bindingVersion": "0.5.0"}},
    }
    if message.headers is not None:
        properties = {
            header: {"type": "string", "description": meaning}
            for header, meaning in message.headers.items()
        }
        told["headers"] = {"type": "object", "properties": properties}
    return told


def defaults() -> Settings:
    """Return the default settings."""
    fields: Mapping[str, FieldInfo] = Settings.model_fields
    return Settings.model_construct(**{name: field.default for name, field in fields.items()})


def text() -> str:
    """Return the document of a registry with default settings, as JSON."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(document(defaults()), option=options).decode()


if __name__ == "__main__":
    write_whole(Path(sys.argv[1]), text())
