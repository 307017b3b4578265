"""`python -m lab.load LABDIR`: camera traffic along each of the lab's routes, in a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import uvloop

from lab import cache_traffic, ledger, queue_traffic, traffic
from lab.errors import LabError
from lab.ledger import Ledger, Span
from lab.model import Lab
from lab.paths import log_tail
from lab.wire import Target
from lab.world import addresses, scrubbed_env
from lab.writer import WRITE_S, Writer

READY_S = 20.0
"""Limit of `start`: each route must have acknowledged a write by then."""
STOP_S = 3 * WRITE_S


class LoadFailed(LabError):
    """The load does not run as it was asked to; look at the route or the process that is named here."""


def _writers(
    lab: Lab, rate: float, notes: Ledger, stop: asyncio.Event, on_first: Callable[[str], None]
) -> list[Writer]:
    """The clients of all the lab's routes, about `rate` writes a second along each."""
    found: list[Writer] = []
    if "database" in lab.parts:
        found += traffic.writers(to_database(lab, rate), notes, stop, on_first)
    if "cache" in lab.parts:
        found += cache_traffic.writers(to_cache(lab, rate), notes, stop, on_first)
    if "queue" in lab.parts:
        found += queue_traffic.writers(to_queue(lab, rate), notes, stop, on_first)
    return found


def to_database(lab: Lab, rate: float = 25.0) -> traffic.Traffic:
    return traffic.Traffic(
        routes={name: Target.from_dsn(dsn) for name, dsn in lab.routes_of("database").items()},
        addresses=_inside(lab),
        ledger=lab.ledger,
        dns_server=lab.dns,
        rate=rate,
    )


def to_cache(lab: Lab, rate: float = 25.0) -> cache_traffic.Traffic:
    return cache_traffic.Traffic(
        routes={name: cache_traffic.Route.from_dsn(dsn) for name, dsn in lab.routes_of("cache").items()},
        addresses=_inside(lab),
        dns_server=lab.dns,
        sentinel_password=lab.secret("sentinel-app"),
        rate=rate,
    )


def to_queue(lab: Lab, rate: float = 25.0) -> queue_traffic.Traffic:
    return queue_traffic.Traffic(
        routes={name: queue_traffic.Route.from_dsn(dsn) for name, dsn in lab.routes_of("queue").items()},
        addresses=_inside(lab),
        dns_server=lab.dns,
        deliveries=queue_traffic.deliveries_of(lab.ledger),
        rate=rate,
    )


def _inside(lab: Lab) -> frozenset[str]:
    return frozenset(f"{host}:{port}" for host, port in addresses(lab))


async def _drive(lab: Lab, rate: float, stop: asyncio.Event, on_first: Callable[[str], None]) -> None:
    with Ledger(lab.ledger) as notes:
        taking = queue_traffic.consumers(to_queue(lab, rate), stop) if "queue" in lab.parts else []
        giving = _writers(lab, rate, notes, stop, on_first)
        await asyncio.gather(*(each.run() for each in giving), *(each.run() for each in taking))


def running(lab: Lab) -> psutil.Process | None:
    """The load's process, or None when it doesn't run (any more)."""
    spans = ledger.read_spans(lab.ledger)
    if not spans or spans[-1].stopped is not None:
        return None
    try:
        process = psutil.Process(spans[-1].pid)
        # A zombie has ended: where PID 1 doesn't reap, it stays one. And the id may be another program's by now.
        ended = process.status() == psutil.STATUS_ZOMBIE or str(lab.folder) not in process.cmdline()
    except psutil.NoSuchProcess:
        return None
    return None if ended else process


