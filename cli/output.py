"""Where words go: answers to stdout, progress and problems to stderr; `--json` leaves one document alone on stdout."""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic import BaseModel
from rich.console import Console

PIPE_WIDTH = 120
"""Columns when the output is no terminal."""


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)


def out() -> Console:
    """Made anew at each use, so that a test's capture of the stream is respected."""
    return _console(stderr=False)


def err() -> Console:
    return _console(stderr=True)


def print_json(answer: BaseModel | Any) -> None:
    """One document on stdout. Times are ISO 8601 in UTC, durations seconds."""
    if isinstance(answer, BaseModel):
        sys.stdout.write(answer.model_dump_json(indent=2) + "\n")
    else:
        sys.stdout.write(json.dumps(answer, indent=2, default=str) + "\n")
    sys.stdout.flush()
