"""Whatever header the web view reads or sets is listed, or is nothing for other sites' scripts."""

import ast
import re
from pathlib import Path

import app.web
from app.web.http.headers import READ, SET

#: Of browsers, proxies, workers and pages; or scripts may use them anyway.
OTHERS = {
    *("Accept", "Accept-Language", "Cache-Control", "Content-Length"),
    *("Content-Security-Policy", "Referrer-Policy", "X-Content-Type-Options", "X-Accel-Buffering"),
    *("Connection", "Cookie", "Date", "Host", "Origin", "Registry-Forwarded", "Server", "Vary"),
    *("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Prefix", "X-Forwarded-Proto"),
}
_LOOKS_SO = re.compile(r"[A-Z][A-Za-z]+(-[A-Z][A-Za-z]+)+|x?-?trpc-[a-z-]+|trace(parent|state)")


def test_every_header_is_listed() -> None:
    found = {
        node.value
        for file in Path(app.web.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if _LOOKS_SO.fullmatch(node.value)
    }
    assert len(found) > 20
    assert found <= OTHERS | {*READ, *SET}
