"""The methods and headers that clients use, in one list for CORS and OPTIONS.

`tests/unit/test_headers.py` fails if one is read or set anywhere and missing here.
"""

#: What our routes take, one or the other.
METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")

#: What requests may say beside what every script may send (CORS-safelisted request-headers).
READ = (
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "Last-Event-ID",
    "Prefer",
    "Range",
    "Registry-After",
    "X-Request-Id",
    "traceparent",
    "tracestate",
    "trpc-accept",
    "trpc-batch-mode",
    "x-trpc-source",
)

#: What answers tell beside what every script may read (CORS-safelisted response-headers).
SET = (
    "Accept-Encoding",
    "Allow",
    "Content-Disposition",
    "ETag",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Registry-Stale-Seconds",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-Id",
    "traceparent",
)
