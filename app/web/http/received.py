"""What RFC 9112 requires of every request, checked before anything else.

aiohttp's parser has checked the framing. The rest of RFC 9112 is checked here, for all routes.
"""

import re

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from app.domain.hosts import host_in
from app.web.http.headers import METHODS
from app.web.http.problems import Handler, ProblemError
from app.web.http.urls import require_escapes, require_once

_VERSIONS = (HttpVersion10, HttpVersion11)
_CLOSE = {"Connection": "close"}
#: A path; the whole server, for OPTIONS; a host, for CONNECT, which nobody may do.
_TARGET = re.compile(r"/|[^/]*$")
_SCHEMES = ("http", "https")


def in_origin_form(message: RawRequestMessage) -> RawRequestMessage:
    """Return a request whose target has no host; where it has one, that is the host it is for.

    RFC 9112, section 3.2.2.
    """
    url = message.url
    if message.path.startswith("/") or url.scheme not in _SCHEMES or not url.raw_authority:
        return message
    headers = CIMultiDict(message.headers)
    headers[hdrs.HOST] = url.raw_authority
    rest = message.path.partition("://")[2].removeprefix(url.raw_authority)
    target = rest if rest.startswith("/") else f"/{rest}"
    path, _, query = target.partition("?")
    return message._replace(
        headers=CIMultiDictProxy(headers),
        path=target,
        url=URL.build(path=path, query_string=query, encoded=True),
    )


#: Below it the first of several parameters counts, as in tRPC's own servers.
_FIRST_COUNTS = "/trpc/"


@web.middleware
async def refuse_malformed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let through what is well-formed."""
    if request._version not in _VERSIONS:
        request._version = HttpVersion11  # of the answer: nobody has asked for `version` yet
        raise ProblemError(505, "unsupported-version", "Speak HTTP/1.1.", headers=_CLOSE)
    if request.version < HttpVersion11 and hdrs.TRANSFER_ENCODING in request.headers:
        raise _malformed("HTTP/1.0 has no Transfer-Encoding.")
    if not _names_host(request):
        raise _malformed("The Host is not valid.")
    if "#" in request.raw_path or not _TARGET.match(request.raw_path):
        raise _malformed("The target is no path, or has a fragment.")
    require_escapes(request.raw_path)
    if not request.path.startswith(_FIRST_COUNTS):
        require_once(name for name, _ in request.query.items())
    if request.method == "OPTIONS" and request.raw_path == "*":
        return web.Response(status=204, headers={"Allow": ", ".join((*METHODS, "OPTIONS"))})
    return await handler(request)


def _malformed(detail: str) -> ProblemError:
    return ProblemError(400, "malformed", detail, headers=_CLOSE)


def _names_host(request: web.Request) -> bool:
    """Return whether the host is one; the parser lets only HTTP/1.0 leave it out."""
    host = request.headers.get(hdrs.HOST)
    return request.version == HttpVersion10 if host is None else host_in(host) is not None
