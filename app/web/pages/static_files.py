"""Serves the static files of the pages, and nothing else.

A name is looked up, never opened: so none can be too long for the disk, or lead elsewhere.
"""

from pathlib import Path

from aiohttp import web

from app.web.http.problems import ProblemError

routes = web.RouteTableDef()

_FOLDER = Path(__file__).parent / "static"
_FILES = {str(file.relative_to(_FOLDER)): file for file in _FOLDER.rglob("*") if file.is_file()}


@routes.get("/static/{name:.+}")
async def get_file(request: web.Request) -> web.StreamResponse:
    """Send a file, or what a client's copy lacks of it."""
    file = _FILES.get(request.match_info["name"])
    if file is None:
        raise ProblemError(404, "not-found", "Not Found")
    return web.FileResponse(file)
