"""The command line: ``python -m app worker`` and the commands beside it."""

from app.cli.main import main
from app.system.garbage import collect_rarely


def run() -> None:
    """Run the command that is asked for."""
    collect_rarely()
    main()


if __name__ == "__main__":
    run()
