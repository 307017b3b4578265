"""Secrets by reference, resolved inside the activity that needs them and never kept."""

from __future__ import annotations

import os
from pathlib import Path

from schemas.failures import SecretUnavailable


def resolve(reference: str | None) -> str | None:
    """The secret behind `env:NAME` or `file:PATH`; None for no reference. SecretUnavailable says which is missing."""
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
    raise SecretUnavailable(f"{kind}: references are not read by this version; use env: or file:")
