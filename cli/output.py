"""Where words go: answers to stdout, progress and problems to stderr; `--json` leaves one document alone on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from cli.problems import Problem
from schemas.reports import Report

PIPE_WIDTH = 120
"""Columns when the output is no terminal."""


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, emoji=False, width=None if stream.isatty() else PIPE_WIDTH)


def out() -> Console:
    """Made anew at each use, so that a test's capture of the stream is respected."""
    return _console(stderr=False)


def err() -> Console:
    return _console(stderr=True)


def write_page(report: Report, file: Path) -> None:
    """The report as one HTML page; `-` is stdout. Problem when it can't be written."""
    from activities.page import page  # jinja2 costs every other command 60 ms

    text = page(report)
    if str(file) == "-":
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Problem(
            f"{file}: can't be written: {error.strerror}; name a file in a folder that you may write"
        ) from error
    err().print(f"report: {file.resolve().as_uri()}", markup=False, soft_wrap=True)


def print_json(answer: BaseModel | Any) -> None:
    """One document on stdout. Times are ISO 8601 in UTC, durations seconds."""
    if isinstance(answer, BaseModel):
        sys.stdout.write(answer.model_dump_json(indent=2) + "\n")
    else:
        sys.stdout.write(json.dumps(answer, indent=2, default=str) + "\n")
    sys.stdout.flush()
