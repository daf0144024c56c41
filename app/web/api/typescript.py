"""The tRPC procedures as a TypeScript declaration.

``python -m app.web.api.typescript FILE`` writes it (``make clients``). The types come from the JSON
schemas of the adapters that validate the calls.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from app.system.files import write_whole
from app.web.trpc.procedures import PROCEDURES, Procedure
from app.web.trpc.subscriptions import SUBSCRIPTIONS, Subscription

_Schema = Mapping[str, Any]

_BEGIN = """\
// Made from the registry's own types by `make clients`; changes here would be lost.
import type {
  TRPCBuiltRouter,
  TRPCDefaultErrorShape,
  TRPCMutationProcedure,
  TRPCQueryProcedure,
  TRPCSubscriptionProcedure,
} from '@trpc/server';
"""

_ROUTER = """\
/** What `TRPCClientError.data` says of an error. */
export type ErrorData = TRPCDefaultErrorShape['data'] & {
  /** The last part of the problem's type, such as `email-taken`: docs/reference/problems.md. */
  reason: string;
  /** Each member that is not valid: a JSON pointer, and what is wrong with it. */
  errors?: { pointer: string; detail: string }[];
  /** After so many seconds the same request may be sent again. */
  retryAfter?: number;
};

/** An error of any procedure. */
export type ErrorShape = Omit<TRPCDefaultErrorShape, 'data'> & { data: ErrorData };

/** The registry's procedures: `createTRPCClient<AppRouter>(…)`. */
export type AppRouter = TRPCBuiltRouter<
  { ctx: object; meta: object; errorShape: ErrorShape; transformer: false },
  {
%s
  }
>;
"""

_SIMPLE = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}


def declaration(
    procedures: Mapping[str, Procedure] = PROCEDURES,
    subscriptions: Mapping[str, Subscription] = SUBSCRIPTIONS,
) -> str:
    """Return the declaration of all procedures, and of all types that they name."""
    named: dict[str, _Schema] = {}
    router = [
        *(f"    {name}: {_procedure(each, named)};" for name, each in procedures.items()),
        *(f"    {name}: {_subscription(each, named)};" for name, each in subscriptions.items()),
    ]
    interfaces = [_interface(name, schema) for name, schema in sorted(named.items())]
    return "\n".join([_BEGIN, *interfaces, _ROUTER % "\n".join(router)])


def _procedure(procedure: Procedure, named: dict[str, _Schema]) -> str:
    takes = "void" if procedure.input is None else _of(procedure.input, "validation", named)
    if procedure.input is not None and not procedure.needs_input:
        takes += " | void"
    returns = _of(procedure.output, "serialization", named)
    kind = "TRPCQueryProcedure" if procedure.kind == "query" else "TRPCMutationProcedure"
    return f"{kind}<{{ input: {takes}; output: {returns}; meta: object }}>"


def _subscription(subscription: Subscription, named: dict[str, _Schema]) -> str:
    takes = _of(subscription.input, "validation", named)
    if not subscription.needs_input:
        takes += " | void"
    # As tRPC's own types tell a client of `tracked()`: inferTrackedOutput.
    told = f"{{ id: string; data: {_of(subscription.output, 'serialization', named)} }}"
    output = f"AsyncIterable<{told}, void, unknown>"
    return f"TRPCSubscriptionProcedure<{{ input: {takes}; output: {output}; meta: object }}>"


def _of(adapter: TypeAdapter[Any], mode: Any, named: dict[str, _Schema]) -> str:
    """Return the type of an adapter, and note the types that it names."""
    schema = adapter.json_schema(mode=mode)
    named |= schema.pop("$defs", {})
    if schema.get("type") == "array" and schema["items"].get("type") == "object":
        return f"{_name(schema['items'], named)}[]"
    return _name(schema, named) if schema.get("type") == "object" else _type(schema)


def _name(schema: _Schema, named: dict[str, _Schema]) -> str:
    """Note the schema of an object under its name, and return that."""
    named[schema["title"]] = schema
    return str(schema["title"])


def _interface(name: str, schema: _Schema) -> str:
    first_line = schema["description"].partition("\n")[0].replace("``", "`")
    return "\n".join(
        [f"/** {first_line} */", f"export interface {name} {{", *_members(schema), "}\n"]
    )


def _members(schema: _Schema) -> Iterator[str]:
    required = schema.get("required", ())
    for name, member in schema["properties"].items():
        yield f"  {name}{'' if name in required else '?'}: {_type(member)};"


def _type(schema: _Schema) -> str:
    """Return the TypeScript type of a JSON schema; raise for an unknown kind of schema."""
    match schema:
        case {"$ref": str(ref)}:
            type_ = ref.rpartition("/")[2]
        case {"anyOf": list(options)}:
            type_ = " | ".join(map(_type, options))
        case {"const": str(value)}:
            type_ = f"'{value}'"
        case {"enum": list(values)}:
            type_ = " | ".join(f"'{value}'" for value in values)
        case {"type": "array", "items": item}:
            type_ = f"{_type(item)}[]"
        case {"patternProperties": dict(by_key)}:
            type_ = f"Record<string, {' | '.join(map(_type, by_key.values()))}>"
        case {"type": str(kind)}:
            type_ = _SIMPLE[kind]
        case _:
            raise NotImplementedError(f"no TypeScript type for {schema}")
    return type_


if __name__ == "__main__":
    write_whole(Path(sys.argv[1]), declaration())
