"""Content negotiation: JSON for programs, pages for people, one address for both."""

from collections.abc import Mapping

from aiohttp import web

#: Pages use nothing but their own files, and nobody frames them.
PAGE_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": browsers then send the form's Origin as "null".
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Accept",
}

#: A page whose script asks this worker, and nobody else, for what is new.
LIVE_PAGE_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": PAGE_HEADERS["Content-Security-Policy"] + "; connect-src 'self'"
}

#: Of server-sent events: nothing between here and the client may keep or gather them.
EVENT_HEADERS: Mapping[str, str] = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


def wants_page(request: web.Request) -> bool:
    """Return whether the client prefers HTML to JSON; who names neither gets JSON."""
    accepted = request.headers.get("Accept", "")
    qualities = dict(_media_range(part) for part in accepted.lower().split(","))
    html = qualities.get("text/html", 0.0)
    json = qualities.get("application/json", qualities.get("application/problem+json", 0.0))
    return html > 0 and html >= json


def _media_range(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip() for piece in part.split(";"))
    quality = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
    try:
        return name, float(quality)
    except ValueError:
        return name, 0.0


def page(html: str, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a page with the headers that keep it safe."""
    return web.Response(
        text=html,
        status=status,
        content_type="text/html",
        charset="utf-8",
        headers={**PAGE_HEADERS, **(headers or {})},
    )


def json(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return JSON bytes."""
    return web.Response(
        body=body,
        status=status,
        content_type="application/json",
        headers={"Vary": "Accept", "Cache-Control": "no-store", **(headers or {})},
    )
