"""A bench's own lab: put back to its beginnings before each run, under load, with or without the watch."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator
from typing import Any

import psutil
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHistory

from activities.commands import run_command
from activities.topology import load_topology
from bench.common import BenchFailed, progress
from lab import faults, load, processes
from lab import lab as life
from lab.ledger import Tail
from lab.model import Lab
from lab.secrets import SUPERUSER
from lab.supervise import Supervisor
from lab.watch import end_runs
from lab.wire import Session, Target
from schemas.attributes import TASK_QUEUE, TASK_TIMEOUT
from schemas.reports import Report
from schemas.requests import RunRequest
from schemas.topology import DatabaseService


class Stand:
    """A lab and what a bench needs to know of it. `tail` reads the ledger of the run that `begin` began."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.tail = Tail(lab.ledger)

    @functools.cached_property
    def service(self) -> DatabaseService:
        """The lab's database."""
        return load_topology(self.lab.topology).database(self.lab.service)

    def target(self, member: str) -> Target:
        """A member, straight, as superuser."""
        node = self.lab.node(member)
        database = self.service.access.database
        return Target(node.host, node.port, SUPERUSER, self.lab.secret(SUPERUSER), database)

    async def session(self, member: str) -> Session:
        return await Session.open(self.target(member), limit=2.0, name="lifeboat-bench")

    async def begin(self, *, watch: bool, rate: float | None) -> None:
        """The estate as it was at first, with or without the watch, and under load if there is a `rate`."""
        self.lab = await life.reset(self.lab, watch=watch)
        self.tail = Tail(self.lab.ledger)
        if rate is not None:
            await asyncio.to_thread(load.start, self.lab, rate)

    async def end(self) -> None:
        await asyncio.to_thread(load.stop, self.lab)

    async def kill_primary(self) -> float:
        """SIGKILL to the home primary's whole tree; the time just before, UTC seconds."""
        return await self.kill(self.service.home)

    async def kill(self, home: str) -> float:
        """SIGKILL to a node's whole tree; the time just before, UTC seconds.

        The tree is looked up first: that takes tens of milliseconds, which are not part of an outage.
        """
        lab = self.lab

        def kill() -> float:
            tree = processes.tree(lab.paths, home, Supervisor(lab.paths).process(home).pid)
            before = time.time()
            for process in tree:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            # Again until nothing new runs.
            faults.kill(lab, home)
            return before

        return await asyncio.to_thread(kill)

    async def report(self, *, since: float, limit: float, procedure: str = "DatabaseFailover") -> Report:
        """The report of the failover that began after `since`; BenchFailed when it has not ended within `limit` s."""
        client = await life.connect(self.lab)
        query = f"WorkflowType = '{procedure}'"
        seen = f"no {procedure} was started"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while True:
                    async for found in client.list_workflows(query):
                        if found.start_time.timestamp() < since:
                            continue
                        seen = f"{found.id} is {found.status.name if found.status else 'in no state'}"
                        if found.status == WorkflowExecutionStatus.COMPLETED:
                            handle = client.get_workflow_handle(found.id, run_id=found.run_id, result_type=Report)
                            report: Report = await handle.result()
                            return report
                    await asyncio.sleep(0.2)
        raise BenchFailed(f"{seen}, {limit:g} s after its primary was killed")

    async def carry_out(self, procedure: str, request: RunRequest, limit: float) -> tuple[Report, WorkflowHistory]:
        """Start a runbook, wait for its end; its report and history. BenchFailed when it has none within `limit` s."""
        client = await life.connect(self.lab)
        handle = await client.start_workflow(
            procedure,
            request,
            id=f"bench/{procedure}/{time.time_ns()}",
            task_queue=TASK_QUEUE,
            task_timeout=TASK_TIMEOUT,
            result_type=Report,
        )
        try:
            async with asyncio.timeout(limit):
                report: Report = await handle.result()
        except TimeoutError:
            raise BenchFailed(f"{handle.id} has not ended within {limit:g} s") from None
        except WorkflowFailureError as error:
            raise BenchFailed(f"{handle.id} failed: {error.cause}") from error
        return report, await handle.fetch_history()

    async def node_command(self, member: str, *argv: str, limit: float = 60.0) -> str:
        """A command on a member's node, as the servers' user; its output. BenchFailed unless it exits 0."""
        told = [str(self.lab.paths.control), "exec", member, *argv]
        code, output = await run_command(told, limit)
        if code != 0:
            raise BenchFailed(f"{member}: {argv[0]} exited {code}: {output[-300:]}")
        return output

    def program(self, name: str) -> str:
        """A program of PostgreSQL's, whole path."""
        return str(self.lab.pg_bin / name)

    async def rest(self) -> None:
        """Nothing of the product runs until the next `begin`: another lab has the processor."""
        client = await life.connect(self.lab)
        await end_runs(self.lab, client)
        await asyncio.gather(*(life.fault(self.lab, "stop", each.name) for each in self.lab.of_kind("worker")))


@contextlib.asynccontextmanager
async def own_lab(**options: Any) -> AsyncIterator[Stand]:
    """A lab for this bench alone, ended with it; the user's current lab stays the current one.

    `options` are those of lab.up.
    """
    started = time.monotonic()
    lab = await life.up(make_current=False, **options)
    progress(f"lab up in {time.monotonic() - started:.1f} s: {lab.folder}")
    try:
        yield Stand(lab)
    finally:
        await life.down(lab)
