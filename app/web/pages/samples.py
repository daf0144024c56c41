"""Sample users, for who wants to look around in an empty registry."""

from itertools import product

from aiohttp import web

from app.domain.records import Registration
from app.web.auth.access import require_same_site
from app.web.services import services

routes = web.RouteTableDef()

_FIRST = (
    *("Ada", "Alan", "Anita", "Barbara", "Claude", "Donald", "Dorothy", "Edsger", "Evelyn"),
    *("Frances", "Grace", "Hedy", "Joan", "John", "Karen", "Katherine", "Ken", "Leslie"),
    *("Margaret", "Mary", "Niklaus", "Radia", "Robin", "Sophie", "Tim"),
)
_LAST = (
    *(
        "Allen",
        "Berners",
        "Boyd",
        "Clarke",
        "Codd",
        "Conway",
        "Dahl",
        "Easley",
        "Floyd",
        "Goldberg",
    ),
    *(
        "Hamilton",
        "Hopper",
        "Iverson",
        "Jackson",
        "Johnson",
        "Keller",
        "Kilburn",
        "Knuth",
        "Lamarr",
    ),
    *("Lamport", "Liskov", "Lovelace", "McCarthy", "Milner", "Nygaard", "Perlman", "Ritchie"),
    *("Rossum", "Shannon", "Shaw", "Spertus", "Sutherland", "Tarjan", "Thompson", "Turing"),
    *("Vaughan", "Wilkes", "Wilson", "Wirth", "Wozniak"),
)


def samples() -> list[Registration]:
    """Return a thousand users, always the same."""
    return [
        Registration(
            id=f"sample-{number:04}",
            name=f"{first} {last}",
            email=f"{first}.{last}@example.com".lower(),
        )
        for number, (first, last) in enumerate(product(_FIRST, _LAST), 1)
    ]


@routes.post("/samples")
async def register_samples(request: web.Request) -> web.Response:
    """Register sample users, if nobody is registered; then show the first page."""
    require_same_site(request)
    given = services(request)
    newest = await given.lookups.newest(1)
    if not (newest.users or newest.unavailable):
        for failure in (await given.write_all(samples())).failures():
            raise failure
    raise web.HTTPSeeOther("/")
