"""Faults, on a node's whole process tree. Whatever the product may do to a node goes through lab/node.py instead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, get_args

import psutil

from lab import network, node, processes
from lab.errors import LabError, NodeRefused, NodeSilent
from lab.model import Lab
from lab.supervise import Supervisor, SupervisorGone

Action = Literal["kill", "freeze", "thaw", "stop", "start"]
ACTIONS: tuple[str, ...] = get_args(Action)


def _pid(lab: Lab, name: str) -> int | None:
    if lab.node(name).kind == "host":
        return None
    return Supervisor(lab.paths).process(name).pid


def kill(lab: Lab, name: str) -> str:
    """SIGKILL everything that runs on the node. Temporal and the workers are started again by the supervisor."""
    lab.node(name)
    count = processes.kill(lab.paths, name)
    lab.paths.frozen_mark(name).unlink(missing_ok=True)
    return f"{name}: {count} processes killed"


def freeze(lab: Lab, name: str, *, postmaster_only: bool = False) -> str:
    """SIGSTOP everything on the node, whose control then doesn't answer either; or its main process alone."""
    pid, idle = _pid(lab, name), lab.node(name).kind != "host" and not processes.trees(lab.paths, [name])
    if pid is None and (postmaster_only or idle):
        raise LabError(f"{name} does not run, so it can't be frozen")
    if postmaster_only and pid is not None:
        processes.freeze_one(pid)
        return f"{name}: its main process is frozen, its sessions go on"
    lab.paths.frozen_mark(name).touch()
    return f"{name}: {processes.freeze(lab.paths, name)} processes frozen"


def thaw(lab: Lab, name: str) -> str:
    """SIGCONT everything on the node; nothing to do when nothing is frozen."""
    lab.node(name)
    count = processes.thaw(lab.paths, name)
    lab.paths.frozen_mark(name).unlink(missing_ok=True)
    return f"{name}: {count} processes thawed"


def stop(lab: Lab, name: str) -> str:
    """An orderly stop, as by the node's owner; Temporal and workers then stay down until they are started."""
    lab.node(name)
    _told(node.stop, lab, name)
    return f"{name}: stopped"


def start(lab: Lab, name: str, *, force: bool = False) -> str:
    """The node returns by itself, as a machine that boots; NodeRefused while Lifeboat holds its autostart off."""
    lab.node(name)
    if lab.paths.autostart_mark(name).exists() and not force:
        raise NodeRefused(name)
    _told(node.start, lab, name)
    return f"{name}: started"


def _told(verb: Callable[[node.Target], None], lab: Lab, name: str) -> None:
    try:
        verb(node.Target.read(lab.paths, name))
    except node.NodeFailed as error:
        if lab.paths.frozen_mark(name).exists():
            raise NodeSilent(name) from error
        raise LabError(str(error)) from error


async def fault(lab: Lab, action: str, name: str, *, postmaster_only: bool = False, force: bool = False) -> str:
    """Inject one fault of ACTIONS; returns what was done. LabError says why it could not be."""

    def inject() -> str:
        match action:
            case "kill":
                return kill(lab, name)
            case "freeze":
                return freeze(lab, name, postmaster_only=postmaster_only)
            case "thaw":
                return thaw(lab, name)
            case "stop":
                return stop(lab, name)
            case "start":
                return start(lab, name, force=force)
        raise LabError(f"{action} is no fault; one of: {', '.join(ACTIONS)}")

    try:
        return await asyncio.to_thread(inject)
    except (processes.StillRunning, psutil.NoSuchProcess, SupervisorGone) as error:
        raise LabError(f"{action} {name}: {error}") from error


async def partition(lab: Lab, a: str, b: str, *, one_way: bool = False) -> str:
    """Cut nodes or regions off from each other; NoNamespaces unless the lab was started with --netns."""
    await asyncio.to_thread(network.partition, lab, a, b, one_way=one_way)
    return f"{a} no longer reaches {b}" if one_way else f"{a} and {b} no longer reach each other"


async def heal(lab: Lab) -> str:
    """End every partition, and thaw every node that is frozen; what was killed or stopped stays down."""
    count = await asyncio.to_thread(processes.thaw, lab.paths, *(each.name for each in lab.nodes))
    for each in lab.nodes:
        lab.paths.frozen_mark(each.name).unlink(missing_ok=True)
    await asyncio.to_thread(network.heal, lab)
    return f"healed; {count} processes thawed"
