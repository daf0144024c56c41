"""The idea of this project on one screen, in stock Faust: a user registry.

    python examples/minimal.py worker --web-port 6070
    curl http://127.0.0.1:6070/users/ -d '{"id": "ada", "name": "Ada", "email": "ada@example.com"}'
    curl http://127.0.0.1:6070/users/ada/

It needs Kafka at KAFKA_BROKERS (127.0.0.1:9092), and the packages of `make setup`.
"""

import os

import faust
from faust.web import Request, Response, View


class User(faust.Record, include_metadata=False):
    """A registration, and a row of the table."""

    id: str
    name: str
    email: str


app = faust.App(
    "minimal-registry",
    broker=f"kafka://{os.environ.get('KAFKA_BROKERS', '127.0.0.1:9092')}",
    store="rocksdb://",
    topic_partitions=4,
    web_bind="127.0.0.1",
)
# Faust makes internal topics. A table has JSON keys: so must its topic, or their partitions differ.
registrations = app.topic(
    "minimal-registrations", key_type=str, key_serializer="json", value_type=User, internal=True
)
users = app.Table("minimal-users", key_type=str, value_type=User)


@app.agent(registrations)
async def register(stream: faust.StreamT[User]) -> None:
    """Apply registrations: the first one of an id stands."""
    async for user in stream:
        if user.id not in users:
            users[user.id] = user


@app.page("/users/")
class Users(View):
    """Takes registrations: any worker can."""

    async def post(self, request: Request) -> Response:
        """Send a registration to the topic."""
        user = User.from_data(await request.json())
        await registrations.send(key=user.id, value=user)
        return self.json({"status": "accepted"}, status=202)


@app.page("/users/{user_id}/")
@app.table_route(table=users, match_info="user_id")
async def look_up(view: View, request: Request, user_id: str) -> Response:
    """Look a user up, at the worker that has the row."""
    user = users.get(user_id)
    return view.json({"error": "not found"}, status=404) if user is None else view.json(user)


if __name__ == "__main__":
    app.main()
