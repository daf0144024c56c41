"""The description of the interface is whole, and made of what serves it."""

import hashlib
from pathlib import Path

import jsonschema_rs
import pytest

from app.domain.outcomes import Outcome
from app.web.api import openapi
from app.web.api.operations import OPERATIONS
from app.web.pages import static_files
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups

VENDOR = Path(static_files.__file__).parent / "static" / "vendor"

#: What is not for clients: pages and what they listen to, files, what workers and Prometheus ask,
#: and tRPC's one route.
NOT_DESCRIBED = {
    ("GET", "/"),
    ("GET", "/events"),
    ("GET", "/register"),
    ("POST", "/register"),
    ("GET", "/edit"),
    ("POST", "/edit"),
    ("GET", "/erase"),
    ("POST", "/erase"),
    ("POST", "/samples"),
    ("GET", "/static/{name}"),
    ("GET", "/email-holders/{key}"),
    ("*", "/trpc/{path}"),
    ("GET", "/metrics"),
    ("GET", "/metrics/targets"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/login"),
    ("POST", "/login"),
    ("POST", "/logout"),
}


async def test_it_is_made_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await (await client.get("/openapi.json")).read()
    monkeypatch.setattr(openapi, "document", lambda _: pytest.fail("made again"))
    assert await (await client.get("/openapi.json")).read() == first


async def test_every_route_is_described_and_nothing_else(client: Client) -> None:
    routes = {
        (route.method, (route.resource.canonical if route.resource else "").replace(":.+}", "}"))
        for route in client.app.router.routes()
        if route.method != "HEAD"
    }
    assert routes - NOT_DESCRIBED == set(OPERATIONS)


async def test_it_is_served(client: Client) -> None:
    answer = await client.get("/openapi.json")
    told = await answer.json()
    assert (answer.status, answer.content_type, told["openapi"]) == (
        200,
        "application/json",
        "3.1.0",
    )
    for operations in told["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["responses"]


async def test_what_may_be_wrong_with_any_request_is_described_of_each(client: Client) -> None:
    paths = (await (await client.get("/openapi.json")).json())["paths"]
    for path, described in paths.items():
        if path.startswith("/trpc/"):
            continue
        for method, operation in described.items():
            told = set(operation["responses"])
            assert {"400", "401", "403", "421", "429"} <= told, f"{method} {path}"
        assert (await client.get(f"{path}?a=1&a=2")).status == 400


async def test_every_schema_that_is_named_is_there(client: Client) -> None:
    text = await (await client.get("/openapi.json")).text()
    named = (await (await client.get("/openapi.json")).json())["components"]["schemas"]
    refs = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert refs <= set(named)
    for schema in named.values():
        jsonschema_rs.meta.validate(schema)


async def test_a_user_is_what_the_description_says(client: Client, lookups: FakeLookups) -> None:
    lookups.add("ada")
    described = (await (await client.get("/openapi.json")).json())["components"]["schemas"]["User"]
    jsonschema_rs.validate(described, await (await client.get("/users/ada")).json())


async def test_the_page_needs_nothing_from_elsewhere(client: Client) -> None:
    answer = await client.get("/docs", headers={"Accept": "text/html"})
    assert answer.status == 200
    assert "script-src 'self';" in answer.headers["Content-Security-Policy"]
    assert "http://" not in await answer.text()
    assert "https://" not in await answer.text()
    for path in (
        "docs.js",
        "vendor/swagger-ui/swagger-ui-bundle.js",
        "vendor/swagger-ui/swagger-ui.css",
    ):
        assert (await client.get(f"/static/{path}")).status == 200


@pytest.mark.parametrize("folder", [path.name for path in VENDOR.iterdir()])
def test_what_others_made_is_unchanged_and_has_its_licence(folder: str) -> None:
    files = VENDOR / folder
    lines = (files / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    assert sums.keys() == {path.name for path in files.iterdir()} - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((files / name).read_bytes()).hexdigest() == digest
    assert "LICENSE" in sums


async def test_every_reason_of_a_rejection_is_described(client: Client) -> None:
    told = await (await client.get("/openapi.json")).json()
    answer = told["paths"]["/registrations/{position}"]["get"]["responses"]["200"]
    described = answer["content"]["application/json"]["schema"]["properties"]
    assert described["reason"]["enum"] == [outcome.reason for outcome in Outcome if outcome.reason]
    for method in ("post", "patch", "delete"):
        path = "/users" if method == "post" else "/users/{id}"
        conflict = told["paths"][path][method]["responses"]["409"]
        assert conflict["headers"]["Retry-After"]["required"] is False
