"""A hostile client: what one without a key can do to a worker, on loopback and bounded in time."""
