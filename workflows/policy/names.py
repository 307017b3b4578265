"""synchronous_standby_names, read and written (PostgreSQL 15, section 20.6.2, and its syncrep_gram.y)."""

from __future__ import annotations

import re
from collections.abc import Sequence

FENCED = "__fenced__"
"""The standby that a stalled primary waits for; no server is called so (activities/fencing.py sets it)."""

_TOKEN = re.compile(r'"((?:[^"]|"")+)"|([^\W\d][\w$]*)|([0-9]+)|([(),])')


def parse_names(synchronous_standby_names: str) -> tuple[int, list[str]] | None:
    """W and the names; (0, []) when it is empty, None for what can't be told (`*`, which is anyone) or is no such list.

    Names are in lower case, since PostgreSQL compares them without regard to it. `FIRST` is read as `ANY`: W of N
    acknowledge either way.
    """
    tokens = _tokens(synchronous_standby_names)
    if not tokens:
        return (0, []) if tokens is not None else None
    w = 1
    if tokens[0] in (("word", "any"), ("word", "first")):
        tokens = tokens[1:]
        if not tokens or tokens[0][0] != "number":
            return None
    if len(tokens) > 1 and tokens[0][0] == "number" and tokens[1] == ("mark", "("):
        if tokens[-1] != ("mark", ")"):
            return None
        w = int(tokens[0][1])
        tokens = tokens[2:-1]
    names = [text for kind, text in tokens[::2] if kind != "mark"]
    marks = tokens[1::2]
    if not w or len(names) != len(tokens[::2]) or len(marks) != len(names) - 1 or set(marks) - {("mark", ",")}:
        return None
    if any(kind == "word" and text in ("any", "first") for kind, text in tokens):
        return None
    return w, list(dict.fromkeys(names))


def render_names(w: int, names: Sequence[str]) -> str:
    """`ANY 1 ("pg-east-2","pg-east-3")`, "" for none. W is cut to the names: more would block every commit."""
    w = min(w, len(names))
    if w < 1:
        return ""
    quoted = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    return f"ANY {w} ({quoted})"


def _tokens(text: str) -> list[tuple[str, str]] | None:
    tokens: list[tuple[str, str]] = []
    rest = text.strip()
    while rest:
        match = _TOKEN.match(rest)
        if match is None:
            return None
        quoted, word, number, mark = match.groups()
        if quoted is not None:
            tokens.append(("quoted", quoted.replace('""', '"').lower()))
        elif word is not None:
            tokens.append(("word", word.lower()))
        else:
            tokens.append(("number", number) if number is not None else ("mark", mark))
        rest = rest[match.end() :].lstrip()
    return tokens
