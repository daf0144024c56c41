"""React Query's hooks of tRPC on a real worker: queries, mutations, pages, a subscription."""

import json
import uuid

from tests.support import node_toolbox
from tests.support.worker import Worker


def test_a_component_registers_lists_and_follows_users(worker: Worker) -> None:
    prefix = f"react-{uuid.uuid4().hex}-"
    printed = node_toolbox.run_script(
        "react/react_client.mjs",
        f"{worker.url}/trpc",
        prefix,
        environment={"NODE_OPTIONS": "--experimental-eventsource"},
    )
    ids = [f"{prefix}{number}" for number in range(5)]
    assert json.loads(printed) == {
        "hello": "Hello tRPC!",
        "names": [None, "Person 0"],
        "taken": "id-taken",
        "pages": [ids[:2], ids[2:4], ids[4:]],
        "text": "Hello tRPC!, 3 pages",
    }
