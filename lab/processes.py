"""A node's whole process tree: PostgreSQL's backends have sessions of their own, and outlive a killed postmaster.

A process belongs to a node when it descends from the node's main process, or works in the node's folder: every
program of the lab is started there, and PostgreSQL stays in its data folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

LIMIT_S = 5.0
"""How long a signal may take to have its effect; a process in a disk wait acts on it later."""

_DEAD = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


class StillRunning(Exception):
    """Processes did not take a signal within the limit."""


def _works_in(pid: int, folder: str) -> bool:
    try:
        cwd = os.readlink(f"/proc/{pid}/cwd")
    except OSError:  # gone, a zombie, or another user's
        return False
    return cwd == folder or cwd.startswith(folder + "/")


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() not in _DEAD
    except psutil.NoSuchProcess:
        return False


def tree(folder: Path, pid: int | None = None) -> list[psutil.Process]:
    """Living processes of the node in `folder`, whose main process is `pid`; the main process first."""
    found: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        if pid:
            main = psutil.Process(pid)
            found[pid] = main
            found |= {child.pid: child for child in main.children(recursive=True)}
    where = str(folder)
    for each in psutil.pids():
        if each not in found and each != os.getpid() and _works_in(each, where):
            with contextlib.suppress(psutil.NoSuchProcess):
                found[each] = psutil.Process(each)
    return [process for process in found.values() if _alive(process)]


def _send(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _stopped(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_STOPPED, *_DEAD)
    except psutil.NoSuchProcess:
        return True


def _until_quiet(folder: Path, pid: int | None, number: int, *, freeze: bool) -> int:
    """Send the signal to the tree, main process first, again until nothing new appears. Returns how many took it."""
    until = time.monotonic() + LIMIT_S
    seen: set[int] = set()
    while True:
        left = [process for process in tree(folder, pid) if not (freeze and _stopped(process))]
        if not left:
            return len(seen)
        if time.monotonic() > until:
            raise StillRunning(f"{len(left)} processes of {folder.name} run on: {[p.pid for p in left]}")
        seen |= {process.pid for process in left}
        _send(left, number)
        time.sleep(0.002)


def kill(folder: Path, pid: int | None = None) -> int:
    """SIGKILL the whole tree and wait until nothing of it is left."""
    return _until_quiet(folder, pid, signal.SIGKILL, freeze=False)


def freeze(folder: Path, pid: int | None = None) -> int:
    """SIGSTOP the whole tree, until every process of it is seen stopped."""
    return _until_quiet(folder, pid, signal.SIGSTOP, freeze=True)


def thaw(folder: Path, pid: int | None = None) -> int:
    """SIGCONT every stopped process of the tree."""
    stopped = [process for process in tree(folder, pid) if _stopped(process)]
    _send(stopped, signal.SIGCONT)
    return len(stopped)


def any_stopped(folder: Path, pid: int | None = None) -> bool:
    return any(_stopped(process) for process in tree(folder, pid))
