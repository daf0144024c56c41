"""``python -m app recover``: commands for cases that only an operator can decide."""
