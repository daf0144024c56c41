"""A commit behind a request to join was refused, and so ended the membership that had just begun.

The broker answers a connection's requests in turn, and a request to join only when all members have
come, or the session of those that have not is over. What was committed meanwhile was of the
generation before, whereupon aiokafka forgot the new one and joined again: without end, if something
was committed often enough.
"""

from tests.support.worker import Registry, wait_until

#: A session, and what follows it.
SECONDS = 10 + 5


def test_members_agree_while_the_place_of_a_stopped_worker_is_kept(registry: Registry) -> None:
    with registry.worker(1) as one:
        with registry.worker(2) as two:
            wait_until(lambda: one.is_ready() and two.is_ready(), 30, "both are ready")
        with registry.worker(3) as three:
            wait_until(lambda: one.is_ready() and three.is_ready(), SECONDS, "both are ready")
