"""Asking over tRPC, and what is expected of the answers."""

from typing import Any

from yarl import URL

from tests.component.conftest import Client

ADA = {"id": "ada", "name": "Ada", "email": "ada@example.com"}
BAD = {"id": "bad", "name": "", "email": "nonsense"}
JSON = {"Content-Type": "application/json"}


async def ask(client: Client, method: str, path: str, **more: Any) -> tuple[int, Any]:
    """Return status and parsed body."""
    answer = await client.request(method, f"/trpc/{path}", **more)
    assert answer.content_type == "application/json"
    return answer.status, await answer.json()


async def refused(client: Client, method: str, path: str, **more: Any) -> tuple[int, Any]:
    """Return status and parsed body of what failed before it was split into calls."""
    answer = await client.request(method, URL(f"/trpc/{path}", encoded=True), **more)
    assert answer.headers["Content-Type"] == "text/plain;charset=UTF-8"
    assert answer.headers["Vary"] == "trpc-accept, accept"
    return answer.status, await answer.json(content_type=None)


def error(
    code: str, number: int, status: int, message: str, path: str | None, reason: str
) -> dict[str, Any]:
    """Return an error envelope as @trpc/server makes it, with our reason."""
    data: dict[str, Any] = {"code": code, "httpStatus": status, "reason": reason}
    if path is not None:
        data["path"] = path
    return {"error": {"message": message, "code": number, "data": data}}
