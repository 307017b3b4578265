"""A node's whole process tree: PostgreSQL's backends have sessions of their own, and outlive a killed postmaster.

A process belongs to a node when it works in the node's folder, where every program of the lab is started and stays,
or descends from the node's main process; and in either case descends from the lab's supervisor, which as a subreaper
inherits the orphans. A person's shell in that folder doesn't.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable

import psutil

from lab.paths import Folder

LIMIT_S = 5.0
"""How long a signal may take to have its effect; a process in a disk wait acts on it later."""

_DEAD = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


class StillRunning(Exception):
    """Processes did not take a signal within the limit."""


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie doesn't."""
    try:
        return process.is_running() and process.status() not in _DEAD
    except psutil.NoSuchProcess:
        return False


def supervisor(paths: Folder) -> psutil.Process | None:
    """The lab's supervisord, or None when it does not run."""
    try:
        process = psutil.Process(int(paths.supervisor_pid.read_text(encoding="ascii")))
        found = is_alive(process) and str(paths.supervisor_conf) in process.cmdline()
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None
    return process if found else None


def _works_in(process: psutil.Process, folder: str) -> bool:
    try:
        cwd = os.readlink(f"/proc/{process.pid}/cwd")
    except OSError:  # gone, or a zombie
        return False
    return cwd == folder or cwd.startswith(folder + "/")


def _candidates(paths: Folder) -> list[psutil.Process]:
    found = supervisor(paths)
    if found is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            return found.children(recursive=True)
    # Whoever ended the supervisor left its children to another: those without a terminal are ours.
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _no_terminal(process)]


def _no_terminal(process: psutil.Process) -> bool:
    try:
        return process.terminal() is None
    except psutil.Error:
        return False


def tree(paths: Folder, name: str, pid: int | None = None) -> list[psutil.Process]:
    """Living processes of node `name`, whose main process is `pid`; the main process first."""
    folder = str(paths.node(name))
    found: dict[int, psutil.Process] = {}
    if pid:
        with contextlib.suppress(psutil.NoSuchProcess):
            main = psutil.Process(pid)
            found[pid] = main
            found |= {child.pid: child for child in main.children(recursive=True)}
    found |= {each.pid: each for each in _candidates(paths) if each.pid not in found and _works_in(each, folder)}
    found.pop(os.getpid(), None)
    return [process for process in found.values() if is_alive(process)]


def _send(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False


def _until_quiet(paths: Folder, name: str, pid: int | None, number: int) -> int:
    """Signal the tree, main process first, again until all of it shows the effect. Returns how many took it."""
    until = time.monotonic() + LIMIT_S
    seen: set[int] = set()
    while True:
        left = tree(paths, name, pid)
        if number == signal.SIGSTOP:
            left = [process for process in left if not _is_stopped(process)]
        if not left:
            return len(seen)
        if time.monotonic() > until:
            raise StillRunning(f"{name}: processes {[each.pid for each in left]} run on after {LIMIT_S:.0f} s")
        seen |= {process.pid for process in left}
        _send(left, number)
        time.sleep(0.002)


def kill(paths: Folder, name: str, pid: int | None = None) -> int:
    """SIGKILL the whole tree, and return once nothing of it is left."""
    return _until_quiet(paths, name, pid, signal.SIGKILL)


def freeze(paths: Folder, name: str, pid: int | None = None) -> int:
    """SIGSTOP the whole tree, and return once every process of it is seen stopped."""
    return _until_quiet(paths, name, pid, signal.SIGSTOP)


def thaw(paths: Folder, name: str, pid: int | None = None) -> int:
    """SIGCONT every stopped process of the tree."""
    stopped = [process for process in tree(paths, name, pid) if _is_stopped(process)]
    _send(stopped, signal.SIGCONT)
    return len(stopped)


def freeze_one(pid: int) -> None:
    """SIGSTOP one process alone, and return once it is seen stopped."""
    process = psutil.Process(pid)
    until = time.monotonic() + LIMIT_S
    while not _is_stopped(process):
        if not is_alive(process) or time.monotonic() > until:
            raise StillRunning(f"process {pid} was not stopped")
        _send([process], signal.SIGSTOP)
        time.sleep(0.002)


def any_stopped(paths: Folder, name: str, pid: int | None = None) -> bool:
    return any(_is_stopped(process) for process in tree(paths, name, pid))


def until_gone(process: psutil.Process) -> None:
    """Wait until the process has ended; SIGKILL it when it does not within LIMIT_S."""
    until = time.monotonic() + LIMIT_S
    while is_alive(process):
        if time.monotonic() > until:
            _send([process], signal.SIGKILL)
        time.sleep(0.02)
