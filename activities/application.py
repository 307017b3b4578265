"""An application's own configuration: a file and a command that takes it up, or a webhook."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import string
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
from temporalio import activity

from activities.beating import beating
from activities.commands import TOLD, run_command
from activities.files import replace_file
from activities.posting import headers, why
from activities.secrets import resolve
from schemas.failures import EpochSuperseded, NodeControlFailed, NotYet, RouteUnavailable
from schemas.orders import FileOrder, HookOrder, ProofResult, RouteOrder
from schemas.routes import FileRoute, WebhookRoute


def _values(order: RouteOrder) -> dict[str, str]:
    member = order.service.member(order.target)
    return {
        "host": member.host,
        "port": str(member.port),
        "member": member.name,
        "service": order.service.name,
        "epoch": str(order.epoch),
    }


# The file


@contextlib.contextmanager
def _mark(route: FileRoute) -> Iterator[Path]:
    """The note beside the file of which epoch wrote it and whether it was taken up, held against other workers."""
    lock = Path(f"{route.path}.lifeboat-lock")
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RouteUnavailable(f"{route.name}: {lock}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RouteUnavailable(f"{route.name}: another worker is writing {route.path}") from None
        yield Path(f"{route.path}.lifeboat")
    finally:
        os.close(handle)


def _noted(note: Path, route: FileRoute) -> tuple[int, bool]:
    """Epoch, and whether the file was taken up; (0, False) when nobody has written it yet."""
    try:
        epoch, _, taken_up = note.read_text(encoding="utf-8").strip().partition(" ")
        return int(epoch), taken_up == "taken up"
    except FileNotFoundError:
        return 0, False
    except ValueError as error:
        told = f"{note} says no epoch, so nobody knows who wrote {route.path} last; its owner must remove it"
        raise RouteUnavailable(f"{route.name}: {told}") from error


@activity.defn
async def write_configuration(order: FileOrder) -> ProofResult:
    """The file says who leads, and the application has taken it up. EpochSuperseded if a newer epoch has written it."""
    route, values = order.route, _values(order)
    path, text = Path(route.path), string.Template(route.template).substitute(values)
    with _mark(route) as note:
        epoch, taken_up = _noted(note, route)
        if epoch > order.epoch:
            raise EpochSuperseded(f"{route.name} is at epoch {epoch}, this run at {order.epoch}")
        try:
            same = path.exists() and path.read_bytes() == text.encode()
            if not (same and taken_up and epoch == order.epoch):
                await asyncio.to_thread(replace_file, note, f"{order.epoch}\n")
                await asyncio.to_thread(replace_file, path, text)
                await _run(route, route.reload, values, RouteUnavailable)
                await asyncio.to_thread(replace_file, note, f"{order.epoch} taken up\n")
        except OSError as error:
            raise RouteUnavailable(f"{route.name}: {error.filename or route.path}: {error.strerror}") from error
    if route.confirm is not None:
        await _run(route, route.confirm, values, NotYet)
    proof = "and was confirmed" if route.confirm else "and was reloaded"
    return ProofResult(acknowledged=True, evidence=f"{route.name}: {route.path} names {order.target} {proof}")


async def _run(
    route: FileRoute, command: list[str], values: dict[str, str], failure: type[RouteUnavailable] | type[NotYet]
) -> None:
    argv = [string.Template(part).substitute(values) for part in command]
    async with beating(argv[0]):
        try:
            code, output = await run_command(argv, route.timeout_s)
        except NodeControlFailed as error:
            raise RouteUnavailable(f"{route.name}: {error.detail}") from error
    if code != 0:
        raise failure(f"{route.name}: {' '.join(argv)} exited {code}: {output[-TOLD:]}")


# The webhook


async def read_hook(route: WebhookRoute) -> None:
    """Ask the application who leads, where it can be asked; RouteUnavailable when it doesn't say."""
    if route.confirm_url is not None:
        async with httpx.AsyncClient(timeout=route.timeout_s, trust_env=False) as client:
            await _said(client, route, route.confirm_url)


@activity.defn
async def tell_application(order: HookOrder) -> ProofResult:
    """The application was told who leads, and says so itself where it can be asked."""
    route = order.route
    # Neither proxies nor credentials of the environment: the topology alone says where it goes.
    async with (
        beating(f"telling {route.name}"),
        httpx.AsyncClient(timeout=route.timeout_s, trust_env=False) as client,
    ):
        if not await _uses_it(client, order):
            await _tell(client, order)
            if route.confirm_url is not None and not await _uses_it(client, order):
                raise NotYet(f"{route.name} was told of {order.target}, and does not use it yet")
    said = "says that it uses" if route.confirm_url else "was told of"
    return ProofResult(acknowledged=True, evidence=f"{route.name} {said} {order.target}")


async def _uses_it(client: httpx.AsyncClient, order: HookOrder) -> bool:
    """By the application's own word; False where it can't be asked."""
    route = order.route
    if route.confirm_url is None:
        return False
    epoch, leader = await _said(client, route, route.confirm_url)
    if epoch > order.epoch:
        raise EpochSuperseded(f"{route.name} is at epoch {epoch}, this run at {order.epoch}")
    return (epoch, leader) == (order.epoch, order.target)


async def _said(client: httpx.AsyncClient, route: WebhookRoute, confirm_url: str) -> tuple[int, str]:
    """Epoch and leader, by the application's own word."""
    try:
        answer = (await client.get(confirm_url)).raise_for_status().json()
        return int(answer["epoch"]), str(answer["leader"])
    except httpx.HTTPError as error:
        raise _unavailable(route, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RouteUnavailable(f"{route.name}: {confirm_url} does not answer {{epoch, leader}}") from error


async def _tell(client: httpx.AsyncClient, order: HookOrder) -> None:
    route, values = order.route, _values(order)
    body = json.dumps(values | {"port": int(values["port"]), "epoch": order.epoch, "leader": order.target}).encode()
    key = f"{order.service.name}/{order.epoch}/{order.target}"
    signed = headers(key, resolve(route.secret), datetime.now(UTC), body)
    try:
        answer = await client.post(route.url, content=body, headers=signed)
        if answer.status_code == httpx.codes.CONFLICT:
            raise EpochSuperseded(f"{route.name} knows a newer epoch than {order.epoch}")
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise _unavailable(route, error) from error


def _unavailable(route: WebhookRoute, error: httpx.HTTPError) -> RouteUnavailable:
    return RouteUnavailable(f"{route.name}: {why(error)}")
