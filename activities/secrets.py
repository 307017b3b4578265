"""Secrets by reference, resolved inside the activity that needs them; kept only to be struck out of logs and traces."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

from activities.aws import FAILED, client
from schemas.failures import SecretUnavailable

_SHORTEST = 4
"""Characters. A shorter secret would be struck out of every other word, and protects nothing anyway."""

_seen: set[str] = set()


def hide(text: str) -> str:
    """The text without any secret that this process has resolved: for what leaves it as a log or a trace."""
    # The longest first: one may begin with another.
    for secret in sorted(_seen, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _remembered(read: Callable[[str | None], str | None]) -> Callable[[str | None], str | None]:
    @functools.wraps(read)
    def remember(reference: str | None) -> str | None:
        value = read(reference)
        if value is not None and len(value) >= _SHORTEST:
            _seen.add(value)
        return value

    return remember


@_remembered
def resolve(reference: str | None) -> str | None:
    """The secret behind `env:NAME`, `file:PATH` or `aws-sm:NAME`; None for no reference.

    SecretUnavailable says which is missing.
    """
    if reference is None:
        return None
    kind, _, place = reference.partition(":")
    if kind == "env":
        value = os.environ.get(place)
        if value is None:
            raise SecretUnavailable(f"environment variable {place} is not set")
        return value
    if kind == "file":
        try:
            return Path(place).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SecretUnavailable(f"file {place}: {error.strerror}") from error
    return _of_secrets_manager(place)


@functools.lru_cache(maxsize=64)
def _of_secrets_manager(name: str) -> str:
    """Kept while the worker lives: a rotated secret is read by its next start, and no step waits for AWS twice."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    try:
        found = client("secretsmanager", region, None, 2.0).get_secret_value(SecretId=name)
        return str(found["SecretString"])
    except FAILED as error:
        raise SecretUnavailable(f"{name} in AWS Secrets Manager: {error}") from error
    except KeyError:
        raise SecretUnavailable(f"{name} in AWS Secrets Manager is binary; keep it as text") from None
