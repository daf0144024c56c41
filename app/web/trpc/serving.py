"""The route of tRPC."""

from aiohttp import web

from app.web.http.problems import ProblemError
from app.web.http.urls import rest_of_path
from app.web.trpc import subscriptions
from app.web.trpc.answers import batch, refused_whole, single
from app.web.trpc.calls import Calls, answer, input_of, methods_of
from app.web.trpc.streams import form_of, refused_members, stream, wants_members

routes = web.RouteTableDef()


@routes.route("*", "/trpc/{path:.*}")
async def serve(request: web.Request) -> web.StreamResponse:
    """Answer a tRPC request, single, batched or streamed."""
    if request.method == "OPTIONS":
        raise web.HTTPMethodNotAllowed("OPTIONS", methods_of(rest_of_path(request, "/trpc/")))
    calls = Calls.of(request)
    if calls.subscription is not None:
        return await subscriptions.stream(
            request, calls.subscription, input_of(request, calls.subscription)
        )
    form = form_of(request, is_batch=calls.is_batch)
    if form is not None:
        return await stream(request, calls, form)
    told: list[object] = [None] * len(calls.paths)
    await answer(request, calls, told.__setitem__)
    return batch(told, calls.paths) if calls.is_batch else single(told[0], calls.paths[0])


def failure(request: web.Request, problem: ProblemError) -> web.Response:
    """Return the answer to a request that failed as a whole."""
    return refused_members(request, problem) if wants_members(request) else refused_whole(problem)
