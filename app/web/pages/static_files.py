"""Serves the static files of the pages, and nothing else.

A name is looked up in a table, and never opened as a path. So no name can be too long, or lead
elsewhere.
"""

from pathlib import Path

from aiohttp import web

from app.web.http.problems import ProblemError
from app.web.http.urls import rest_of

routes = web.RouteTableDef()

_FOLDER = Path(__file__).parent / "static"
_FILES = {str(file.relative_to(_FOLDER)): file for file in _FOLDER.rglob("*") if file.is_file()}


@routes.get(rest_of("/static", "name"))
async def get_file(request: web.Request) -> web.StreamResponse:
    """Send a file, or the part that the client's copy lacks."""
    file = _FILES.get(request.match_info["name"])
    if file is None:
        raise ProblemError(404, "not-found", "Not Found")
    return web.FileResponse(file)
