"""Sockets that a program gets from the one before it, or from the one that starts it.

As systemd hands sockets to a service (sd_listen_fds(3)), so does a worker that begins again in its
own process, and so does the supervisor of `make run`.
"""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

#: The first file descriptor that is handed over; others follow it.
_FIRST = 3
#: What a worker calls the sockets that it has opened itself. All others are shared.
PUBLIC, INTERNAL = "public", "internal"


@dataclass(frozen=True, slots=True)
class Inherited:
    """A socket that was handed to this process to listen on, and its name."""

    socket: socket.socket
    name: str

    @property
    def is_shared(self) -> bool:
        """Whether other processes may accept connections from it, too."""
        return self.name not in (PUBLIC, INTERNAL)


@cache
def inherited() -> list[Inherited]:
    """Return what was handed to this process to listen on; usually nothing."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    # systemd names each.
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    names += [PUBLIC] * (count - len(names))
    handed = [
        Inherited(socket.socket(fileno=number), name or PUBLIC)
        for number, name in zip(range(_FIRST, _FIRST + count), names, strict=False)
    ]
    for each in handed:
        each.socket.set_inheritable(False)
    return handed


def hand_over(sockets: Sequence[tuple[int, str]]) -> dict[str, str]:
    """Put sockets where the program finds them that takes this one's place; return what it is told.

    ``sockets`` are file descriptors, beyond those that are put in their places, and names.
    """
    for place, (descriptor, _) in enumerate(sockets, start=_FIRST):
        if descriptor != place:
            os.dup2(descriptor, place, inheritable=True)
            os.set_inheritable(descriptor, False)
    return {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(sockets)),
        "LISTEN_FDNAMES": ":".join(name for _, name in sockets),
    }
