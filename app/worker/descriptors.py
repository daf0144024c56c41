"""File descriptors: how many the process may open, and what needs them."""

import resource

from app.config.settings import Settings

#: Descriptors that are not connections of clients: for the process and its brokers, and for each
#: store (its logs, its lock and some of its files).
RESERVED, OF_STORE = 64, 8
#: Each partition has a store of users and one of emails.
STORES_OF_PARTITION = 2


def allowed() -> int:
    """Return how many this process may open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def allow_all() -> None:
    """Raise the limit of this process as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reserved(settings: Settings) -> int:
    """Return how many are reserved for everything but connections of clients."""
    return RESERVED + OF_STORE * STORES_OF_PARTITION * settings.partitions
