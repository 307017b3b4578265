"""Bytes of a server's files that go bad, as on a disk that rots: the server is not told."""

from __future__ import annotations

from pathlib import Path

from lab.errors import LabError
from lab.model import Lab
from lab.postgres import session

PAGE = 8192
_COLD = (
    "VACUUM (FULL) {table}",
    "CREATE TABLE filler AS SELECT n, repeat('x', 900) AS x FROM generate_series(1, 1) n",
    # By rows, which go through the server's memory as any: twice as much as it has.
    "INSERT INTO filler SELECT n, repeat('x', 900) FROM generate_series(1, 70000) n",
    "DROP TABLE filler",
    "CHECKPOINT",
)
"""An index that is built anew bypasses the server's memory; its table is pushed out of it."""


class NotDamaged(LabError):
    """The bytes could not be changed as a test needs them."""


async def make_cold(lab: Lab, member: str, table: str) -> None:
    """No page of the table is in the server's memory, so that what is on disk counts."""
    conn = await session(lab, member, limit=5.0)
    if conn is None:
        raise NotDamaged(f"{member} takes no session")
    try:
        for each in _COLD:
            await conn.execute(each.format(table=table), timeout=120.0)
    finally:
        conn.terminate()


async def flip(
    lab: Lab, member: str, relation: str, *, block: int = 0, at: int = 4096, count: int = 8, asked: str | None = None
) -> Path:
    """Turn every bit of some bytes of one page of a heap or an index; the file that was changed. `asked`: another,
    that says where it is while this one is down.
    """
    conn = await session(lab, asked or member, limit=5.0)
    if conn is None:
        raise NotDamaged(f"{asked or member} takes no session")
    try:
        place = await conn.fetchval("SELECT pg_relation_filepath($1)", relation)
    finally:
        conn.terminate()
    file = lab.paths.data(member) / str(place)
    with file.open("r+b") as page:
        page.seek(block * PAGE + at)
        before = page.read(count)
        if len(before) != count:
            raise NotDamaged(f"{relation} of {member} has no block {block}")
        page.seek(block * PAGE + at)
        page.write(bytes(each ^ 0xFF for each in before))
    return file
