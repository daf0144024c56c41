"""``python -m app export`` and ``import``: a registry to a file, and a file to a registry."""
