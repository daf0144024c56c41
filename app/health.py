"""``python -m app.health``: the health check of a container, for the worker beside it.

Asks the worker at INTERNAL_HOST and INTERNAL_PORT, or without these at WEB_HOST and WEB_PORT; over
TLS if TLS_CERT_FILE is set. Exit status 0 if it is ready (or, with ``--live``, if it lives), else
1, with the reasons in one line. It is started every few seconds, so it imports nothing that it can
do without: settings are not checked here.
"""

import http.client
import json
import os
import ssl
import sys
from collections.abc import Mapping, Sequence

TIMEOUT_SECONDS = 2.5

#: Where to ask who listens on all addresses.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  it is asked, not listened on


def connection(environment: Mapping[str, str]) -> http.client.HTTPConnection:
    """Return how the worker is reached that the settings are of."""
    internal_port = environment.get("INTERNAL_PORT", "").strip()
    name = "INTERNAL_HOST" if internal_port else "WEB_HOST"
    host = environment.get(name, "").strip().strip("[]") or "127.0.0.1"
    port = int(internal_port or environment.get("WEB_PORT", "").strip() or 6066)
    host = _LOOPBACK.get(host, host)
    if not environment.get("TLS_CERT_FILE", "").strip():
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    # It is asked how it is, and told nothing: who signed its certificate does not matter here.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)


def check(environment: Mapping[str, str], path: str) -> str | None:
    """Return what is wrong with the worker, or None."""
    try:
        asked = connection(environment)
        asked.request("GET", path)
        answer = asked.getresponse()
        body = answer.read()
        asked.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"no worker answers: {error}"
    if answer.status == http.client.OK:
        return None
    try:
        return "; ".join(json.loads(body)["reasons"])
    except (ValueError, LookupError, TypeError):
        return f"status {answer.status}"


def main(arguments: Sequence[str]) -> int:
    """Check the worker; return the exit status."""
    wrong = check(os.environ, "/health/live" if "--live" in arguments else "/health/ready")
    print(wrong or "ok")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
