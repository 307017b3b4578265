"""Commands by AWS Systems Manager: sent, then asked after until their status is final, within one limit for all."""

from __future__ import annotations

import asyncio
import contextlib
import math
import shlex
from typing import Any

from botocore.exceptions import BotoCoreError

from activities import aws
from activities.commands import KEPT, TIMED_OUT
from schemas.control import SsmControl
from schemas.failures import NodeControlFailed

DELIVERY_S = 30
"""A command that has not begun by then never does; SendCommand takes no less."""
FIRST_S, LONGEST_S, GROWTH = 0.1, 1.0, 1.5
"""Seconds between two calls: at first, at most, and by how much they grow."""
CANCEL_S = 3.0


async def run_over_ssm(control: SsmControl, argv: list[str]) -> tuple[int, str]:
    """Exit code and the end of what it printed; TIMED_OUT when it had not ended at its limit, and is cancelled then.

    NodeControlFailed when AWS refuses, or could not deliver it. A retry sends it again, which is harmless: node
    control's commands may be given twice.
    """
    ssm = aws.client("ssm", control.region, control.endpoint)
    command = ""
    try:
        async with asyncio.timeout(control.timeout_s):
            command = await _send(ssm, control, argv)
            return await _end_of(ssm, control, command)
    except TimeoutError:
        if command:
            await _cancel(ssm, control, command)
        return TIMED_OUT, f"{'no end' if command else 'not sent'} within {control.timeout_s:g} s"
    except aws.FAILED as error:
        raise NodeControlFailed(f"SSM, {control.instance_id}: {error}") from error


async def _send(ssm: Any, control: SsmControl, argv: list[str]) -> str:
    """The command's id. AWS's throttling is waited out; a refusal is not."""
    pause = FIRST_S
    while True:
        try:
            sent = await aws.call(
                ssm,
                "send_command",
                InstanceIds=[control.instance_id],
                DocumentName=control.document,
                TimeoutSeconds=DELIVERY_S,
                Parameters={
                    "commands": [shlex.join(argv)],
                    "executionTimeout": [str(math.ceil(control.timeout_s))],
                },
                Comment="lifeboat",
            )
        except aws.FAILED as error:
            if aws.code_of(error) not in aws.THROTTLED:
                raise
            pause = await _wait(pause)
        else:
            return str(sent["Command"]["CommandId"])


async def _end_of(ssm: Any, control: SsmControl, command: str) -> tuple[int, str]:
    pause = FIRST_S
    while True:
        try:
            seen = await aws.call(ssm, "get_command_invocation", CommandId=command, InstanceId=control.instance_id)
        except BotoCoreError:
            pass  # No answer says nothing about the command; there is a limit for all.
        except aws.FAILED as error:
            # It is not known everywhere at once.
            if aws.code_of(error) not in {*aws.THROTTLED, "InvocationDoesNotExist"}:
                raise
        else:
            ended = _ended(control, seen)
            if ended is not None:
                return ended
        pause = await _wait(pause)


def _ended(control: SsmControl, seen: dict[str, Any]) -> tuple[int, str] | None:
    """None while it goes on. A code below 0 means that it was never run."""
    status, details = str(seen["Status"]), str(seen.get("StatusDetails") or seen["Status"])
    code = int(seen.get("ResponseCode", -1))
    output = "\n".join(str(seen.get(key) or "") for key in ("StandardOutputContent", "StandardErrorContent"))
    if status == "Success" or (status == "Failed" and code >= 0):
        return code, output.strip()[-KEPT:]
    if status == "TimedOut" and details.replace(" ", "") == "ExecutionTimedOut":
        return TIMED_OUT, f"ended by SSM after {control.timeout_s:g} s"
    if status in ("Failed", "TimedOut", "Cancelled"):
        raise NodeControlFailed(f"SSM, {control.instance_id}: {details}")
    return None


async def _cancel(ssm: Any, control: SsmControl, command: str) -> None:
    """It must not be delivered late, when the node may have been given back. As far as AWS obeys."""
    with contextlib.suppress(TimeoutError, *aws.FAILED):
        async with asyncio.timeout(CANCEL_S):
            await aws.call(ssm, "cancel_command", CommandId=command, InstanceIds=[control.instance_id])


async def _wait(pause: float) -> float:
    await asyncio.sleep(pause)
    return min(pause * GROWTH, LONGEST_S)
