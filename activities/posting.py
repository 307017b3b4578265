"""What every POST of Lifeboat's to others has in common: its headers, signature included, and why it failed."""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime

import httpx


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over `timestamp.body`, as hexadecimal digits: a repeated old message shows by its timestamp."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def headers(key: str, secret: str | None, at: datetime, body: bytes) -> dict[str, str]:
    """Those of a POST of JSON; signed where there is a secret. `key` is the same however often it is sent."""
    found = {"Content-Type": "application/json", "Idempotency-Key": key}
    if secret is not None:
        timestamp = str(int(at.timestamp()))
        found |= {"X-Lifeboat-Timestamp": timestamp, "X-Lifeboat-Signature": signature(secret, timestamp, body)}
    return found


def why(error: httpx.HTTPError) -> str:
    """Why it failed, without its URL: the path of a webhook is often its password."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"answers {error.response.status_code} {error.response.reason_phrase}"
    return f"{type(error).__name__}: {error}".removesuffix(": ")
