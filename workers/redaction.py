"""What may leave the process in logs and traces: no secret, no literal of a statement, no path of a URL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from activities.secrets import hide

_DSN = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s/@]+@", re.IGNORECASE)
_NAMED = re.compile(
    r"""\b([\w-]*(?:password|passwd|secret|token|api[_-]?key)[\w-]*["']?\s*[=:]\s*)('[^']*'|"[^"]*"|[^\s,;&)}\]]+)""",
    re.IGNORECASE,
)
_CREDENTIALS = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]+", re.IGNORECASE)
_LITERAL = re.compile(r"\$(\w*)\$.*?\$\1\$|'(?:[^']|'')*'", re.DOTALL)

STATEMENTS = ("db.statement", "db.query.text")
URLS = ("http.url", "url.full")
NEVER = ("db.statement.parameters", "http.target", "url.path", "url.query")

Value = object


def clean(text: str) -> str:
    """Text without the secrets that this process resolved, and without what stands where secrets do."""
    text = _DSN.sub(r"\1:***@", hide(text))
    text = _CREDENTIALS.sub(r"\1 ***", text)
    return _NAMED.sub(r"\1***", text)


def statement(text: str) -> str:
    """A statement without its literals: some can't take parameters, and name users, paths and connection strings."""
    return clean(_LITERAL.sub("'?'", text))


def url(text: str) -> str:
    """Scheme, host and port: the path of a webhook is often its only secret."""
    parts = urlsplit(text)
    return f"{parts.scheme}://{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "")


def attributes(given: Mapping[str, Value]) -> dict[str, Value]:
    """A span's attributes as they may leave."""
    found: dict[str, Value] = {}
    for name, value in given.items():
        if name in NEVER:
            continue
        if isinstance(value, str):
            found[name] = statement(value) if name in STATEMENTS else url(value) if name in URLS else clean(value)
        elif isinstance(value, tuple | list):
            found[name] = [clean(each) if isinstance(each, str) else each for each in value]
        else:
            found[name] = value
    return found
