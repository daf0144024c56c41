"""``python -m app recover``: ways out where only people can decide how a registry goes on."""
