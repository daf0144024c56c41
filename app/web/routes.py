"""The routes of the web view, installed into an aiohttp application."""

from pathlib import Path
from typing import Any

from aiohttp import web

from app.settings import Settings
from app.web import dead_letters, health, lookups, pages, trpc, writes
from app.web.problems import answer_errors
from app.web.services import SERVICES, Services

_STATIC = Path(__file__).parent / "static"
_KIB = 1024


def application_options(settings: Settings) -> dict[str, Any]:
    """Return how the application is made: its limits, and one place that answers errors."""
    return {
        "client_max_size": settings.max_body_kib * _KIB,
        "middlewares": [answer_errors],
    }


def install(web_app: web.Application, given: Services) -> None:
    """Add our routes to an application, with what their handlers work with."""
    web_app[SERVICES] = given
    for module in (health, pages, writes, lookups, dead_letters, trpc):
        web_app.add_routes(module.routes)
    web_app.router.add_static("/static/", _STATIC)
