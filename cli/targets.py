"""A restore's target as it is typed: `time=…`, `lsn=…`, `xid=…`, `name=…` or `before-drop=…`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, get_args

import typer
from pydantic_core import ErrorDetails

from cli.problems import Exit, Problem
from schemas.backup import BackupKind

KINDS = ("time", "lsn", "xid", "name", "before-drop")
EXAMPLES: Mapping[str | int, str] = {
    "time": "2026-11-25T10:00:00Z",
    "until": "2026-11-25T10:00:00Z",
    "lsn": "0/3000148",
    "xid": "731",
    "before_drop": "public.orders",
    "tables": "public.orders",
}
USES = ("ask", "copy-back", "hand-over", "cut-over", "remove")
BACKUP_KINDS: tuple[str, ...] = get_args(BackupKind)


def _backup_kinds(incomplete: str) -> list[str]:
    return [kind for kind in BACKUP_KINDS if kind.startswith(incomplete)]


def _kinds(incomplete: str) -> list[str]:
    return [f"{kind}=" for kind in KINDS if kind.startswith(incomplete)]


def _uses(incomplete: str) -> list[str]:
    return [use for use in USES if use.startswith(incomplete)]


To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="KIND=VALUE",
        help="Of a restore: time=2026-11-25T10:00:00Z, lsn=0/3000148, xid=731, name=before-release,"
        " before-drop=public.orders.",
        autocompletion=_kinds,
    ),
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="With a name or a drop: not later than this.")
]
Exclusive = Annotated[bool, typer.Option("--exclusive", help="With lsn or xid: without it.")]
Timeline = Annotated[
    int | None, typer.Option("--timeline", metavar="N", help="Another branch of history than the living one.")
]
Then = Annotated[
    str | None,
    typer.Option("--then", metavar="|".join(USES), help="What the proved copy is for.", autocompletion=_uses),
]
Tables = Annotated[
    list[str] | None, typer.Option("--table", metavar="SCHEMA.TABLE", help="To be copied back; may be repeated.")
]
Kind = Annotated[
    str | None,
    typer.Option(
        "--kind", metavar="|".join(BACKUP_KINDS), help="Of a backup: another than is due.", autocompletion=_backup_kinds
    ),
]
Backup = Annotated[str | None, typer.Option("--backup", metavar="LABEL", help="Of a verification: not the newest one.")]


def restore_options(
    to: str | None,
    until: str | None,
    exclusive: bool,
    timeline: int | None,
    then: str | None,
    tables: list[str] | None,
    backup: str | None,
) -> dict[str, Any]:
    """What of a start form these options give; Problem for a target of no known kind."""
    found: dict[str, Any] = {"then": then, "tables": tables or None, "backup": backup}
    more = {"until": until, "timeline": timeline, "exclusive": exclusive or None}
    if to is None:
        if any(value is not None for value in more.values()):
            raise Problem("--until, --exclusive and --timeline go with --to", Exit.USAGE)
        return _given(found)
    kind, sign, value = to.partition("=")
    if not sign or kind not in KINDS:
        raise Problem(f"--to {to}: say one of {', '.join(f'{each}=…' for each in KINDS)}", Exit.USAGE)
    return _given(found) | {"target": {kind.replace("-", "_"): value} | _given(more)}


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def option_of(place: Iterable[str | int]) -> str:
    """The option by which a field of the start form is given."""
    first, second, *_ = [*place, "", ""]
    if first == "target" and second in ("until", "timeline", "exclusive"):
        return f"--{second}"
    return {"target": "--to", "tables": "--table"}.get(str(first), f"--{first}")


def wrong(error: ErrorDetails) -> str:
    """What is wrong with a field of the start form, in one line and by its option."""
    said, place = error["msg"].removeprefix("Value error, "), error["loc"]
    if not place:
        field, _, what = said.partition(": ")
        return f"{option_of([field])}: {what}"
    example = next((EXAMPLES[each] for each in place if each in EXAMPLES), None)
    if example is not None and error["type"] == "string_pattern_mismatch":
        return f"{option_of(place)}: {error['input']} can't be used; write it as {example}"
    hint = f"; write it as {example}" if example is not None else ""
    return f"{option_of(place)}: {said} (given: {error['input']}){hint}"
