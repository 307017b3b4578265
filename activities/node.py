"""Node control: start and stop a server where it runs, by the declared commands and transport."""

from __future__ import annotations

import asyncio
import contextlib

from temporalio import activity

from activities import epoch as epochs
from activities.beating import beating
from activities.commands import TOLD, run_command
from activities.ssh import run_over_ssh
from activities.ssm import run_over_ssm
from schemas.control import NodeControl, SshControl, SsmControl
from schemas.failures import EpochSuperseded, EpochUnavailable, NodeControlFailed
from schemas.orders import AnyNodeOrder, NodeResult
from schemas.service import Place

SERVES_S = 5.0
"""How long a server's port may stay closed after its start command has returned."""


async def run_on(control: NodeControl, argv: list[str]) -> tuple[int, str]:
    """One command by the control's transport: exit code and the end of its output, 124 at the limit.

    NodeControlFailed, retryable, when the transport itself fails; HostKeyChanged, which isn't.
    """
    match control:
        case SshControl():
            return await run_over_ssh(control, argv)
        case SsmControl():
            return await run_over_ssm(control, argv)
        case _:
            return await run_command(argv, control.timeout_s)


def transport(control: NodeControl) -> str:
    return {"command": "command", "ssh": "SSH", "ssm": "SSM"}[control.kind]


async def port_open(member: Place) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(member.host, member.port), 1.0)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def until_port(member: Place, *, is_open: bool, limit: float) -> bool:
    """Whether the port is as wanted within `limit` seconds."""
    end = asyncio.get_running_loop().time() + limit
    while await port_open(member) != is_open:
        if asyncio.get_running_loop().time() > end:
            return False
        await asyncio.sleep(0.05)
    return True


async def must_be_ours(order: AnyNodeOrder) -> None:
    """EpochSuperseded when another run, or this one's undo, has gone on. A store out of reach keeps nobody from it."""
    if order.zone is None:
        return
    with contextlib.suppress(EpochUnavailable):
        held = await epochs.read(order.zone, order.service.name)
        if held is not None and held.epoch > order.epoch and held.run != order.run:
            raise EpochSuperseded(f"epoch {held.epoch} is held by {held.run}, this run has {order.epoch}")


async def _tell(order: AnyNodeOrder, control: NodeControl, argv: list[str]) -> str:
    """Have one command carried out, if the node is still ours; "", or why it failed."""
    # Before each: the one before may have taken its whole limit, and the node been given back meanwhile.
    await must_be_ours(order)
    async with beating(argv[0]):
        code, output = await run_on(control, argv)
    return "" if code == 0 else f"{argv[0]} … exited {code}: {output[-TOLD:]}"


@activity.defn
async def stop_node(order: AnyNodeOrder) -> NodeResult:
    """Ensure that the server is stopped and stays so: autostart off, the stop command, else the kill, the port closed.

    Whether it is stopped already only the node can say (a closed port may be a network that is cut), so that it is
    always told; its commands may be given twice.
    """
    member = order.service.member(order.member)
    control = member.control
    if control is None:
        return NodeResult(done=False, evidence=f"{member.name} has no node control in the topology")
    returns = ""
    if control.autostart_off is not None:
        try:
            returns = await _tell(order, control, control.autostart_off)
        except NodeControlFailed as error:
            returns = error.detail
    how = f"stopped by {transport(control)}"
    failure = await _stop(order, control)
    if failure and control.kill is not None:
        how = f"killed by {transport(control)} ({failure})"
        failure = await _tell(order, control, control.kill)
    if failure:
        return NodeResult(done=False, evidence=f"{member.name}: {failure}")
    if await port_open(member):
        return NodeResult(done=False, evidence=f"{member.name}: {how}, yet {member.host}:{member.port} is open")
    if returns:
        return NodeResult(done=False, evidence=f"{member.name} is {how}, but may start by itself: {returns}")
    return NodeResult(done=True, evidence=f"{member.name} is {how}, {member.host}:{member.port} is closed")


async def _stop(order: AnyNodeOrder, control: NodeControl) -> str:
    """The stop command; its transport's failure is a failed stop where something harder is left to try."""
    try:
        return await _tell(order, control, control.stop)
    except NodeControlFailed as error:
        if control.kill is None:
            raise
        return error.detail


@activity.defn
async def start_node(order: AnyNodeOrder) -> NodeResult:
    """Start a server that Lifeboat stopped, unless it serves, and let it start by itself again: undo of `stop_node`."""
    member = order.service.member(order.member)
    control = member.control
    if control is None:
        return NodeResult(done=True, evidence=f"{member.name} has no node control, so it was not stopped")
    commands = [control.autostart_on] if await port_open(member) else [control.autostart_on, control.start]
    for argv in commands:
        failure = "" if argv is None else await _tell(order, control, argv)
        if failure:
            raise NodeControlFailed(f"{member.name}: {failure}")
    if not await until_port(member, is_open=True, limit=SERVES_S):
        raise NodeControlFailed(f"{member.name} was started, yet {member.host}:{member.port} is closed")
    return NodeResult(done=True, evidence=f"{member.name} was started by {transport(control)}")
