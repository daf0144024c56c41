"""``python -m app export`` and ``import``: users to a file, and back."""
