"""Cross-origin requests from the sites that a setting names. Never with cookies."""

from collections.abc import Mapping

from aiohttp import hdrs, web

from app.config.settings import Settings
from app.web.http import headers
from app.web.http.problems import Handler

_ANY = "*"

#: What a preflight is answered, for a day.
_PREFLIGHT: Mapping[str, str] = {
    hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(headers.METHODS),
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ", ".join(headers.READ).lower(),
    hdrs.ACCESS_CONTROL_MAX_AGE: "86400",
}
_EXPOSED = ", ".join(headers.SET)


def install(web_app: web.Application, settings: Settings) -> None:
    """Let scripts of the named sites call; where none is named, nothing is added."""
    if not settings.origins:
        return
    cors = _Cors(settings.origins)
    # Before all else: a preflight carries no key. The signal sees errors and streams as well.
    web_app.middlewares.insert(0, cors.answer_preflight)
    web_app.on_response_prepare.append(cors.add_headers)


class _Cors:
    def __init__(self, origins: frozenset[str]) -> None:
        self._origins = origins

    @web.middleware
    async def answer_preflight(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        asked = hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        if request.method == "OPTIONS" and asked and self._allows(request):
            return web.Response(status=204, headers=_PREFLIGHT)
        return await handler(request)

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        if _ANY not in self._origins:
            varies = response.headers.get(hdrs.VARY)
            response.headers[hdrs.VARY] = f"{varies}, Origin" if varies else "Origin"
        if self._allows(request):
            allowed = _ANY if _ANY in self._origins else request.headers[hdrs.ORIGIN]
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = allowed
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED

    def _allows(self, request: web.Request) -> bool:
        origin = request.headers.get(hdrs.ORIGIN)
        return origin is not None and (_ANY in self._origins or origin in self._origins)
