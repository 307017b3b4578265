"""What every POST of Lifeboat's to others has in common: its signature, and what is said when it fails."""

from __future__ import annotations

import hashlib
import hmac

import httpx


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over `timestamp.body`, as hexadecimal digits: a repeated old message shows by its timestamp."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def why(error: httpx.HTTPError) -> str:
    """Why it failed, without its URL: the path of a webhook is often its password."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"answers {error.response.status_code} {error.response.reason_phrase}"
    return f"{type(error).__name__}: {error}".removesuffix(": ")
