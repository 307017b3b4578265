"""Look-ups before a run: its part of the topology, and who holds a service's lock."""

from __future__ import annotations

import asyncio
import functools
import json
import os
from typing import Any

from temporalio import activity
from temporalio.service import RPCError, RPCStatusCode

from activities.topology import load_topology
from schemas.attributes import lock_id
from schemas.cache import CacheService
from schemas.failures import TopologyInvalid, UnknownService
from schemas.orders import CacheEstate, Estate, Journey, JourneyQuestion, LockQuestion
from schemas.queue import QueueService
from schemas.queue_facts import QueueEstate
from schemas.topology import Topology

TOPOLOGY_VARIABLE = "LIFEBOAT_TOPOLOGY"
"""Set by the worker's own start to the file it was given."""


def topology_at(path: str) -> Topology:
    """The file as it stands. Reading YAML takes a tenth of a second, so it's read again only when it was replaced."""
    try:
        found = os.stat(path)
    except OSError:
        return load_topology(path)
    return _read(path, found.st_ino, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=4)
def _read(path: str, *_: int) -> Topology:
    return load_topology(path)


@activity.defn
async def describe_estate(service: str) -> Estate | CacheEstate | QueueEstate:
    """The run's own copy of its service; UnknownService lists what there is."""
    path = os.environ.get(TOPOLOGY_VARIABLE)
    if not path:
        raise TopologyInvalid("this worker was started without --topology")
    topology = topology_at(path)
    try:
        found = topology.service(service)
    except KeyError:
        known = ", ".join(each.name for each in topology.services)
        raise UnknownService(f"{service}; there is: {known}") from None
    rest: dict[str, Any] = {
        "zone": topology.zone,
        "vantages": topology.vantages(found),
        "reports": topology.reports,
    }
    if isinstance(found, CacheService):
        return CacheEstate(service=found, **rest)
    if isinstance(found, QueueService):
        return QueueEstate(service=found, **rest)
    return Estate(service=found, **rest)


@activity.defn
async def lock_holder(question: LockQuestion) -> str:
    """The run that holds the service's lock; "" when none does."""
    try:
        found = await activity.client().get_workflow_handle(lock_id(question.service)).describe()
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return ""
        raise
    return found.parent_id or "" if found.close_time is None else ""


@activity.defn
async def until_free(question: LockQuestion) -> str:
    """Wait until no run holds the service's lock; the run that held it."""
    held = ""
    while found := await lock_holder(question):
        held = found
        activity.heartbeat(held)
        await asyncio.sleep(1)
    return held


@activity.defn
async def read_journey(question: JourneyQuestion) -> Journey:
    """Read from the run's own history who did each step, and at which attempt."""
    handle = activity.client().get_workflow_handle(question.run, run_id=question.run_id)
    titles: dict[int, str] = {}
    attempts: dict[str, int] = {}
    regions: dict[str, list[str]] = {}
    async for event in handle.fetch_history_events():
        if event.HasField("activity_task_scheduled_event_attributes"):
            # A JSON string; an activity outside of the steps has none.
            titles[event.event_id] = json.loads(event.user_metadata.summary.data or b'""')
        elif event.HasField("activity_task_started_event_attributes"):
            started = event.activity_task_started_event_attributes
            title = titles.get(started.scheduled_event_id, "")
            attempts[title] = max(attempts.get(title, 1), started.attempt)
            region = started.identity.partition("@")[0]  # workers/main.py, identity
            if region not in regions.setdefault(title, []):
                regions[title].append(region)
    return Journey(attempts=attempts, regions=regions)
