"""Faults: on a node's whole process tree, again until nothing new runs (a postmaster's backends have own sessions)."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterable

import psutil

from lab import supervise
from lab.model import Lab, LabNode


class FaultRefused(RuntimeError):
    """The fault can't be made."""


def processes(lab: Lab, node: LabNode) -> list[psutil.Process]:
    """Every process of the node. A PostgreSQL process stands in its data folder, whoever its parent is by now."""
    found: dict[int, psutil.Process] = {}
    pid = supervise.pids(lab.folder).get(node.name, 0)
    if pid:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                found[process.pid] = process
    if node.kind == "postgres":
        data = str(lab.data(node.name))
        for process in psutil.process_iter(["cwd", "status"]):
            if process.info["cwd"] == data and process.info["status"] != psutil.STATUS_ZOMBIE:
                found[process.pid] = process
    return list(found.values())


def _send(targets: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in targets:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _until_nothing_new(lab: Lab, node: LabNode, number: signal.Signals) -> int:
    """Signal every process, again until a look finds none that was not signalled; how many there were."""
    signalled: set[int] = set()
    for _ in range(100):
        fresh = [process for process in processes(lab, node) if process.pid not in signalled]
        if not fresh:
            return len(signalled)
        _send(fresh, number)
        signalled |= {process.pid for process in fresh}
    raise FaultRefused(f"{node.name} starts processes faster than they can be signalled")


def kill(lab: Lab, name: str) -> int:
    """SIGKILL to the whole node."""
    node = lab.node(name)
    mark(lab, name, "frozen", False)
    count = _until_nothing_new(lab, node, signal.SIGKILL)
    until = time.monotonic() + 5
    while processes(lab, node) and node.kind == "postgres" and time.monotonic() < until:
        time.sleep(0.005)
    return count


def freeze(lab: Lab, name: str, *, postmaster_only: bool = False) -> int:
    """SIGSTOP to the whole node, or to its first process alone. A node frozen whole doesn't answer its control either."""
    node = lab.node(name)
    if postmaster_only:
        pid = supervise.pids(lab.folder).get(name, 0)
        if not pid:
            raise FaultRefused(f"{name} is not running")
        _send([psutil.Process(pid)], signal.SIGSTOP)
        return 1
    mark(lab, name, "frozen", True)
    return _until_nothing_new(lab, node, signal.SIGSTOP)


def thaw(lab: Lab, name: str) -> int:
    """SIGCONT to the whole node."""
    count = _until_nothing_new(lab, lab.node(name), signal.SIGCONT)
    mark(lab, name, "frozen", False)
    return count


def stop(lab: Lab, name: str) -> None:
    """An orderly stop, as by a person on the node."""
    supervise.stop(lab.folder, name)


def start(lab: Lab, name: str) -> None:
    """The node comes back by itself, as after a reboot; refused while its autostart is off."""
    if marked(lab, name, "autostart-off"):
        raise FaultRefused(f"the autostart of {name} is off; use --force to start it all the same")
    supervise.start(lab.folder, name)


def mark(lab: Lab, name: str, what: str, on: bool) -> None:
    path = lab.marks / f"{name}.{what}"
    if on:
        path.touch()
    else:
        path.unlink(missing_ok=True)


def marked(lab: Lab, name: str, what: str) -> bool:
    return (lab.marks / f"{name}.{what}").exists()
