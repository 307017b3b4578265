"""A node's whole process tree: PostgreSQL's backends have sessions of their own, and outlive a killed postmaster.

A process belongs to a node when it works in the node's folder, where every program of the lab is started and stays,
or descends from one that does; and in either case descends from the lab's supervisor, which as a subreaper inherits
the orphans. A person's shell in that folder doesn't. What archives in the background leaves the folder for `/`, and is
known by the node's files that it names.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from lab.paths import Folder

LIMIT_S = 5.0
"""How long a signal may take to have its effect; a process in a disk wait acts on it later."""

_DEAD = "ZX"
_STOPPED = "Tt"


class StillRunning(Exception):
    """Processes did not take a signal within the limit."""


@dataclass(frozen=True)
class _Seen:
    """A line of /proc/PID/stat (proc_pid_stat(5)); `terminal` is its tty_nr, 0 for none."""

    pid: int
    state: str
    parent: int
    terminal: int


def _look(pid: int | str) -> _Seen | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name in parentheses may hold anything, so the last one counts.
            state, parent, _, _, terminal = file.read().rpartition(")")[2].split()[:5]
    except (OSError, ValueError):
        return None
    return _Seen(int(pid), state, int(parent), int(terminal))


def _all() -> dict[int, _Seen]:
    """Every living process. One pass over /proc: a kill must not take longer than the machine's own death."""
    found = (_look(name) for name in os.listdir("/proc") if name.isdigit())
    return {each.pid: each for each in found if each is not None and each.state not in _DEAD}


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie doesn't."""
    seen = _look(pid)
    return seen is not None and seen.state not in _DEAD


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped by a signal."""
    seen = _look(pid)
    return seen is not None and seen.state in _STOPPED


def supervisor(paths: Folder) -> psutil.Process | None:
    """The lab's supervisord, or None when it does not run."""
    try:
        process = psutil.Process(int(paths.supervisor_pid.read_text(encoding="ascii")))
        found = is_alive(process.pid) and str(paths.supervisor_conf) in process.cmdline()
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None
    return process if found else None


def _descendants(seen: dict[int, _Seen], ancestors: Iterable[int]) -> list[int]:
    """The ancestors that are there and all that descend from them, parents first."""
    children: dict[int, list[int]] = {}
    for each in seen.values():
        children.setdefault(each.parent, []).append(each.pid)
    found: dict[int, None] = {}
    queue = [pid for pid in ancestors if pid in seen]
    while queue:
        pid = queue.pop(0)
        if pid not in found:
            found[pid] = None
            queue += children.get(pid, [])
    return list(found)


def _works_in(pid: int, folders: Collection[str]) -> bool:
    try:
        cwd = os.readlink(f"/proc/{pid}/cwd") + "/"
    except OSError:  # gone meanwhile, or another user's
        return False
    if cwd != "//":
        return any(cwd.startswith(f"{folder}/") for folder in folders)
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            named = file.read()
    except OSError:
        return False
    return any(f"{folder}/" in named for folder in folders)


def _candidates(paths: Folder, seen: dict[int, _Seen]) -> list[int]:
    found = supervisor(paths)
    if found is not None:
        return _descendants(seen, [found.pid])[1:]
    # Whoever ended the supervisor left its children to another: those without a terminal are ours.
    return [each.pid for each in seen.values() if not each.terminal]


def trees(paths: Folder, names: Collection[str]) -> list[int]:
    """Ids of the living processes of the nodes `names`, main processes first."""
    seen = _all()
    folders = [str(paths.node(name)) for name in names]
    working = [pid for pid in _candidates(paths, seen) if _works_in(pid, folders)]
    return [pid for pid in _descendants(seen, working) if pid != os.getpid()]


def tree(paths: Folder, name: str, pid: int | None = None) -> list[psutil.Process]:
    """Living processes of one node; `pid`, its main process where that is known, comes first."""
    found: list[psutil.Process] = []
    for each in sorted(trees(paths, [name]), key=lambda each: each != pid):
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(each))
    return found


def _send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _until_quiet(paths: Folder, names: Collection[str], number: int) -> set[int]:
    """Signal the trees, again until all of them show the effect. Returns the processes that took it."""
    until = time.monotonic() + LIMIT_S
    taken: set[int] = set()
    while True:
        left = trees(paths, names)
        if number == signal.SIGSTOP:
            left = [pid for pid in left if not is_stopped(pid)]
        if not left:
            return taken
        if time.monotonic() > until:
            raise StillRunning(f"{', '.join(names)}: processes {left} run on after {LIMIT_S:.0f} s")
        taken |= set(left)
        _send(left, number)
        time.sleep(0.002)


def kill(paths: Folder, *names: str) -> int:
    """SIGKILL the whole trees, and return once nothing of them is left, nor of their shared memory."""
    killed = _until_quiet(paths, names, signal.SIGKILL)
    _forget_memory(killed)
    return len(killed)


def _forget_memory(killed: set[int]) -> None:
    """System V segments outlive a process that is killed: a Pgpool-II would leave 134 MB behind each time."""
    with suppress(OSError), open("/proc/sysvipc/shm", encoding="ascii") as file:
        for line in file.readlines()[1:]:
            _, segment, _, _, creator, _, attached = line.split()[:7]
            if int(creator) in killed and attached == "0":
                subprocess.run(["ipcrm", "--shmem-id", segment], check=False, capture_output=True)


def freeze(paths: Folder, *names: str) -> int:
    """SIGSTOP the whole trees, and return once every process of them is seen stopped."""
    return len(_until_quiet(paths, names, signal.SIGSTOP))


def thaw(paths: Folder, *names: str) -> int:
    """SIGCONT every stopped process of the trees."""
    stopped = [pid for pid in trees(paths, names) if is_stopped(pid)]
    _send(stopped, signal.SIGCONT)
    return len(stopped)


def freeze_one(pid: int) -> None:
    """SIGSTOP one process alone, and return once it is seen stopped."""
    until = time.monotonic() + LIMIT_S
    while not is_stopped(pid):
        if not is_alive(pid) or time.monotonic() > until:
            raise StillRunning(f"process {pid} was not stopped")
        _send([pid], signal.SIGSTOP)
        time.sleep(0.002)


def until_gone(process: psutil.Process) -> None:
    """Wait until the process has ended; SIGKILL it when it does not within LIMIT_S."""
    until = time.monotonic() + LIMIT_S
    while process.is_running() and is_alive(process.pid):
        if time.monotonic() > until:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.02)
