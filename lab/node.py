"""Node control of the lab, as a topology's commands call it, and the lab's own start and stop of nodes.

`python -m lab.node start|stop|kill|autostart-on|autostart-off LABDIR NODE`: exit 0 once the effect is complete, 1 when
the node does not answer or could not be told, 2 for bad arguments. Each can be repeated. A node that is frozen as a
whole stands for a frozen machine: it does what it is told only once it is thawed.

Standard library and psutil only: a fence waits for this program's start.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from lab import processes
from lab.paths import Folder
from lab.supervise import Supervisor, SupervisorGone

FAST_S = 2.0
"""pg_ctl's `fast`: waits for a hung receiver, so it is given up early."""
IMMEDIATE_S = 1.0
START_S = 8.0
BROKER_START_S = 90.0
"""RabbitMQ takes 5 s of processor time, and its peers may be starting beside it."""


class NodeFailed(Exception):
    """The node could not be told, or did not do it within the limit."""


@dataclass(frozen=True)
class Target:
    """What node control must know of a node."""

    folder: Folder
    name: str
    kind: str
    host: str
    port: int
    pg_bin: Path

    def secret(self, name: str) -> str:
        return self.folder.secret(name).read_text(encoding="utf-8").strip()

    @classmethod
    def read(cls, folder: Folder, name: str) -> Target:
        """From lab.json; KeyError when the lab has no such node."""
        lab = json.loads(folder.lab_file.read_text(encoding="utf-8"))
        nodes = {node["name"]: node for node in lab["nodes"]}
        host, _, port = nodes[name]["address"].partition(":")
        return cls(folder, name, nodes[name]["kind"], host, int(port or 0), Path(lab["pg_bin"]))


def answers(target: Target) -> None:
    """NodeFailed while the node is frozen as a whole."""
    if target.folder.frozen_mark(target.name).exists():
        raise NodeFailed(f"node does not answer: {target.name} is frozen")


def port_open(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=0.5):
            return True
    except OSError:
        return False


def _ready(target: Target) -> bool:
    if not target.port:
        return bool(processes.trees(target.folder, [target.name]))
    if target.kind == "redis":
        return _answers_ping(target)
    if target.kind != "postgresql":
        return port_open(target.host, target.port)
    # pg_isready, since a server that is starting up takes connections long before it takes sessions.
    command = [str(target.pg_bin / "pg_isready"), "-q", "-t", "1", "-h", target.host, "-p", str(target.port)]
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, check=False).returncode == 0


def _answers_ping(target: Target) -> bool:
    """Whether a Redis server has loaded its data: until then it takes connections, and only connections."""
    password = target.secret("cache-referee")
    try:
        with socket.create_connection((target.host, target.port), timeout=0.5) as conn:
            conn.sendall(f"AUTH referee {password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2 and (more := conn.recv(4096)):
                answer += more
    except OSError:
        return False
    return answer.endswith(b"+PONG\r\n")


def start(target: Target, *, limit: float | None = None) -> None:
    """Start the node, and return once it serves; NodeFailed after `limit` seconds."""
    answers(target)
    if target.kind == "host":
        return
    limit = limit or (BROKER_START_S if target.kind == "rabbitmq" else START_S)
    supervisor = Supervisor(target.folder)
    pid = supervisor.start(target.name)
    until = time.monotonic() + limit
    while not _ready(target):
        if time.monotonic() > until:
            raise NodeFailed(f"{target.name} does not serve {limit:.0f} s after its start")
        if pid is None or not processes.is_alive(pid):
            raise NodeFailed(f"{target.name} ended at its start")
        time.sleep(0.02)


def _gone(target: Target, limit: float) -> bool:
    until = time.monotonic() + limit
    while processes.trees(target.folder, [target.name]):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def stop(target: Target) -> None:
    """Ensure that the node is stopped: asked first, then told, then killed; no PID file and the port closed."""
    answers(target)
    if target.kind == "host":
        processes.kill(target.folder, target.name)
        return
    supervisor = Supervisor(target.folder)
    if target.kind == "postgresql":
        _stop_postgres(target, supervisor.process(target.name).pid)
    else:
        supervisor.stop(target.name)
    processes.kill(target.folder, target.name)
    (target.folder.data(target.name) / "postmaster.pid").unlink(missing_ok=True)
    if target.port and port_open(target.host, target.port):
        raise NodeFailed(f"{target.name} is stopped, yet {target.host}:{target.port} is open")


def kill(target: Target) -> None:
    """SIGKILL the node's whole process tree: what is left when a stop fails or hangs."""
    answers(target)
    processes.kill(target.folder, target.name)
    (target.folder.data(target.name) / "postmaster.pid").unlink(missing_ok=True)


def _stop_postgres(target: Target, pid: int | None) -> None:
    if pid is None:
        return
    for number, limit in ((signal.SIGINT, FAST_S), (signal.SIGQUIT, IMMEDIATE_S)):
        try:
            psutil.Process(pid).send_signal(number)
        except psutil.NoSuchProcess:
            return
        if _gone(target, limit):
            return


def main(argv: list[str] | None = None) -> int:
    """The command; prints what happened."""
    given = sys.argv[1:] if argv is None else argv
    verbs = ("start", "stop", "kill", "autostart-on", "autostart-off")
    if len(given) != 3 or given[0] not in verbs:
        print(f"usage: lab.node {'|'.join(verbs)} LABDIR NODE", file=sys.stderr)
        return 2
    verb, folder, name = given[0], Folder(Path(given[1])), given[2]
    try:
        target = Target.read(folder, name)
    except (OSError, KeyError) as error:
        print(f"{folder.root} has no node {name}: {error}", file=sys.stderr)
        return 2
    try:
        if verb == "start":
            start(target)
        elif verb == "stop":
            stop(target)
        elif verb == "kill":
            kill(target)
        else:
            answers(target)
            mark = folder.autostart_mark(name)
            if verb == "autostart-off":
                mark.touch()
            else:
                mark.unlink(missing_ok=True)
    except (NodeFailed, SupervisorGone, processes.StillRunning) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{name}: {verb} done")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
