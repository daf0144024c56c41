"""The life of a worker: the Faust app, preflight, readiness, lag, shutdown, restart."""
