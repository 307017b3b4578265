"""A service's backups as its restore host sees them, within seconds: whether they can be read, and what is missing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus
from temporalio.common import SearchAttributeKey
from temporalio.service import RPCError

from activities.jobs import branches_of, number, one
from activities.repository import stretches_of, trouble
from activities.restore_host import ask, backups_of
from schemas.failures import LifeboatError
from schemas.restores import Backup, HostOrder
from schemas.takes import BackupView, Verification
from schemas.topology import DatabaseService

LIMIT_S = 6.5
"""Limit of each of the three looks, which are made at once."""
ASK_S = 4.0
"""Limit of one command on the restore host. A listing takes a second for some ten thousand WAL files."""
NEWEST = 20
"""Ends of verifications that are looked through for one that came to an end of its own."""
_USUAL, _LOW = 16 * 1024 * 1024, 0xFFFFFFFF
_NO_END = ("aborted", "planned", "not needed")
_OUTCOME = SearchAttributeKey.for_keyword("LifeboatOutcome")


@activity.defn
async def look_at_backups(service: DatabaseService) -> BackupView:
    """By a worker of the restore host's region. Nothing is changed, and what can't be seen is a fact."""
    seen, room, verified = await asyncio.gather(_repository(service), _room(service), _verified(service.name))
    return seen.model_copy(update={**room, **verified})


def _order(service: DatabaseService) -> HostOrder:
    # A folder that is never made.
    return HostOrder(service=service, run="", copy_name="look")


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {LIMIT_S:g} s"
    return getattr(error, "detail", "") or str(error) or type(error).__name__


async def _repository(service: DatabaseService) -> BackupView:
    order, view = _order(service), BackupView(at=datetime.now(UTC))
    try:
        async with asyncio.timeout(LIMIT_S):
            info = one(await ask(order, "info", limit=ASK_S, to="backup"), "info")
            if why := trouble(info, order.policy.repository.stanza):
                return view.model_copy(update={"error": why})
            backups, _ = backups_of(info, order.policy.repository.stanza)
            view = view.model_copy(update={"backups": backups})
            return await _archive(service, view) if backups else view
    except (LifeboatError, TimeoutError) as error:
        return view.model_copy(update={"unlisted" if view.backups else "error": _why(error)})


async def _archive(service: DatabaseService, view: BackupView) -> BackupView:
    """The WAL from the oldest backup on, and the history of its newest timeline."""
    order, archive = _order(service), view.backups[-1].archive
    own = [each for each in view.backups if each.archive == archive]
    oldest = min(each.wal_start[8:] for each in own)
    size = segment_bytes_of(own)
    stretches, _ = stretches_of(await ask(order, "archive", archive, str(size), oldest, "", limit=ASK_S, to="backup"))
    timeline = max(int(name[:8], 16) for name in (*(each.last for each in stretches), own[-1].wal_start))
    found = await ask(order, "branches", archive, f"{timeline:08X}", limit=ASK_S, to="backup") if timeline > 1 else {}
    return view.model_copy(
        update={
            "backups": own,
            "timeline": timeline,
            "branches": branches_of(found.get("branch", [])),
            "stretches": stretches,
            "segment_bytes": size,
        }
    )


def segment_bytes_of(backups: Sequence[Backup]) -> int:
    """The size of a WAL file, by which each backup's places and files go together: nobody need be asked."""
    ends = [(each.lsn_start, each.wal_start) for each in backups] + [(each.lsn_stop, each.wal_stop) for each in backups]

    def fits(size: int) -> bool:
        # A place at a file's very end belongs to the one before.
        return all(int(name[16:], 16) in ((lsn & _LOW) // size, ((lsn - 1) & _LOW) // size) for lsn, name in ends)

    return next((size for size in (_USUAL, *(1 << power for power in range(20, 31))) if fits(size)), _USUAL)


async def _room(service: DatabaseService) -> dict[str, object]:
    try:
        return {"room_bytes": number(await ask(_order(service), "room", limit=ASK_S, to="backup"), "room_kb") * 1024}
    except LifeboatError as error:
        return {"room_error": _why(error)}


async def _verified(service: str) -> dict[str, object]:
    """The newest BackupVerify that ended well or badly: not one that a person stopped, nor a plan."""
    name = re.sub(r"[^a-z0-9_.-]", "", service)
    query = f"WorkflowType = 'BackupVerify' AND LifeboatService = '{name}' AND ExecutionStatus != 'Running'"
    ended = (WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.FAILED)
    try:
        async with asyncio.timeout(LIMIT_S):
            async for each in activity.client().list_workflows(query, limit=NEWEST):
                outcome = each.typed_search_attributes.get(_OUTCOME) or "failed"
                if each.status in ended and outcome not in _NO_END and each.close_time is not None:
                    return {"verified": Verification(run=each.id, outcome=outcome, ended=each.close_time)}
    except (RPCError, TimeoutError) as error:
        return {"verify_error": _why(error)}
    return {}
