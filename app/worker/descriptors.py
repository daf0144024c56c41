"""File descriptors: how many the process may open, and what needs them."""

import resource

from app.config.settings import Settings

#: Those that are no clients' connections: of the process, of brokers; and of each store, those of
#: its logs, its locks and some of its files.
RESERVED, OF_STORE = 64, 8
#: Each partition has a store of users and one of emails.
STORES_OF_PARTITION = 2


def allowed() -> int:
    """Return how many this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def allow_all() -> None:
    """Let this process have as many as it is allowed to ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reserved(settings: Settings) -> int:
    """Return how many are kept for what is no connection of a client."""
    return RESERVED + OF_STORE * STORES_OF_PARTITION * settings.partitions
