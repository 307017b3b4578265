"""Node control: start and stop a database server where it runs, by the declared commands."""

from __future__ import annotations

import asyncio
import contextlib

from temporalio import activity

from activities import epoch as epochs
from activities.beating import beating
from schemas.failures import EpochSuperseded, EpochUnavailable, NodeControlFailed
from schemas.orders import NodeOrder, NodeResult
from schemas.topology import Member
from schemas.zones import Zone


async def run_command(argv: list[str], limit: float) -> tuple[int, str]:
    """Exit code and the end of what it printed; 124 when it had to be ended at the limit."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise NodeControlFailed(f"{argv[0]}: {error.strerror}") from error
    try:
        output, _ = await asyncio.wait_for(process.communicate(), limit)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return 124, f"no end within {limit:.0f} s"
    return process.returncode or 0, output.decode(errors="replace").strip()[-500:]


async def port_open(member: Member) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(member.host, member.port), 1.0)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _must_be_ours(order: NodeOrder, zone: Zone) -> None:
    """EpochSuperseded when another run, or this one's undo, has gone on. A store out of reach keeps nobody from it."""
    with contextlib.suppress(EpochUnavailable):
        held = await epochs.read(zone, order.service.name)
        if held is not None and held.epoch > order.epoch and held.run != order.run:
            raise EpochSuperseded(f"epoch {held.epoch} is held by {held.run}, this run has {order.epoch}")


@activity.defn
async def stop_node(order: NodeOrder) -> NodeResult:
    """Ensure that the server is stopped and stays so: autostart off, the stop command, then the port closed."""
    member = order.service.member(order.member)
    control = member.control
    if control is None:
        return NodeResult(done=False, evidence=f"{member.name} has no node control in the topology")
    if order.zone is not None:
        await _must_be_ours(order, order.zone)
    for argv in (control.autostart_off, control.stop):
        if argv is None:
            continue
        async with beating(argv[0]):
            code, output = await run_command(argv, control.timeout_s)
        if code != 0:
            return NodeResult(done=False, evidence=f"{member.name}: {argv[0]} … exited {code}: {output}")
    if await port_open(member):
        return NodeResult(done=False, evidence=f"{member.name}: stopped, yet {member.host}:{member.port} is open")
    return NodeResult(done=True, evidence=f"{member.name} is stopped, {member.host}:{member.port} is closed")


@activity.defn
async def start_node(order: NodeOrder) -> NodeResult:
    """Start a server that Lifeboat stopped, and let it start by itself again (undo of `stop_node`)."""
    member = order.service.member(order.member)
    control = member.control
    if control is None:
        return NodeResult(done=True, evidence=f"{member.name} has no node control, so it was not stopped")
    for argv in (control.autostart_on, control.start):
        if argv is None:
            continue
        async with beating(argv[0]):
            code, output = await run_command(argv, control.timeout_s)
        if code != 0:
            raise NodeControlFailed(f"{member.name}: {argv[0]} … exited {code}: {output}")
    return NodeResult(done=True, evidence=f"{member.name} was started")
