"""Cutting a member off by the cloud's API, and letting it back: a fence that needs nothing of the node itself."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import activity

from activities import aws
from activities.beating import beating
from activities.node import must_be_ours, until_port
from schemas.control import Isolation, NetworkAclIsolation, StopInstanceIsolation
from schemas.failures import IsolationFailed
from schemas.orders import NodeOrder, NodeResult

PAUSE_S = 0.5
"""Between two looks at what EC2 is still doing."""
CLOSED_S = 5.0
"""How long a new ACL, or a machine that has just gone, may leave the port open."""


@activity.defn
async def isolate_member(order: NodeOrder) -> NodeResult:
    """Ensure that the member is cut off: by AWS's own word, and its port closed as seen from here.

    IsolationFailed says why AWS did not do it; EpochSuperseded when the member may have been given back.
    """
    member = order.service.member(order.member)
    isolation = member.isolation
    if isolation is None:
        return NodeResult(done=False, evidence=f"{member.name} has no isolation in the topology")
    told = await _carry_out(order, isolation, cut=True)
    if not await until_port(member, is_open=False, limit=CLOSED_S):
        return NodeResult(done=False, evidence=f"{member.name}: {told}, yet {member.host}:{member.port} is open")
    return NodeResult(done=True, evidence=f"{member.name} is isolated: {told}")


@activity.defn
async def rejoin_network(order: NodeOrder) -> NodeResult:
    """Let the member back (undo of `isolate_member`), behind the undo's own epoch."""
    member = order.service.member(order.member)
    isolation = member.isolation
    if isolation is None:
        return NodeResult(done=True, evidence=f"{member.name} has no isolation, so it was not cut off")
    return NodeResult(done=True, evidence=f"{member.name}: {await _carry_out(order, isolation, cut=False)}")


async def _carry_out(order: NodeOrder, isolation: Isolation, *, cut: bool) -> str:
    await must_be_ours(order)
    ec2 = aws.client("ec2", isolation.region, isolation.endpoint)
    try:
        async with beating(isolation.kind), asyncio.timeout(isolation.timeout_s):
            if isinstance(isolation, NetworkAclIsolation):
                return await _swap_acl(ec2, order, isolation, cut=cut)
            return await _run_instance(ec2, order, isolation, wanted="stopped" if cut else "running")
    except TimeoutError as error:
        raise IsolationFailed(f"{order.member}, {isolation.kind}: no end within {isolation.timeout_s:g} s") from error
    except aws.FAILED as error:
        raise IsolationFailed(f"{order.member}, {isolation.kind}: {error}") from error


# By network ACL


async def _association(ec2: Any, subnet: str) -> tuple[str, str]:
    """The subnet's association, and the ACL that it is with."""
    found = await aws.call(
        ec2, "describe_network_acls", Filters=[{"Name": "association.subnet-id", "Values": [subnet]}]
    )
    for acl in found["NetworkAcls"]:
        for each in acl["Associations"]:
            if each["SubnetId"] == subnet:
                return each["NetworkAclAssociationId"], each["NetworkAclId"]
    raise IsolationFailed(f"{subnet} is not known, or has no network ACL")


async def _must_deny(ec2: Any, acl: str) -> None:
    found = await aws.call(ec2, "describe_network_acls", NetworkAclIds=[acl])
    allowed = [rule for each in found["NetworkAcls"] for rule in each["Entries"] if rule["RuleAction"] == "allow"]
    if allowed:
        raise IsolationFailed(f"{acl} has {len(allowed)} rules that allow, so it cuts nobody off")


async def _swap_acl(ec2: Any, order: NodeOrder, isolation: NetworkAclIsolation, *, cut: bool) -> str:
    wanted = isolation.deny_acl_id if cut else isolation.network_acl_id
    if cut:
        await _must_deny(ec2, wanted)
    association, current = await _association(ec2, isolation.subnet_id)
    if not cut and current not in (wanted, isolation.deny_acl_id):
        raise IsolationFailed(f"{isolation.subnet_id} has {current}, which is neither of ours, and keeps it")
    if current != wanted:
        await must_be_ours(order)
        await aws.call(ec2, "replace_network_acl_association", AssociationId=association, NetworkAclId=wanted)
        _, current = await _association(ec2, isolation.subnet_id)
    if current != wanted:
        raise IsolationFailed(f"{isolation.subnet_id} has {current} although it was given {wanted}")
    return f"{isolation.subnet_id} has {'the ACL that denies everything' if cut else 'its usual ACL'}, {wanted}"


# By stopping the instance


async def _state(ec2: Any, instance: str) -> str:
    found = await aws.call(ec2, "describe_instances", InstanceIds=[instance])
    return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])


async def _run_instance(ec2: Any, order: NodeOrder, isolation: StopInstanceIsolation, *, wanted: str) -> str:
    """Ensure that the instance is `stopped`, or `running`: told when it is the opposite, else waited for."""
    instance, opposite = isolation.instance_id, "running" if wanted == "stopped" else "stopped"
    while (state := await _state(ec2, instance)) != wanted:
        if state in ("terminated", "shutting-down") and wanted == "running":
            raise IsolationFailed(f"{instance} is {state} and can't be started again")
        if state == "terminated":
            break
        if state == opposite:
            # Before each act: this worker may have stood still while the undo gave the member back.
            await must_be_ours(order)
        if state == opposite and wanted == "stopped":
            await aws.call(ec2, "stop_instances", InstanceIds=[instance], Force=True, SkipOsShutdown=isolation.hard)
        elif state == opposite:
            await aws.call(ec2, "start_instances", InstanceIds=[instance])
        await asyncio.sleep(PAUSE_S)
    return f"EC2 says that {instance} is {state}"