def start(lab: Lab, rate: float = 25.0) -> int:
    """Start the load, detached, and wait until each route has acknowledged a write; its process id.

    Nothing to do when it runs. LoadFailed when a route doesn't write within READY_S; the load is ended then.
    """
    found = running(lab)
    if found is not None:
        return int(found.pid)
    told, tell = os.pipe()
    log = lab.paths.log("load")
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "lab.load", str(lab.folder), "--rate", str(rate), "--ready-fd", str(tell)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=scrubbed_env(lab),
                cwd=lab.folder,
                pass_fds=(tell,),
                start_new_session=True,
            )
    finally:
        os.close(tell)
    try:
        silent = _await_routes(told, set(lab.routes), time.monotonic() + READY_S)
    finally:
        os.close(told)
    if silent and process.poll() is not None:
        raise LoadFailed(f"the load ended at its start, exit {process.returncode}: {log_tail(log)}")
    if silent:
        _end(psutil.Process(process.pid))
        process.poll()
        raise LoadFailed(f"no write was acknowledged within {READY_S:g} s through {_why(lab, silent)}")
    # Detached: it outlives us, and whoever stops it finds it by its id.
    process.returncode = 0
    return process.pid


def _await_routes(told: int, silent: set[str], until: float) -> set[str]:
    """Routes that the load did not name on the pipe before `until`, or before it ended."""
    while silent and (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select([told], [], [], left)
        text = os.read(told, 4096) if ready else b""
        if ready and not text:
            break
        silent = silent - set(text.decode().split("\n"))
    return silent


def _why(lab: Lab, silent: set[str]) -> str:
    last = {entry.route: entry.error for entry in ledger.read(lab.ledger)}
    return "; ".join(f"{route}: {last.get(route) or 'nothing was tried'}" for route in sorted(silent))


def stop(lab: Lab) -> None:
    """End the load by its process id, and wait; nothing to do when it doesn't run."""
    process = running(lab)
    if process is not None:
        _end(process)


def _end(process: psutil.Process) -> None:
    for number, limit in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, 2.0)):
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            return
        until = time.monotonic() + limit
        while time.monotonic() < until:
            try:
                # Reaps it where it is our child; elsewhere a zombie is as good as gone.
                process.wait(0.02)
            except psutil.TimeoutExpired:
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    continue
                # It may have ended between the two: our child is reaped then as well.
                with contextlib.suppress(psutil.TimeoutExpired):
                    process.wait(0)
            return
    raise LoadFailed(f"the load, process {process.pid}, doesn't end; end it by hand")


def forget(lab: Lab) -> None:
    """Stop the load and begin a new ledger: after a reset the old one's rows are no longer owed."""
    stop(lab)
    ledger.put_aside(lab.ledger)
    queue_traffic.deliveries_of(lab.ledger).unlink(missing_ok=True)


async def _run(lab: Lab, rate: float, ready_fd: int | None) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    spans = ledger.read_spans(lab.ledger)
    span = Span(pid=os.getpid(), started=time.time())
    ledger.write_spans(lab.ledger, [*spans, span])
    waiting = set(lab.routes)

    def first(route: str) -> None:
        nonlocal ready_fd
        waiting.discard(route)
        if ready_fd is None:
            return
        os.write(ready_fd, f"{route}\n".encode())
        if not waiting:
            os.close(ready_fd)
            ready_fd = None

    writing = asyncio.create_task(_drive(lab, rate, stopped, first))
    halt = asyncio.create_task(stopped.wait())
    await asyncio.wait({writing, halt}, return_when=asyncio.FIRST_COMPLETED)
    ended = time.time()
    try:
        await writing
    finally:
        halt.cancel()
        if stopped.is_set():
            ledger.write_spans(lab.ledger, [*spans, span.model_copy(update={"stopped": ended})])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.load", description=__doc__)
    parser.add_argument("folder", type=Path, help="the lab's folder")
    parser.add_argument("--rate", type=float, default=25.0, help="writes a second along each route (default: 25)")
    parser.add_argument("--ready-fd", type=int, help="name each route here once it has acknowledged a write")
    given = parser.parse_args(argv)
    # During an outage each writer tries every few milliseconds, on the processors that the failover needs.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(Lab.load(given.folder), given.rate, given.ready_fd))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
