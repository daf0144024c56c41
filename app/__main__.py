"""The command line: ``python -m app worker`` and the commands beside it."""

from app.cli.main import main

if __name__ == "__main__":
    main()
