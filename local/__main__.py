"""The entry point of ``python -m local``; the commands are in `local.cli`."""

import signal


def main() -> None:
    """Run the command that is asked for."""
    # Importing takes a moment, and nothing runs yet that would have to be stopped: Ctrl-C ends.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from local.cli import local  # noqa: PLC0415 - after the line above

    local()


if __name__ == "__main__":
    main()
