"""``python -m local.handover FD COMMAND…``: starts a program that listens on an open socket.

It takes a program of its own: whoever is handed sockets is told the id of its own process with
them, and nobody knows that before the process is there.
"""

import os
import sys

from app.system.handed_sockets import hand_over


def main(descriptor: int, command: list[str]) -> None:
    """Let the command take this process's place."""
    handed = hand_over([(descriptor, "shared")])
    os.execve(command[0], command, os.environ | handed)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
