"""Looking at a lab from outside, for its tests."""

from __future__ import annotations

from typing import Any

import dns.message
import dns.query
import psutil

from lab import lab as life
from lab import processes
from lab.model import Lab
from lab.postgres import session


async def roles(lab: Lab) -> dict[str, str]:
    return {node.name: node.role for node in (await life.status(lab)).nodes}


async def ask(lab: Lab, member: str, *statements: str) -> Any:
    """The first row of the last statement, as superuser; None where it has none."""
    conn = await session(lab, member, limit=5)
    assert conn is not None, f"{member} takes no session"
    try:
        for statement in statements[:-1]:
            await conn.execute(statement)
        return await conn.fetchrow(statements[-1])
    finally:
        conn.terminate()


def first_roles(lab: Lab) -> dict[str, str]:
    return {node.name: node.role for node in lab.nodes}


def resolve(lab: Lab, name: str, kind: str = "A") -> list[str]:
    host, _, port = lab.dns.partition(":")
    answer = dns.query.udp(dns.message.make_query(name, kind), host, timeout=2, port=int(port))
    return [rdata.to_text() for rrset in answer.answer for rdata in rrset]


def lab_processes(lab: Lab) -> list[psutil.Process]:
    supervisor = processes.supervisor(lab.paths)
    assert supervisor is not None
    return [supervisor, *supervisor.children(recursive=True)]
