"""Scripts that work on a node, their answers, and their long work (jobs.sh): whoever sends it, it goes on by itself."""

from __future__ import annotations

import asyncio
import base64
import functools
import gzip
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources

from temporalio import activity

from schemas.facts import Branch
from schemas.wal import position

POLL_S = (0.05, 0.1, 0.2)
"""Between looks at a job, the last of them from then on; each waits a while itself for the job's end."""

Answers = dict[str, list[str]]
Ask = Callable[..., Awaitable[Answers]]
"""Carries out one verb of a script: the verb and its words."""
Progress = Callable[[Answers], Awaitable[Mapping[str, object]]]
"""What a job's last lines tell of how far it is."""


PARTS = {"restore.sh": ("bubble.sh", "wal.sh")}
"""What else a script is made of."""


@functools.cache
def script(name: str) -> str:
    """The text that a node is sent: what all scripts share, then this one's own."""
    files = resources.files("activities")
    parts = ("jobs.sh", "fetch.sh", *PARTS.get(name, ()), name)
    return "".join((files / each).read_text(encoding="utf-8") for each in parts)


def parse(output: str) -> Answers:
    """The lines that begin with `::`, and those that were packed (jobs.sh, answers)."""
    answers: Answers = {}
    # Not where Python sees a line's end besides: an answer may have any character.
    for line in output.split("\n"):
        name, sign, value = line.removeprefix("::").partition("=")
        if not line.startswith("::") or not sign:
            continue
        if name == "packed":
            for each, values in parse(gzip.decompress(base64.b64decode(value)).decode()).items():
                answers.setdefault(each, []).extend(values)
        else:
            answers.setdefault(name, []).append(value)
    return answers


def one(answers: Answers, name: str) -> str:
    """The first answer of that name; "" for none."""
    return (answers.get(name) or [""])[0]


def number(answers: Answers, name: str) -> int:
    """The same as a number; 0 for none."""
    found = one(answers, name)
    return int(found) if found.isdigit() else 0


def branches_of(lines: list[str]) -> list[Branch]:
    """The lines of a timeline's history file: which was left, and where."""
    parts = [line.split() for line in lines]
    return [Branch(timeline=int(each[0]), switch=position(each[1])) for each in parts]


async def until_ended(ask: Ask, ident: str, words: list[str], doing: str, progress: Progress | None = None) -> Answers:
    """Begin a job, or find it, and wait for its end, whatever that is: `code` is 0, another, or `killed`.

    One that has ended well is not begun again under the same `ident`. `superseded` where another took its place.
    """
    answers = await ask("begin", ident, *words)
    pauses = iter(POLL_S)
    while answers.get("code") == ["running"]:
        told: dict[str, object] = {"doing": doing, "log": (answers.get("line") or [""])[-1]}
        activity.heartbeat(told | dict(await progress(answers) if progress is not None else {}))
        await asyncio.sleep(next(pauses, POLL_S[-1]))
        answers = await ask("status")
        if answers.get("job") != [ident]:
            return answers | {"code": ["superseded"]}
    return answers
