"""What is true now, as the engine says it: open runs, those that wait for a person, and what is left of the RTO.

A gauge that a workflow set would be wrong as soon as the run went on at another worker, so each worker asks, and all
of them tell the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from temporalio.client import Client, WorkflowExecution, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.common import MetricMeter, SearchAttributeKey
from temporalio.service import RPCError

from schemas.state import RunState
from schemas.topology import Topology

log = logging.getLogger("lifeboat.metrics")

OPEN = "lifeboat_open_runs"
WAITING = "lifeboat_runs_waiting_for_person"
LEFT = "lifeboat_rto_left_seconds"

EVERY_S = 5.0
YOUNG = timedelta(seconds=3)
"""A run is asked for its clock once it is as old as this: each question costs its worker some milliseconds, and a
failover that needs nobody is over by then."""
_QUERY = timedelta(seconds=2)
_SERVICE = SearchAttributeKey.for_keyword("LifeboatService")
_WAITING = SearchAttributeKey.for_keyword("LifeboatWaitingFor")


@dataclass
class Now:
    """Counts by service; `left` in seconds, the least of a service's open runs."""

    open: Counter[str]
    waiting: Counter[str]
    left: dict[str, float]


async def look(client: Client, rto_s: Mapping[str, float], now: datetime) -> Now:
    """Every open run that has a procedure; RPCError when Temporal doesn't answer."""
    found = Now(Counter(), Counter(), dict(rto_s))
    async for run in client.list_workflows("ExecutionStatus = 'Running' AND LifeboatProcedure IS NOT NULL"):
        service = run.typed_search_attributes.get(_SERVICE, "")
        found.open[service] += 1
        found.waiting[service] += bool(run.typed_search_attributes.get(_WAITING, ""))
        deadline = await _deadline(client, run) if now - run.start_time > YOUNG else None
        if deadline is not None:
            left = (deadline - now).total_seconds()
            found.left[service] = min(left, found.left.get(service, left))
    return found


async def _deadline(client: Client, run: WorkflowExecution) -> datetime | None:
    """When the run's RTO ends; None while its clock doesn't run, or no worker answers."""
    handle = client.get_workflow_handle(run.id, run_id=run.run_id)
    with contextlib.suppress(RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError):
        state: RunState = await handle.query("state", result_type=RunState, rpc_timeout=_QUERY)
        return state.deadline
    return None


async def keep(client: Client, meter: MetricMeter, topology: Topology) -> None:
    """Set the gauges until cancelled. While Temporal doesn't answer they stay as they are."""
    opened = meter.create_gauge(OPEN, "Runs that have not ended")
    waiting = meter.create_gauge(WAITING, "Runs that wait for a person now")
    left = meter.create_gauge_float(
        LEFT, "What is left of the RTO of the service's open run; the whole RTO while there is none"
    )
    rto_s = {service.name: service.rto_s for service in topology.services}
    while True:
        try:
            now = await look(client, rto_s, datetime.now(UTC))
            for service in rto_s:
                of = {"service": service}
                opened.set(now.open[service], of)
                waiting.set(now.waiting[service], of)
                # A gauge can't be negative: past the RTO nothing is left.
                left.set(max(now.left[service], 0.0), of)
        except RPCError as error:
            log.debug("no gauges: %s", error)
        except Exception:
            # They must not end for good with one answer that nobody thought of.
            log.exception("no gauges this time")
        await asyncio.sleep(EVERY_S)
