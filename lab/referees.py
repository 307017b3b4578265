"""The audits of a whole lab: each of its services has a referee of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from pydantic import BaseModel, SerializeAsAny

from lab import cache_referee, queue_referee, referee
from lab.cache_referee import CacheAudit
from lab.findings import RouteFinding
from lab.model import Lab
from lab.queue_referee import QueueAudit
from lab.referee import Audit, audit_text

REFEREES: Mapping[str, Callable[[Lab], Awaitable[Audit]]] = {
    "database": referee.audit,
    "cache": cache_referee.audit,
    "queue": queue_referee.audit,
}
"""Part → who judges it."""


WHAT: Mapping[type[Audit], str] = {CacheAudit: "keys", QueueAudit: "messages"}
"""What a service's writes are called."""


class Whole(BaseModel):
    """The lab's audit: the sums, and each service's own. `missing` is None where that of one service is."""

    acknowledged: int
    missing: int | None
    concurrent_writers: int
    routes: dict[str, RouteFinding]
    errors: list[str]
    services: dict[str, SerializeAsAny[Audit]]

    @property
    def clean(self) -> bool:
        return all(each.clean for each in self.services.values())


async def audit(lab: Lab) -> Audit | Whole:
    """The audit of the only service that is a database, or of all together. LedgerUnreadable where no load ever ran."""
    found = {lab.services[part]: await REFEREES[part](lab) for part in lab.services}
    if list(lab.services) == ["database"]:
        return found[lab.service]
    missing = [each.missing for each in found.values()]
    known = [each for each in missing if each is not None]
    return Whole(
        acknowledged=sum(each.acknowledged for each in found.values()),
        missing=sum(known) if len(known) == len(missing) else None,
        concurrent_writers=sum(each.concurrent_writers for each in found.values()),
        routes={name: route for each in found.values() for name, route in each.routes.items()},
        errors=[error for each in found.values() for error in each.errors],
        services=found,
    )


def text(found: Audit | Whole) -> str:
    """The audit as a person reads it."""
    if isinstance(found, Audit):
        return audit_text(found)
    parts = []
    for name, each in found.services.items():
        lines = audit_text(each, WHAT.get(type(each), "rows")).splitlines()
        if isinstance(each, QueueAudit):
            lines.insert(1, queue_referee.text_of(each))
        if isinstance(each, CacheAudit):
            lost = "UNKNOWN" if each.waited_missing is None else each.waited_missing
            lines.insert(1, f"acknowledged by WAIT {each.waited} keys, missing {lost}")
        parts.append("\n".join((f"{name}:", *(f"  {line}" for line in lines))))
    return "\n".join(parts)
