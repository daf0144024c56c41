"""Describes the HTTP interface as an OpenAPI 3.1 document.

Summaries are the first lines of the docstrings of the handlers. `operations` has the rest.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import orjson
from aiohttp import web
from pydantic import TypeAdapter

from app.web.api.models import Problem, TrpcError
from app.web.api.operations import (
    DETAILS,
    ERRORS_OF_ALL,
    IN_PATH,
    OPERATIONS,
    RETRY_AFTER,
    Lines,
    Operation,
    Schema,
)
from app.web.http.negotiation import json, page
from app.web.http.proxies import base_url
from app.web.pages import rendering
from app.web.trpc.procedures import PROCEDURES, Procedure

routes = web.RouteTableDef()

_REF = "#/components/schemas/{model}"


class _Schemas:
    """Collects the schemas of types, and of the models that they name."""

    def __init__(self) -> None:
        self.named: dict[str, Schema] = {}

    def of(self, type_: Any, mode: Literal["validation", "serialization"]) -> Schema:
        """Return a type's schema."""
        schema = TypeAdapter(type_).json_schema(ref_template=_REF, mode=mode)
        self.named |= schema.pop("$defs", {})
        return schema


def document(app: web.Application) -> dict[str, Any]:
    """Return the document of an application's routes."""
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), summary in _described(app):
        operation = _operation(OPERATIONS[method, path], path, summary, schemas)
        paths.setdefault(path, {})[method.lower()] = operation
    for name, procedure in PROCEDURES.items():
        paths[f"/trpc/{name}"] = _procedure(name, procedure, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "User registry",
            "version": version("user-registry"),
            "description": "Writes are acknowledged once they are durable, and applied after it.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.named,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # Callers need a key only where KEYS_FILE is set, so "no key" is listed, too.
        "security": [{}, {"key": []}],
    }


def _described(app: web.Application) -> Iterable[tuple[tuple[str, str], str]]:
    """Yield the routes in `OPERATIONS`, each with its summary."""
    for route in app.router.routes():
        path = route.resource.canonical if route.resource else ""
        if (route.method, path) in OPERATIONS:
            yield (route.method, path), (route.handler.__doc__ or "").partition("\n")[0]


def _operation(given: Operation, path: str, summary: str, schemas: _Schemas) -> Schema:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in IN_PATH.items()
        if f"{{{name}}}" in path
    ]
    described: Schema = {
        "summary": summary,
        "parameters": [*in_path, *given.parameters],
        "responses": _responses(given, schemas),
    }
    if given.body is not None:
        content = {kind: {"schema": schemas.of(t, "validation")} for kind, t in given.body.items()}
        described["requestBody"] = {"required": True, "content": content}
    if given.body_description:
        described["requestBody"]["description"] = given.body_description
    return described


def _responses(given: Operation, schemas: _Schemas) -> Schema:
    told = {
        str(status): {
            "description": description,
            **_content(given.content_types, type_, schemas),
            **({"headers": given.headers} if given.headers else {}),
        }
        for status, (description, type_) in given.answers.items()
    }
    # pydantic names a model only if another type contains it.
    schemas.of(list[Problem], "serialization")
    problem = {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}}
    for status in sorted({*given.errors, *ERRORS_OF_ALL}):
        told[str(status)] = {"description": DETAILS[status], "content": problem}
        if status in RETRY_AFTER:
            told[str(status)]["headers"] = RETRY_AFTER[status]
    return told


def _content(kinds: Sequence[str], type_: Any, schemas: _Schemas) -> Schema:
    """Return what the body of an answer is; nothing for an answer without a body."""
    if type_ is None:
        return {}
    if isinstance(type_, Lines):
        kinds, type_ = ("application/x-ndjson",), type_.of
    return {"content": {kind: {"schema": schemas.of(type_, "serialization")} for kind in kinds}}


def _procedure(name: str, procedure: Procedure, schemas: _Schemas) -> Schema:
    data = procedure.output.json_schema(ref_template=_REF, mode="serialization")
    schemas.named |= data.pop("$defs", {})
    result = {"type": "object", "properties": {"result": {"properties": {"data": data}}}}
    schemas.of(list[TrpcError], "serialization")
    # An error before the request is split into calls is text/plain, as in tRPC's own servers.
    form = {"schema": {"$ref": _REF.format(model="TrpcError")}}
    error = {"application/json": form, "text/plain": form}
    described: Schema = {
        "summary": (procedure.resolve.__doc__ or name).partition("\n")[0],
        "responses": {
            "200": {"description": "Done", "content": {"application/json": {"schema": result}}},
            "default": {"description": "An error, by its `httpStatus`", "content": error},
        },
    }
    given = procedure.input
    if given is not None and procedure.kind == "mutation":
        body = {"application/json": {"schema": given.json_schema(ref_template=_REF)}}
        described["requestBody"] = {"required": True, "content": body}
    elif given is not None:
        content = {"application/json": {"schema": given.json_schema(ref_template=_REF)}}
        described["parameters"] = [
            {"name": "input", "in": "query", "required": procedure.needs_input, "content": content}
        ]
    return {"post" if procedure.kind == "mutation" else "get": described}


class _Described:
    """The document of an application, made once."""

    def __init__(self, web_app: web.Application) -> None:
        self._web_app = web_app

    @cached_property
    def document(self) -> bytes:
        """The document as JSON, without the servers."""
        return orjson.dumps(document(self._web_app))


_DESCRIBED = web.AppKey("described", _Described)


def install(web_app: web.Application) -> None:
    """Let the routes of an application be described, at the first request for it."""
    web_app[_DESCRIBED] = _Described(web_app)


@routes.get("/openapi.json")
async def get_openapi(request: web.Request) -> web.Response:
    """Describe this interface."""
    servers = orjson.dumps({"servers": [{"url": base_url(request)}]})
    return json(servers[:-1] + b"," + request.app[_DESCRIBED].document[1:])


#: Swagger UI sets styles on its elements, and its stylesheet contains icons.
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@routes.get("/docs")
async def get_docs(_: web.Request) -> web.Response:
    """Show the description of this interface, to be read and tried out."""
    return page(rendering.docs(), headers={"Content-Security-Policy": _DOCS_POLICY})
